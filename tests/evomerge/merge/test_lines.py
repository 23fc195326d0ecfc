"""LiNeS."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from evomerge.merge.methods import METHODS, pipeline
from evomerge.testing.merging import MethodContract, merge_tensors

NAMES = {"embedding": None, "x0": 0, "x1": 1, "x2": 2, "x3": 3, "norm": None, "head": None}
ROLES = {**dict.fromkeys(NAMES, "mlp.up"), "embedding": "embedding", "norm": "norm.final", "head": "head"}
LAYERS: dict[str, Any] = dict(NAMES)


class TestLines(MethodContract):
    method = METHODS["lines"]


class TestTiesWithLines(MethodContract):
    method = pipeline(("trim", "weigh", "elect", "disjoint_mean", "layers"))
    parameters: ClassVar = {"outside": "ends", "scope": "tensor"}


def sources(number: int = 2) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    generator = torch.Generator().manual_seed(0)
    base = {name: torch.zeros(5, 4) for name in NAMES}
    return base, {s: {n: torch.randn(5, 4, generator=generator) for n in NAMES} for s in "abc"[:number]}


def merged(method: Any, base: Any, models: Any, **parameters: Any) -> dict[str, Tensor]:
    return merge_tensors(method, base, models, roles=ROLES, layers=LAYERS, num_layers=4, **parameters)


@pytest.mark.parametrize("outside", ["alpha", "ends"])
@pytest.mark.proves("lines", by="property")
def test_layers_are_scaled_from_alpha_to_alpha_plus_beta(outside: str) -> None:
    base, models = sources()
    found = merged(
        METHODS["lines"], base, models, auto_alpha=False, auto_beta=False, depth_alpha=0.2, depth_beta=0.6,
        outside=outside,
    )  # fmt: skip

    end = 0.2 if outside == "alpha" else 0.8
    scales = {"embedding": 0.2, "x0": 0.2, "x1": 0.4, "x2": 0.6, "x3": 0.8, "norm": end, "head": end}
    for name, scale in scales.items():
        torch.testing.assert_close(found[name], scale * (models["a"][name] + models["b"][name]))


def test_alpha_comes_from_norms_of_the_whole_model() -> None:
    base, models = sources(3)
    chain = pipeline(("trim", "sum", "layers"))
    found = merged(chain, base, models, scope="tensor", density=0.4, auto_beta=False, depth_beta=0.0)
    plain = merged(pipeline(("trim", "sum")), base, models, scope="tensor", density=0.4)

    summed = sum(float(sum(m[n] for m in models.values()).abs().sum()) for n in base)
    alpha = summed / sum(float(plain[n].abs().sum()) for n in base) / 3
    for name in base:
        torch.testing.assert_close(found[name], alpha * plain[name])


def test_the_sum_of_n_task_vectors_begins_at_one_nth_and_ends_whole() -> None:
    base, models = sources()
    found = merged(METHODS["lines"], base, models)

    torch.testing.assert_close(found["x0"], 0.5 * (models["a"]["x0"] + models["b"]["x0"]))
    torch.testing.assert_close(found["x3"], models["a"]["x3"] + models["b"]["x3"])


def test_one_source_alone_stays_whole() -> None:
    base, models = sources(1)
    found = merged(METHODS["lines"], base, models)

    for name in base:
        torch.testing.assert_close(found[name], models["a"][name])


def test_a_model_of_one_layer_is_scaled_by_alpha() -> None:
    base, models = {"w": torch.zeros(4)}, {"a": {"w": torch.ones(4)}}
    found = merge_tensors(METHODS["lines"], base, models, auto_alpha=False, depth_alpha=0.25)

    assert found["w"].tolist() == [0.25] * 4
