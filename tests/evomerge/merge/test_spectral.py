"""Singular values by Gram matrices, polar factors, maps of spectra."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evomerge.merge.primitives.spectral import (
    count_for,
    effective_rank,
    eigen_in_place,
    flatten,
    gaussian,
    keep_first,
    lift,
    newton_schulz,
    numerical_rank,
    polar,
    randomized_svd,
    remapped,
    same_nuclear_norm,
    singular_values,
    svd,
)

SHAPES = [(60, 90), (90, 60), (64, 64), (1, 7), (7, 1), (1, 1)]


def matrix(shape: tuple[int, int], decades: float = 0.0, rank: int | None = None, seed: int = 0) -> Tensor:
    """Float32 with singular values from 1 down over so many decades, then zeros."""
    generator = torch.Generator().manual_seed(seed)
    size = min(shape)
    sides = [torch.randn(n, size, generator=generator, dtype=torch.float64) for n in shape]
    left, right = (torch.linalg.qr(side)[0] for side in sides)
    values = torch.logspace(0, -decades, size, dtype=torch.float64)
    values[rank if rank is not None else size :] = 0
    return ((left * values) @ right.t()).float()


def assert_orthonormal(columns: Tensor) -> None:
    eye = torch.eye(columns.shape[1])
    torch.testing.assert_close(columns.t() @ columns, eye, rtol=0, atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("decades", [0, 3, 5, 7, 9, 14])
def test_the_decomposition_is_exact_to_float32_however_ill_conditioned(shape: tuple[int, int], decades: float) -> None:
    x = matrix(shape, decades)
    found, whole = svd(x), svd(x, complete=True)

    reference = np.linalg.svd(x.double().numpy(), compute_uv=False)
    np.testing.assert_allclose(whole.values.numpy(), reference, rtol=0, atol=2e-8 * reference[0])
    assert len(whole.values) == min(shape)
    for parts in (found, whole):
        assert_orthonormal(parts.left)
        assert_orthonormal(parts.right.t())
        torch.testing.assert_close(parts.matrix, x, rtol=0, atol=1e-6)
        assert bool((parts.values.diff() <= 0).all())


@pytest.mark.parametrize("decades", [2, 4, 6])
def test_small_singular_values_have_relative_accuracy_where_lapacks_float32_has_none(decades: float) -> None:
    x = matrix((50, 70), decades)
    reference = torch.linalg.svdvals(x.double())

    ours = ((svd(x).values - reference) / reference).abs().max()
    theirs = ((torch.linalg.svdvals(x).double() - reference) / reference).abs().max()
    assert float(ours) < 1e-6
    assert decades < 6 or float(theirs) > 1e-2


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("decades", [1, 6])
def test_the_largest_components_alone_are_the_same(shape: tuple[int, int], decades: float) -> None:
    x = matrix(shape, decades)

    for count in (0, 1, min(shape) // 2, min(shape), 1000):
        found, expected = svd(x, count=count), svd(x).first(count)
        torch.testing.assert_close(found.values, expected.values)
        torch.testing.assert_close(found.matrix, expected.matrix)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("decades", [1, 5, 12])
def test_maps_apply_without_right_vectors(shape: tuple[int, int], decades: float) -> None:
    x = matrix(shape, decades)
    parts = svd(x)

    for count in (0, 1, min(shape) // 2, min(shape)):
        expected = parts.with_values(2 * keep_first(parts.values, count)).matrix
        found = remapped(x, lambda values, count=count: 2 * keep_first(values, count))
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def test_small_directions_are_right_too() -> None:
    x = matrix((40, 60), decades=6)
    left = torch.linalg.svd(x.double(), full_matrices=False)[0].float()

    overlap = (svd(x).left * left).sum(dim=0).abs()
    assert float(overlap.min()) > 1 - 1e-5


@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (40, 40)])
@pytest.mark.parametrize("rank", [0, 1, 7])
def test_a_low_rank_is_seen(shape: tuple[int, int], rank: int) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape[0], rank, generator=generator) @ torch.randn(rank, shape[1], generator=generator)
    found, whole = svd(x), svd(x, complete=True)

    assert numerical_rank(found.values, shape) == rank
    assert numerical_rank(singular_values(x), shape) == rank
    assert len(whole.values) == min(shape)
    assert_orthonormal(whole.left)
    assert_orthonormal(whole.right.t())
    torch.testing.assert_close(found.matrix, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_matrix_of_zeros_has_no_components(shape: tuple[int, int]) -> None:
    zeros = torch.zeros(shape)

    assert len(svd(zeros).values) == 0
    assert torch.equal(svd(zeros).matrix, zeros)
    assert torch.equal(svd(zeros, complete=True).matrix, zeros)
    assert torch.equal(polar(zeros), zeros)
    assert torch.equal(newton_schulz(zeros), zeros)
    assert singular_values(zeros).tolist() == [0] * min(shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_alone_are_the_same(shape: tuple[int, int]) -> None:
    x = matrix(shape, decades=3)

    torch.testing.assert_close(singular_values(x), svd(x).values, rtol=1e-7, atol=1e-9)


def test_scale_does_not_matter() -> None:
    x = matrix((30, 20), decades=5)

    for scale in (2.0**-60, 2.0**40):
        torch.testing.assert_close(svd(x * scale).values / scale, svd(x).values, rtol=1e-9, atol=0)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (50, 50)])
@pytest.mark.parametrize("decades", [0.3, 2, 3])
def test_newton_schulz_is_the_polar_factor(shape: tuple[int, int], decades: float) -> None:
    x = matrix(shape, decades) * 1e-3

    torch.testing.assert_close(newton_schulz(x), polar(x), rtol=0, atol=2e-4)
    factor = polar(x) if shape[0] >= shape[1] else polar(x).t()
    assert_orthonormal(factor)


def test_polar_factors_of_a_rank_deficient_matrix_leave_its_null_space_alone() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(30, 5, generator=generator) @ torch.randn(5, 40, generator=generator)

    values = svd(polar(x), complete=True).values
    torch.testing.assert_close(values, keep_first(torch.ones_like(values), 5), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(newton_schulz(x), polar(x), rtol=0, atol=2e-4)


def test_the_mean_singular_value_is_the_polar_factors_share() -> None:
    x = matrix((20, 33), decades=1)

    share = float((newton_schulz(x).double() * x.double()).sum()) / 20
    assert share == pytest.approx(float(svd(x).values.mean()), rel=1e-5)


def falling(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_counts_reach_their_share() -> None:
    values = falling(4, 3, 2, 1)

    assert [count_for(values, share, 1) for share in (0.0, 0.4, 0.41, 0.7, 0.71, 1.0)] == [1, 1, 2, 2, 3, 4]
    assert [count_for(values, share, 2) for share in (0.5, 0.6, 1.0)] == [1, 2, 4]
    assert count_for(falling(), 0.5, 1) == 0


def test_maps_of_spectra() -> None:
    values = falling(4, 3, 2, 1)

    assert keep_first(values, 2).tolist() == [4, 3, 0, 0]
    assert same_nuclear_norm(keep_first(values, 1), as_in=values).tolist() == [10, 0, 0, 0]
    assert flatten(values).tolist() == [2.5] * 4
    torch.testing.assert_close(flatten(values, 0.0), values)
    assert lift(values, 1.0).tolist() == [4, 3, 2, 1]
    assert lift(values, 0.5).tolist() == [4, 3, 3, 3]
    assert lift(values, 0.0).tolist() == [4] * 4
    assert lift(falling(), 0.5).tolist() == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8), st.floats(0, 1))
def test_maps_keep_what_they_promise(numbers: list[float], share: float) -> None:
    values = falling(*sorted(numbers, reverse=True))

    assert float(flatten(values, share).sum()) == pytest.approx(float(values.sum()))
    assert bool((lift(values, share) >= values).all())
    assert torch.equal(lift(values, 1.0), values)
    assert bool((flatten(values, share).diff() <= 1e-9 * values[0]).all())


def test_effective_rank_counts_equal_singular_values() -> None:
    assert effective_rank(falling(2, 2, 2, 0)) == pytest.approx(3)
    assert effective_rank(falling(0, 0)) == 0
    assert 1 < effective_rank(falling(9, 1)) < 2


@pytest.mark.parametrize("shape", [(50, 80), (80, 50)])
def test_randomized_components_are_those_of_a_low_rank_matrix(shape: tuple[int, int]) -> None:
    x = matrix(shape, decades=1, rank=6)
    found = randomized_svd(x, 6, key=1)

    torch.testing.assert_close(found.matrix, x, rtol=0, atol=1e-5)
    assert_orthonormal(found.left)


def test_randomized_components_are_nearly_the_best_and_the_same_every_time() -> None:
    x = matrix((60, 90), decades=2)
    found, again = randomized_svd(x, 10, key=7), randomized_svd(x, 10, key=7)

    best = float(svd(x).values[10:].square().sum().sqrt())
    assert float((x - found.matrix).norm()) < 1.01 * best
    assert torch.equal(found.left, again.left)
    assert not torch.equal(found.left, randomized_svd(x, 10, key=8).left)
    assert len(randomized_svd(x, 500, key=7).values) == 60


def test_the_test_matrix_is_standard_normal_and_depends_on_its_key_alone() -> None:
    draws = gaussian(3, 300, 300)
    torch.manual_seed(0)

    assert torch.equal(draws, gaussian(3, 300, 300))
    assert abs(float(draws.mean())) < 0.02
    assert float(draws.std()) == pytest.approx(1, abs=0.02)
    assert float((draws.abs() < 1.96).float().mean()) == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize("shape", [(40, 700), (700, 40), (300, 300)])
@pytest.mark.parametrize("weakest", [1e-2, 1e-6])
def test_many_columns_and_weak_directions_are_found_a_few_columns_at_a_time(
    shape: tuple[int, int], weakest: float
) -> None:
    """More columns than are held in float64 at a time, and singular values on both sides of the split."""
    generator = torch.Generator().manual_seed(0)
    k = min(shape)
    left, right = (torch.linalg.qr(torch.randn(n, k, generator=generator, dtype=torch.float64))[0] for n in shape)
    values = torch.logspace(0, float(torch.log10(torch.tensor(weakest))), k, dtype=torch.float64)
    matrix = ((left * values) @ right.t()).float()
    found = svd(matrix)

    assert torch.allclose(found.values, torch.linalg.svdvals(matrix.double()), rtol=1e-6, atol=2e-8)
    assert torch.allclose(found.matrix, matrix, atol=1e-6)
    for basis in (found.left.double(), found.right.t().double()):
        assert torch.allclose(basis.t() @ basis, torch.eye(k, dtype=torch.float64), atol=1e-5)


def test_eigenvectors_come_to_lie_where_the_matrix_was() -> None:
    half = torch.randn(20, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    matrix = half @ half.t()
    kept = matrix.clone()
    vectors, values = eigen_in_place(matrix)

    assert vectors.data_ptr() == matrix.data_ptr()
    assert torch.allclose((vectors * values) @ vectors.t(), kept)
    assert bool((values.diff() >= 0).all())
