"""Edits that leave a protected subspace alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.merge.methods import METHODS
from evomerge.merge.primitives.gaps import closing_edit
from evomerge.merge.primitives.protect import protected_directions, protected_edit
from evomerge.testing.merging import MethodContract, merge_tensor


class TestDogeProtected(MethodContract):
    method = METHODS["doge_protected"]


def problem(shape: tuple[int, int] = (9, 14), num: int = 3) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    deltas = [torch.randn(shape, generator=generator) for _ in range(num)]
    return deltas, torch.tensor([0.07 / float(d.norm()) for d in deltas], dtype=torch.float64)


def loss(edit: Tensor, deltas: list[Tensor], coefficients: Tensor) -> Tensor:
    shared = sum(
        (c * d.double() for c, d in zip(coefficients, deltas, strict=True)), torch.zeros(deltas[0].shape).double()
    )
    parts = [(d.double() * (d.double() - shared - coefficients.sum() * edit)).sum(dim=1).square().sum() for d in deltas]
    return torch.stack(parts).sum()


@pytest.mark.parametrize("shape", [(9, 14), (14, 9)])
def test_protected_directions_are_those_of_the_stacked_leading_vectors(shape: tuple[int, int]) -> None:
    deltas, _ = problem(shape)
    stack = np.concatenate([np.linalg.svd(d.double().numpy(), full_matrices=False)[0][:, :3] for d in deltas], axis=1)
    expected = np.linalg.svd(stack, full_matrices=False)[0][:, :2]
    found = protected_directions(deltas, 0.25).double().numpy()

    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-5)


@pytest.mark.proves("doge_protected", by="property")
def test_the_edit_is_where_projected_gradient_descent_ends() -> None:
    deltas, coefficients = problem()
    directions = protected_directions(deltas, 1 / 6)
    keep = torch.eye(9, dtype=torch.float64) - directions.double() @ directions.double().t()
    found = protected_edit(deltas, coefficients, directions).double()

    # gradient descent from 0 stays in the span of the gradients and ends at the shortest solution there
    weight = float(coefficients.sum())
    columns = [(keep[:, r, None] * d[r].double()).reshape(-1) for d in deltas for r in range(9)]
    shared = sum((c * d.double() for c, d in zip(coefficients, deltas, strict=True)), torch.zeros(9, 14).double())
    gaps = torch.cat([(d.double() * (d.double() - shared)).sum(dim=1) for d in deltas])
    edit = (torch.linalg.pinv(weight * torch.stack(columns)) @ gaps).reshape(9, 14)
    torch.testing.assert_close(found, edit, rtol=1e-4, atol=1e-6 * float(edit.abs().max()))

    slope = torch.autograd.grad(loss(moving := found.clone().requires_grad_(), deltas, coefficients), moving)[0]
    start = torch.zeros(9, 14, dtype=torch.float64, requires_grad=True)
    steep = torch.autograd.grad(loss(start, deltas, coefficients), start)[0]
    assert float((keep @ slope).norm()) < 1e-5 * float((keep @ steep).norm())
    assert float((directions.double().t() @ found).norm()) < 1e-5 * float(found.norm())


@pytest.mark.proves("doge_protected", by="property")
def test_without_protection_it_is_the_closed_form() -> None:
    deltas, coefficients = problem()
    found = protected_edit(deltas, coefficients, torch.zeros(9, 0))

    expected = closing_edit(torch.stack([d.double() for d in deltas]), coefficients).float()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.proves("doge_protected", by="property")
def test_the_merge_adds_the_edit_to_what_each_source_keeps() -> None:
    deltas, coefficients = problem()
    edit = protected_edit(deltas, coefficients, protected_directions(deltas, 1 / 6))
    expected = torch.zeros(9, 14)
    for delta, coefficient in zip(deltas, coefficients, strict=True):
        threshold = delta.abs().flatten().sort(descending=True).values[int(0.3 * 126) - 1]
        expected += float(coefficient) * torch.where(delta.abs() >= threshold, delta + edit, 0.0)

    found = merge_tensor(METHODS["doge_protected"], torch.zeros(9, 14), dict(zip("abc", deltas, strict=True)))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (2, 30)])
def test_thin_matrices_stay_finite(shape: tuple[int, int]) -> None:
    deltas, _ = problem(shape, num=4)
    found = merge_tensor(METHODS["doge_protected"], torch.zeros(shape), dict(zip("abcd", deltas, strict=True)))

    assert bool(found.isfinite().all())
    zero = {source: torch.zeros(shape) for source in "ab"}
    assert not merge_tensor(METHODS["doge_protected"], torch.zeros(shape), zero).any()
