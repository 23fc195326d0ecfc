"""Units move together: any order of them is the same function; the best order is found, whatever the family."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evomerge.merge.align.groups import Axis, Group, groups_of
from evomerge.merge.align.maps import Permutation, Plan, UnitMap
from evomerge.merge.align.matching import Worth, assign, gain, measure, sinkhorn, transport
from evomerge.merge.align.walk import Pair, align, moves
from evomerge.models.checkpoint import Checkpoint, open_checkpoint
from evomerge.models.source import architecture_of_checkpoint
from evomerge.recipe.align import AlignByTransport, AlignByWeights

FAMILIES = ["gemma3_text", "gpt2", "gpt_neox", "llama", "mixtral", "olmoe", "phi3", "qwen2", "qwen2_moe"]
Models = Callable[[str], Path]
ALL = ("mlp", "attention", "residual")


def groups(checkpoint: Checkpoint, kinds: tuple[str, ...] = ALL) -> tuple[Group, ...]:
    shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
    return groups_of(architecture_of_checkpoint(checkpoint), checkpoint.config, shapes, kinds)


def shuffled(found: tuple[Group, ...], seed: int) -> dict[str, UnitMap]:
    generator = torch.Generator().manual_seed(seed)
    return {
        group.name: Permutation(
            torch.randperm(group.size, generator=generator),
            torch.stack([torch.randperm(group.inner, generator=generator) for _ in range(group.size)]),
        )
        for group in found
    }


def moved(checkpoint: Checkpoint, found: tuple[Group, ...], maps: dict[str, UnitMap]) -> dict[str, Tensor]:
    along = moves(found, maps)
    tensors = {}
    for name in checkpoint.tensors:
        tensor = checkpoint.read(name)
        for map_, axis in along.get(name, ()):
            tensor = map_.apply(tensor, axis)
        tensors[name] = tensor
    return tensors


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("family", FAMILIES)
def test_any_order_of_units_is_the_same_function(
    family: str,
    kind: str,
    models: Models,
    logits: Callable[[Path], Tensor],
    copied: Callable[[Path, dict[str, Tensor], Path], Path],
    tmp_path: Path,
) -> None:
    path = models(family)
    with open_checkpoint(path) as checkpoint:
        found = groups(checkpoint, (kind,))
        tensors = moved(checkpoint, found, shuffled(found, 1))

        assert any(not checkpoint.read(name).equal(tensor) for name, tensor in tensors.items())
        torch.testing.assert_close(logits(copied(path, tensors, tmp_path / "m")), logits(path), rtol=0, atol=2e-5)


@pytest.mark.proves("align_weights", by="property")
@pytest.mark.parametrize("family", FAMILIES)
def test_weight_matching_undoes_any_order(family: str, models: Models) -> None:
    """All kinds of units at once, in every family."""
    with open_checkpoint(models(family)) as checkpoint:
        found = groups(checkpoint)
        tensors = moved(checkpoint, found, shuffled(found, 2))
        maps = align(Pair(checkpoint.read, tensors.__getitem__, found), AlignByWeights(method="weights", units=ALL))
        along = moves(found, maps)

        for name, tensor in tensors.items():
            for map_, axis in along.get(name, ()):
                tensor = map_.apply(tensor, axis)
            assert tensor.equal(checkpoint.read(name)), name


@pytest.mark.proves("align_transport", by="property")
@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
def test_exact_transport_finds_a_planted_permutation(family: str, squared: bool, models: Models) -> None:
    with open_checkpoint(models(family)) as checkpoint:
        found = groups(checkpoint)
        tensors = moved(checkpoint, found, shuffled(found, 3))
        spec = AlignByTransport(method="transport", units=ALL, squared=squared)
        maps = align(Pair(checkpoint.read, tensors.__getitem__, found), spec)
        along = moves(found, maps)

        for name, tensor in tensors.items():
            for map_, axis in along.get(name, ()):
                tensor = map_.apply(tensor, axis)
            assert tensor.equal(checkpoint.read(name)), name


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(2, 1), (3, 1), (4, 1), (2, 2), (3, 2), (2, 3)]), st.booleans())
def test_the_assignment_is_the_best_of_all_permutations(seed: int, sizes: tuple[int, int], maximize: bool) -> None:
    """Against every permutation of units and of sub-units within them."""
    size, inner = sizes
    random = np.random.default_rng(seed)
    units, sub_units = random.normal(size=(size, size)), random.normal(size=(size, size, inner, inner))
    best = min if not maximize else max
    within = np.array(
        [
            [best(sum(sub_units[i, j, p[s], s] for s in range(inner)) for p in permutations(range(inner)))
             for j in range(size)] for i in range(size)
        ]
    )  # fmt: skip
    whole = units + (within if inner > 1 else 0.0)
    expected = best(sum(whole[p[j], j] for j in range(size)) for p in permutations(range(size)))
    worth = Worth(torch.from_numpy(units), torch.from_numpy(sub_units) if inner > 1 else None)

    assert gain(worth, assign(worth, maximize=maximize)) == pytest.approx(expected)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12), st.sampled_from([0.05, 0.3, 2.0]))
def test_sinkhorns_plan_has_its_form_and_its_marginals(seed: int, size: int, reg: float) -> None:
    """P = diag(u) exp(−C/reg) diag(v) with uniform marginals: the only such plan (Cuturi 2013, lemma 2)."""
    cost = torch.from_numpy(np.random.default_rng(seed).uniform(size=(size, size)))
    shares = sinkhorn(cost, reg)
    scales = shares.log() + cost / reg

    assert torch.allclose(shares.sum(0), torch.ones(size, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(shares.sum(1), torch.ones(size, dtype=torch.float64), atol=1e-4)
    assert torch.allclose(scales - scales[:1] - scales[:, :1] + scales[0, 0], torch.zeros(()).double(), atol=1e-8)


@pytest.mark.proves("align_transport", by="property")
def test_sinkhorn_becomes_the_assignment_as_reg_goes_to_zero() -> None:
    worth = Worth(torch.rand(9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64), None)
    exact = transport(worth, "emd", reg=1.0, squared=True)
    assert isinstance(exact, Permutation)
    matrix = torch.zeros(9, 9)
    matrix[exact.units, torch.arange(9)] = 1.0
    errors = []
    for reg in (1.0, 0.1, 0.01, 0.0001):
        plan = transport(worth, "sinkhorn", reg=reg, squared=True)
        assert isinstance(plan, Plan)
        errors.append(float((plan.shares - matrix).abs().max()))

    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3


@pytest.mark.parametrize("kind", ["mlp", "attention"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
def test_a_plan_that_is_a_permutation_moves_like_one(family: str, kind: str, models: Models) -> None:
    with open_checkpoint(models(family)) as checkpoint:
        found = groups(checkpoint, (kind,))
        maps = shuffled(found, 4)
        plans: dict[str, UnitMap] = {}
        for name, map_ in maps.items():
            assert isinstance(map_, Permutation)
            size = len(map_.units)
            shares = torch.zeros(size, size)
            shares[map_.units, torch.arange(size)] = 1.0
            plans[name] = Plan(shares, map_.inner[None].expand(size, -1, -1))

        for name, tensor in moved(checkpoint, found, plans).items():
            assert tensor.equal(moved(checkpoint, found, maps)[name]), name


GOLDEN = {
    name: torch.tensor(numbers, dtype=torch.float64)
    for name, numbers in json.loads((Path(__file__).parents[3] / "golden" / "pot" / "plans.json").read_text()).items()
}


@pytest.mark.proves("align_transport", by="golden")
@pytest.mark.parametrize("cost", ["distance", "squared"])
def test_plans_are_those_of_another_library(cost: str) -> None:
    source, base = GOLDEN["source"], GOLDEN["base"]
    entries = torch.arange(8).view(8, 1, 1)
    worth = measure("distance", 8, 1, [(source, base, Axis("w", 0, entries, produces=True))])

    exact = transport(worth, "emd", reg=1.0, squared=cost == "squared")
    assert isinstance(exact, Permutation)
    assert exact.units.equal(GOLDEN[f"emd/{cost}"].argmax(0))
    for reg in (0.08, 0.5):
        plan = transport(worth, "sinkhorn", reg=reg, squared=cost == "squared")
        assert isinstance(plan, Plan)
        torch.testing.assert_close(plan.shares.double(), GOLDEN[f"sinkhorn/{cost}/{reg}"], rtol=0, atol=2e-5)
