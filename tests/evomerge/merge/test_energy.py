"""Averages weighed by how far models moved."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge.methods import METHODS, pipeline
from evomerge.testing.merging import MethodContract, merge_tensor, merge_tensors

ROLES = {"embedding": "embedding", "q": "attention.q", "o": "attention.o", "up": "mlp.up", "norm": "norm.mlp"}
LAYERS: dict[str, Any] = {"embedding": None, "q": 0, "o": 0, "up": 0, "norm": 0, "q1": 1}
SHAPES = {"embedding": (9, 6), "q": (6, 6), "o": (4, 6), "up": (8, 6), "norm": (6,), "q1": (6, 6)}


class TestVarm(MethodContract):
    method = METHODS["varm"]


class TestVarmOfLayers(MethodContract):
    method = METHODS["varm"]
    parameters: ClassVar = {"level": "layer", "normaliser": "softmax", "temperature": 1e-3}


class TestVarmOfEntries(MethodContract):
    method = METHODS["varm"]
    parameters: ClassVar = {"level": "element"}


class TestEnergyWeighted(MethodContract):
    method = METHODS["energy_weighted"]
    parameters: ClassVar = {"exponent": -1.0, "level": "module"}


class TestMetaGpt(MethodContract):
    method = METHODS["metagpt"]


class TestInverseNorm(MethodContract):
    method = pipeline(("inverse_norm", "sum"))


class TestMatchNorm(MethodContract):
    method = pipeline(("weigh", "sum", "match_norm"))
    parameters: ClassVar = {"match": "l1", "norm_scope": "tensor"}


def model(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def sources() -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    base = model(0)
    return base, {s: {n: base[n] + (i + 1) * t for n, t in model(i + 1).items()} for i, s in enumerate("abc")}


def unit(name: str, level: str) -> Any:
    if level == "layer":
        return LAYERS[name]
    module = {"q": "attention", "o": "attention", "q1": "attention of 1"}.get(name, name)
    return {"model": 0, "module": module, "tensor": name}[level]


@pytest.mark.parametrize("level", ["model", "layer", "module", "tensor"])
@pytest.mark.parametrize("pool", ["entries", "tensors"])
@pytest.mark.parametrize("normaliser", ["linear", "softmax"])
@pytest.mark.proves("varm", "energy_weighted", by="property")
def test_weights_are_the_mean_squares_of_a_unit(level: str, pool: str, normaliser: str) -> None:
    base, models = sources()
    found = merge_tensors(
        METHODS["energy_weighted"], base, models, roles={**ROLES, "q1": "attention.q"}, layers=LAYERS, num_layers=2,
        level=level, pool=pool, normaliser=normaliser, temperature=3.0, exponent=0.5,
    )  # fmt: skip

    for name in base:
        inside = [n for n in base if unit(n, level) == unit(name, level)]
        energies = []
        for s in models:
            deltas = [(models[s][n] - base[n]).double().numpy() for n in inside]
            entries = np.concatenate([d.ravel() for d in deltas])
            energies.append(np.mean(entries**2) if pool == "entries" else sum(np.mean(d**2) for d in deltas))
        scores = np.sqrt(energies)
        weights = np.exp(scores / 3) if normaliser == "softmax" else scores
        weights = np.ones(3) if level == "layer" and LAYERS[name] is None else weights
        expected = sum(w * models[s][name].double() for w, s in zip(weights / weights.sum(), models, strict=True))
        torch.testing.assert_close(found[name].double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.proves("varm", by="property")
def test_entries_by_themselves_are_weighed_by_their_squares() -> None:
    base, models = sources()
    models["c"]["q"] = base["q"]
    found = merge_tensors(METHODS["varm"], base, models, level="element")

    squares = {s: (models[s]["up"] - base["up"]) ** 2 for s in models}
    expected = sum(squares[s] * models[s]["up"] for s in models) / sum(squares.values())
    torch.testing.assert_close(found["up"], expected, rtol=1e-4, atol=1e-5)
    entry = {s: (models[s]["q"] - base["q"]) for s in "ab"}
    expected = base["q"] + sum(d**3 for d in entry.values()) / sum(d**2 for d in entry.values())
    torch.testing.assert_close(found["q"], expected, rtol=1e-4, atol=1e-5)


def test_an_entry_that_no_source_changed_stays() -> None:
    """The authors' code divides 0 by 1e-13 here and writes 0 into the model."""
    base = torch.tensor([2.0, 3.0])
    found = merge_tensor(METHODS["varm"], base, {"a": torch.tensor([2.0, 4.0]), "b": base}, level="element")

    assert found.tolist() == [2.0, 4.0]


@pytest.mark.parametrize("exponent", [1.0, -1.0])
def test_a_source_without_energy_makes_weights_equal(exponent: float) -> None:
    base, models = sources()
    models["b"]["up"] = base["up"]
    found = merge_tensors(METHODS["energy_weighted"], base, models, exponent=exponent)

    expected = (models["a"]["up"] + base["up"] + models["c"]["up"]) / 3
    torch.testing.assert_close(found["up"], expected)


def test_negative_exponents_favour_small_changes() -> None:
    base = torch.zeros(4)
    found = merge_tensor(METHODS["energy_weighted"], base, {"a": base + 1, "b": base + 2}, exponent=-1.0)

    torch.testing.assert_close(found, torch.full((4,), 1.2))


@pytest.mark.proves("metagpt", by="property")
def test_metagpt_weighs_by_squared_norms_of_the_model() -> None:
    base, models = sources()
    found = merge_tensors(METHODS["metagpt"], base, models)

    norms = {s: sum(float(((models[s][n] - base[n]).double() ** 2).sum()) for n in base) for s in models}
    for name in base:
        expected = sum(norms[s] * models[s][name].double() for s in models) / sum(norms.values())
        torch.testing.assert_close(found[name].double(), expected, rtol=1e-5, atol=1e-5)


def test_inverse_norms_give_all_sources_one_length_in_every_tensor() -> None:
    base, models = sources()
    found = merge_tensors(pipeline(("inverse_norm", "sum")), base, {"a": models["a"]}, eta=0.25)

    for name in base:
        assert float((found[name] - base[name]).norm()) == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize("scope", ["model", "tensor"])
@pytest.mark.parametrize("norm", [1, 2])
def test_the_merged_norm_is_the_mean_of_the_sources(scope: str, norm: int) -> None:
    base, models = sources()
    chain = pipeline(("weigh", "sum", "match_norm"))
    found = merge_tensors(chain, base, models, norm_scope=scope, match=f"l{norm}", weight=3.0)

    def length(parts: dict[str, Tensor], names: list[str]) -> float:
        return float(torch.cat([(parts[n] - base[n]).double().flatten() for n in names]).norm(norm))

    for names in [list(base)] if scope == "model" else [[n] for n in base]:
        expected = np.mean([length(models[s], names) for s in models])
        assert length(found, names) == pytest.approx(expected, rel=1e-4)


def test_weights_do_not_depend_on_the_order_of_tensors() -> None:
    base, models = sources()
    turned = {n: base[n] for n in reversed(base)}
    for method in ("metagpt", "varm"):
        level = {"level": "model"} if method == "varm" else {}
        first = merge_tensors(METHODS[method], base, models, **level)
        second = merge_tensors(METHODS[method], turned, models, **level)

        assert all(torch.equal(first[n], second[n]) for n in base)


def test_levels_that_differ_between_tensors_are_refused_where_they_cannot_be_measured() -> None:
    from evomerge.merge.method import Block
    from evomerge.merge.stage import State
    from evomerge.merge.stages.weigh import number_of

    block = Block("w", torch.zeros(1), {"level": "model"}, {"a": {}})
    with pytest.raises(InvalidInputError, match="one level for the whole model"):
        number_of(State(block, {}, None, {}, {}), "model", "level")
