"""Against the authors' own code of several papers; see tests/golden/README.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from evomerge.merge.method import Method
from evomerge.merge.methods import METHODS, pipeline
from evomerge.models.family import families
from evomerge.testing.merging import merge_tensors

Tensors = dict[str, Tensor]
GOLDEN = Path(__file__).parents[2] / "golden" / "authors" / "merges.safetensors"
EXPERTS = ("a", "b", "c")


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensors]:
    found: dict[str, Tensors] = {}
    for key, tensor in load_file(GOLDEN).items():
        group, name = key.split("/")
        found.setdefault(group, {})[name] = tensor
    return found


def merged(method: str | Method, base: Tensors, models: dict[str, Tensors], **parameters: Any) -> Tensors:
    """The method on a Llama of three layers."""
    llama = families()["llama"]
    roles = {name: llama.role(name) or "" for name in base}
    found = {name: re.search(r"\.layers\.(\d+)\.", name) for name in base}
    layers: dict[str, Any] = {name: int(match[1]) if match else None for name, match in found.items()}
    which = METHODS[method] if isinstance(method, str) else method
    return merge_tensors(which, base, models, roles=roles, layers=layers, num_layers=3, **parameters)


def experts(golden: dict[str, Tensors], names: tuple[str, ...] = EXPERTS) -> dict[str, Tensors]:
    return {name: golden[name] for name in names}


def assert_deltas(found: Tensors, base: Tensors, expected: Tensors, atol: float = 2e-6) -> None:
    for name, delta in expected.items():
        torch.testing.assert_close(found[name] - base[name], delta, rtol=1e-4, atol=atol, msg=lambda m: f"{name}: {m}")  # noqa: B023


@pytest.mark.parametrize("density", [0.1, 0.7])
@pytest.mark.proves("pcb", by="golden")
def test_pcb(golden: dict[str, Tensors], density: float) -> None:
    found = merged("pcb", golden["base"], experts(golden), density=density)

    assert_deltas(found, golden["base"], golden[f"pcb_{density}"], atol=1e-5)


@pytest.mark.parametrize(("name", "threshold", "value"), [("widen", 1.0, 1.0), ("widen_set", 1.3, 0.8)])
@pytest.mark.proves("widen", by="golden")
def test_widen(golden: dict[str, Tensors], name: str, threshold: float, value: float) -> None:
    found = merged("widen", golden["base"], experts(golden), threshold=threshold, value=value)

    for tensor, expected in golden[name].items():
        torch.testing.assert_close(found[tensor], expected, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("cabs_1_4", {"density": 0.25, "group": 4}),
        ("cabs_2_4", {"density": 0.5, "group": 4}),
        ("cabs_3_4", {"density": 0.75, "group": 4}),
        ("cabs_tail", {"density": 0.4, "group": 5, "tail": "drop", "overlap": "none"}),
    ],
)
@pytest.mark.proves("cabs", by="golden")
def test_cabs(golden: dict[str, Tensors], name: str, parameters: dict[str, Any]) -> None:
    base = {tensor: torch.zeros_like(t) for tensor, t in golden["base"].items()}
    deltas = {"a": golden["cabs_a"], "b": golden["cabs_b"]}
    found = merged("cabs", base, deltas, **parameters)

    assert_deltas(found, base, golden[name], atol=0)


@pytest.mark.parametrize(("name", "beta"), [("lines_sum", 0.7), ("lines_single", None)])
@pytest.mark.proves("lines", by="golden")
def test_lines(golden: dict[str, Tensors], name: str, beta: float | None) -> None:
    alone = {"auto_alpha": False, "depth_alpha": 0.3}
    several = {"auto_beta": False, "depth_beta": beta}
    models = experts(golden, ("a",) if beta is None else EXPERTS)
    found = merged("lines", golden["base"], models, **(alone if beta is None else several))

    assert_deltas(found, golden["base"], golden[name])


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.proves("tall_consensus", by="golden")
def test_consensus(golden: dict[str, Tensors], count: int) -> None:
    found = merged("tall_consensus", golden["base"], experts(golden), min_count=count, **{"lambda": 1.0})

    assert_deltas(found, golden["base"], golden[f"consensus_{count}"])


def share_kept(golden: dict[str, Tensors], percent: int) -> float:
    """The authors' trim keeps the entry at the threshold too: one more than the share says."""
    size = sum(t.numel() for t in golden["base"].values())
    return (size * percent // 100 + 1) / size


@pytest.mark.proves("tall_consensus_ties", by="golden")
def test_consensus_of_ties(golden: dict[str, Tensors]) -> None:
    found = merged(
        "tall_consensus_ties", golden["base"], experts(golden), density=share_kept(golden, 20), mask_lambda=0.5,
        **{"lambda": 1.0},
    )  # fmt: skip

    assert_deltas(found, golden["base"], golden["consensus_ties"])


def test_lines_after_ties(golden: dict[str, Tensors]) -> None:
    found = merged(
        pipeline(("trim", "elect", "sum", "layers")), golden["base"], experts(golden),
        density=share_kept(golden, 20), auto_beta=False, depth_beta=0.4,
    )  # fmt: skip

    assert_deltas(found, golden["base"], golden["lines_ties"])


@pytest.mark.proves("compeft", by="golden")
def test_compeft(golden: dict[str, Tensors]) -> None:
    found = merged("compeft", golden["base"], experts(golden, ("a",)), density=share_kept(golden, 20), alpha=3.0)

    assert_deltas(found, golden["base"], golden["compeft"])


@pytest.mark.proves("metagpt", by="golden")
def test_metagpt(golden: dict[str, Tensors]) -> None:
    assert_deltas(merged("metagpt", golden["base"], experts(golden)), golden["base"], golden["metagpt"])


@pytest.mark.proves("doge", by="golden")
def test_doge(golden: dict[str, Tensors]) -> None:
    size = sum(t.numel() for t in golden["doge"].values())
    found = merged("doge", golden["base"], experts(golden), density=(int(size * 0.3) + 1) / size)

    assert_deltas(found, golden["base"], golden["doge"])
    assert all(torch.equal(found[n], golden["base"][n]) for n in set(found) - set(golden["doge"]))
    for losses in golden["doge_loss"].values():
        assert losses[0] > 1
        assert losses[1] < 1e-6 * losses[0]
