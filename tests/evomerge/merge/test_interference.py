"""Merges by least interference."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from evomerge.merge.methods import interference
from evomerge.testing.merging import MethodContract, merge_tensor

METHODS = {method.name: method for method in interference.METHODS}
NAMES = sorted(METHODS)
shapes = pytest.mark.parametrize("shape", [(12, 30), (30, 12), (20, 20)])


class TestWudi(MethodContract):
    method = METHODS["wudi"]


class TestIwudi(MethodContract):
    method = METHODS["iwudi"]


class TestIwudiSteps(MethodContract):
    method = METHODS["iwudi"]
    parameters: ClassVar[dict[str, Any]] = {"filter": "landweber", "initial": "zero"}


class TestSwudi(MethodContract):
    method = METHODS["swudi"]


class TestAswudi(MethodContract):
    method = METHODS["aswudi"]


class TestAswudiNoise(MethodContract):
    method = METHODS["aswudi"]
    parameters: ClassVar[dict[str, Any]] = {"directions": "noise"}


class TestOptmerge(MethodContract):
    method = METHODS["optmerge"]


def deltas_of(shape: tuple[int, ...], num: int = 3, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {s: torch.randn(shape, generator=generator) for s in "abcd"[:num]}


def merged(name: str, deltas: dict[str, Tensor], **parameters: Any) -> Tensor:
    base = torch.zeros_like(next(iter(deltas.values())))
    return merge_tensor(METHODS[name], base, deltas, **parameters)


def objective(x: Tensor, deltas: dict[str, Tensor]) -> Tensor:
    """Σ ‖(X − τ) τᵀ‖² / ‖τ‖²."""
    parts = [((x - d.double()) @ d.double().t()).square().sum() / d.double().square().sum() for d in deltas.values()]
    return torch.stack(parts).sum()


def total(deltas: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(deltas.values())).sum(dim=0)


@pytest.mark.proves("wudi", by="property")
@shapes
def test_wudi_minimises_its_objective(shape: tuple[int, int]) -> None:
    deltas = deltas_of(shape)
    x = merged("wudi", deltas).double().requires_grad_()
    (slope,) = torch.autograd.grad(objective(x, deltas), x)
    start = total(deltas).double().requires_grad_()
    (steep,) = torch.autograd.grad(objective(start, deltas), start)

    assert float(slope.norm()) < 1e-5 * float(steep.norm())
    for rival in (total(deltas), total(deltas) / 3, torch.zeros(shape)):
        assert float(objective(x.detach(), deltas)) <= float(objective(rival.double(), deltas)) + 1e-9


@pytest.mark.proves("iwudi", "swudi", "aswudi", by="property")
@pytest.mark.parametrize("name", ["iwudi", "swudi", "aswudi"])
@shapes
def test_filters_go_part_of_the_way(name: str, shape: tuple[int, int]) -> None:
    deltas = deltas_of(shape)
    start, partly, end = (
        float(objective(x.double(), deltas)) for x in (total(deltas), merged(name, deltas), merged("wudi", deltas))
    )

    assert end <= partly < start


@pytest.mark.proves("iwudi", by="property")
def test_time_leads_from_the_initial_value_to_the_solution() -> None:
    deltas = deltas_of((12, 30))

    torch.testing.assert_close(merged("iwudi", deltas, time=0.0), total(deltas))
    torch.testing.assert_close(merged("iwudi", deltas, time=1e9), merged("wudi", deltas), rtol=1e-4, atol=1e-4)
    costs = [float(objective(merged("iwudi", deltas, time=t).double(), deltas)) for t in (0.0, 0.3, 1.0, 3.0, 30.0)]
    assert costs == sorted(costs, reverse=True)


@pytest.mark.proves("optmerge", by="property")
@pytest.mark.parametrize("centred", [True, False])
@shapes
def test_optmerge_minimises_its_objective(shape: tuple[int, int], centred: bool) -> None:
    deltas = deltas_of(shape)
    count = min(shape) // 3
    mean = total(deltas).double() / 3

    def leading(x: Tensor) -> tuple[Tensor, Tensor]:
        u, s, v = torch.linalg.svd(x.double(), full_matrices=False)
        return (u[:, :count] * s[:count]) @ v[:count], s[:count, None] * v[:count]

    def cost(x: Tensor) -> Tensor:
        parts = []
        for delta in deltas.values():
            target = leading(delta.double() - mean)[0] + mean if centred else leading(delta)[0]
            weight = delta.double().square().sum()
            parts.append(((x - target) @ leading(delta)[1].t()).square().sum() / weight)
        return torch.stack(parts).sum()

    x = merged("optmerge", deltas, centred=centred, filter="none").double().requires_grad_()
    (slope,) = torch.autograd.grad(cost(x), x)
    start = mean.clone().requires_grad_()
    (steep,) = torch.autograd.grad(cost(start), start)

    assert float(slope.norm()) < 1e-5 * float(steep.norm())
    assert float(cost(x.detach())) <= float(cost(mean)) + 1e-9


@pytest.mark.parametrize("name", NAMES)
@shapes
def test_one_source_and_equal_sources_come_back(name: str, shape: tuple[int, int]) -> None:
    delta = deltas_of(shape)["a"]
    given = {"initial": "mean"}

    torch.testing.assert_close(merged(name, {"a": delta}, **given), delta, rtol=1e-4, atol=1e-4)
    same = dict.fromkeys("abc", delta)
    torch.testing.assert_close(merged(name, same, **given), delta, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (2, 40), (1, 1), (6,)])
def test_thin_matrices_with_more_sources_than_rows_stay_finite(name: str, shape: tuple[int, ...]) -> None:
    found = merged(name, deltas_of(shape, num=4))

    assert bool(found.isfinite().all())
    assert bool(found.any())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("role", ["embedding", "norm"])
def test_what_is_no_matrix_is_averaged(name: str, role: str) -> None:
    deltas = deltas_of((30, 8) if role == "embedding" else (30,))

    torch.testing.assert_close(merged(name, deltas, role=role), total(deltas) / 3)


@pytest.mark.parametrize("name", NAMES)
def test_task_vectors_of_zeros_count_for_nothing_and_alone_give_the_base(name: str) -> None:
    deltas = {**deltas_of((12, 9)), "b": torch.zeros(12, 9)}
    base = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))

    assert bool(merged(name, deltas).isfinite().all())
    assert torch.equal(merge_tensor(METHODS[name], base, {s: base.clone() for s in "ab"}), base)


@pytest.mark.parametrize("name", NAMES)
def test_it_has_no_scale(name: str) -> None:
    deltas = deltas_of((12, 18))
    small = merged(name, {s: d * 2.0**-14 for s, d in deltas.items()})

    torch.testing.assert_close(small * 2.0**14, merged(name, deltas), rtol=1e-4, atol=1e-4)
