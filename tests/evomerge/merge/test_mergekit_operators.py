"""Every operator of mergekit 0.1.5 against the numbers that it gives; see tests/golden/README.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from evomerge.merge.methods import METHODS
from evomerge.testing.merging import merge_tensors

GOLDEN = Path(__file__).parents[2] / "golden" / "mergekit"
TENSORWISE = {"scope": "tensor", "sign_ties": "positive"}
SIGNED = {"sign_ties": "positive", "divisor": "signed"}
PAIR = {"weight": {"a": 0.5, "b": 1.25}}
BAND_ABC = {"density": {"a": 0.61, "b": 0.37, "c": 0.95}, "gamma": {"a": 0.1, "b": 0.03, "c": 0.2}}
BAND_ABD = {"density": {"a": 0.61, "b": 0.37, "d": 0.95}, "gamma": {"a": 0.1, "b": 0.03, "d": 0.01}}
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ties_rescaled": (
        "ties",
        "ab",
        PAIR | TENSORWISE | {"density": {"a": 0.3, "b": 0.55}, "rescale": "l1"},
    ),
    "ties_signed": (
        "ties",
        "abd",
        TENSORWISE | SIGNED | {"weight": {"a": 0.5, "b": -0.7, "d": 1.0}, "density": {"a": 0.5, "b": 0.5, "d": 1.0}},
    ),
    "breadcrumbs": ("breadcrumbs", "abc", {"weight": {"a": 0.5, "b": 1.25, "c": 1.0}, "lambda": 0.8, **BAND_ABC}),
    "breadcrumbs_rescaled": (
        "breadcrumbs",
        "ab",
        PAIR | {"density": {"a": 0.6, "b": 1.0}, "gamma": {"a": 0.0, "b": 0.3}} | {"normalize": True, "rescale": "l1"},
    ),
    "breadcrumbs_ties": (
        "breadcrumbs_ties",
        "abd",
        SIGNED | BAND_ABD | {"weight": {"a": 0.5, "b": 1.25, "d": 0.7}, "normalize": True},
    ),
    "sce": ("sce", "abd", {"select_topk": 0.3, "energy_floor": 1e-6}),
    "sce_all": ("sce", "ac", {"select_topk": 1.0, "energy_floor": 1e-6}),
    "model_stock": ("model_stock", "abe", {"norm_floor": 1e-6}),
    "model_stock_filters": ("model_stock", "ade", {"norm_floor": 1e-6, "filter_wise": True}),
    "karcher": ("karcher", "abd", {}),
    "karcher_short": ("karcher", "abe", {"max_iter": 1.0, "tol": 1e-3}),
    "multislerp": ("multislerp", "abd", {"weight": {"a": 0.5, "b": 1.25, "d": 0.8}}),
    "multislerp_base": (
        "multislerp",
        "abd",
        {"weight": {"a": 0.5, "b": 1.25, "d": -0.3}, "normalize_weights": False, "origin": "base"},
    ),
    "nuslerp": ("nuslerp", "ab", PAIR),
    "nuslerp_base": ("nuslerp", "ab", PAIR | {"origin": "base"}),
    "nuslerp_last": ("nuslerp", "ab", PAIR | {"nuslerp_flatten": False}),
    "nuslerp_first": (
        "nuslerp",
        "ab",
        PAIR | {"nuslerp_flatten": False, "nuslerp_row_wise": True, "origin": "base"},
    ),
    "nearswap": ("nearswap", "a", {"t": 0.02}),
    "arcee_fusion": ("arcee_fusion", "a", {}),
    "ram": ("ram", "def", {"epsilon": 0.01}),
    "ram_default": ("ram", "cde", {}),
    "ramplus_tl": ("ramplus_tl", "def", {}),
    "ramplus_tl_strong": ("ramplus_tl", "ad", {"epsilon": 0.001, "r": 0.3, "alpha": 0.9}),
    "passthrough": ("passthrough", "a", {"scale": 0.5}),
}
"""Name of the result → our method, its sources, its parameters."""


@pytest.fixture(scope="module")
def golden() -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(GOLDEN / "merges.safetensors").items():
        model, name = key.split("/", 1)
        found.setdefault(model, {})[name] = tensor
    return found


def merged(golden: dict[str, dict[str, Tensor]], method: str, sources: str, asked: dict[str, Any]) -> dict[str, Tensor]:
    return merge_tensors(METHODS[method], golden["base"], {s: golden[s] for s in sources}, **asked)


@pytest.mark.proves(
    "ties",
    "breadcrumbs",
    "breadcrumbs_ties",
    "sce",
    "model_stock",
    "karcher",
    "multislerp",
    "nuslerp",
    "nearswap",
    "arcee_fusion",
    "ram",
    "ramplus_tl",
    "passthrough",
    by="golden",
)
@pytest.mark.parametrize("name", sorted(CASES))
def test_a_merge_agrees_with_mergekit(name: str, golden: dict[str, dict[str, Tensor]]) -> None:
    found = merged(golden, *CASES[name])

    for at, tensor in found.items():
        torch.testing.assert_close(tensor, golden[name][at], rtol=1e-6, atol=1e-7)
        assert not torch.equal(tensor, golden["base"][at])


@pytest.mark.proves("nuslerp", by="golden")
def test_nearly_parallel_models_are_interpolated_on_the_arc_too(golden: dict[str, dict[str, Tensor]]) -> None:
    base, near = golden["base"], golden["c"]
    found = merge_tensors(METHODS["nuslerp"], base, {"b": base, "c": near}, weight={"b": 0.5, "c": 1.25})

    for at, tensor in found.items():  # at such angles mergekit's float32 cosines leave an error of their own
        torch.testing.assert_close(tensor, golden["nuslerp_near"][at], rtol=1e-6, atol=3e-7)


@pytest.mark.proves("sce", by="golden")
def test_a_source_that_is_the_base_counts_in_the_variance(golden: dict[str, dict[str, Tensor]]) -> None:
    sources = {"b": golden["base"], "c": golden["c"], "f": golden["f"]}
    found = merge_tensors(METHODS["sce"], golden["base"], sources, select_topk=0.5, energy_floor=1e-6)

    for at, tensor in found.items():
        torch.testing.assert_close(tensor, golden["sce_near"][at], rtol=1e-6, atol=1e-7)


@pytest.mark.proves("della", "della_linear", by="golden")
def test_magprune_keeps_what_mergekits_keeps_on_average(golden: dict[str, dict[str, Tensor]]) -> None:
    """Theirs are 12 draws of one seed each; ours are as many."""
    runs, density, epsilon = 12, 0.5, 0.4
    theirs = json.loads((GOLDEN / "della.json").read_text())["della_linear"]
    ours: dict[str, list[Tensor]] = {}
    for seed in range(runs):
        asked: dict[str, Any] = {"density": density, "epsilon": epsilon, "rescale": "l1", "lambda": 1.0}
        found = merge_tensors(METHODS["della_linear"], golden["base"], {"a": golden["a"]}, seed=seed, **asked)
        for at, tensor in found.items():
            moved, full = tensor - golden["base"][at], golden["a"][at] - golden["base"][at]
            kept = (moved != 0).float().gather(-1, full.abs().argsort(dim=-1))
            half = kept.shape[-1] // 2
            l1 = moved.abs().sum() / full.abs().sum()
            ours.setdefault(at, []).append(torch.stack([kept[..., :half].mean(), kept[..., half:].mean(), l1]))

    for at, values in ours.items():
        low, high, l1 = torch.stack(values).mean(0).tolist()
        spread = 5 * (density * (1 - density) / (runs * golden["base"][at].numel() / 2)) ** 0.5
        for found_here, found_there, expected in zip((low, high), theirs[at], (0.3, 0.7), strict=False):
            slack = spread + 0.4 / golden["base"][at].shape[-1]  # the ranks of a half are 0 … 1/2, in steps
            assert abs(found_here - expected) < slack
            assert abs(found_there - expected) < slack
        assert l1 == pytest.approx(1, abs=1e-4)
        assert theirs[at][2] == pytest.approx(1, abs=1e-4)
