from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.models.product import rounded_product


def factors(seed: int, rows: int, rank: int, columns: int, spread: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random factors whose entries differ by up to `spread` powers of ten."""
    at = torch.Generator().manual_seed(seed)
    B, A = torch.randn(rows, rank, generator=at), torch.randn(rank, columns, generator=at)
    return B * 10 ** (spread * torch.rand(rank, generator=at)), A


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), rank=st.integers(1, 9), spread=st.sampled_from([0.0, 6.0]))
def test_every_entry_is_the_exact_sum_rounded(seed: int, rank: int, spread: float) -> None:
    B, A = factors(seed, 4, rank, 5, spread)
    product = rounded_product(B, A, 0.5)  # a power of two: scaling adds no rounding of its own

    for i in range(4):
        for j in range(5):
            exact = sum(Fraction(B[i, k].item()) * Fraction(A[k, j].item()) for k in range(rank)) / 2
            assert product[i, j].item() == torch.tensor(float(exact)).item()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), spread=st.sampled_from([0.0, 6.0]), scale=st.sampled_from([2.0, 1 / 3, -0.7]))
def test_the_order_of_the_sum_changes_no_byte(seed: int, spread: float, scale: float) -> None:
    B, A = factors(seed, 60, 24, 70, spread)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(rounded_product(B, A, scale), rounded_product(B[:, order], A[order], scale))


def test_blocks_and_threads_change_no_byte() -> None:
    B, A = factors(0, 700, 16, 3000)  # 2.1 million entries: three blocks
    whole = rounded_product(B, A, 2.0)

    assert torch.equal(whole[500:], rounded_product(B[500:], A, 2.0))
    assert torch.equal(whole[:, :7], rounded_product(B, A[:, :7], 2.0))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert torch.equal(whole, rounded_product(B, A, 2.0))
    finally:
        torch.set_num_threads(threads)


def test_cancelling_terms_are_summed_exactly() -> None:
    B = torch.tensor([[1e8, 1.0, -1e8]])
    A = torch.tensor([[1e8], [1e-8], [1e8]])

    assert rounded_product(B, A, 1.0).item() == torch.tensor(1e-8).item()


def test_ties_of_short_factors_go_to_the_even_neighbour() -> None:
    """bfloat16 factors: the float64 sum is exact and often lies in the middle between two float32."""
    B, A = (factor.bfloat16() for factor in factors(0, 300, 12, 200))
    exact = B.double() @ A.double()

    assert torch.equal(rounded_product(B, A, 2.0), (exact * 2).float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_zero_factors_give_positive_zero(dtype: torch.dtype) -> None:
    product = rounded_product(torch.zeros(3, 2, dtype=dtype), -torch.ones(2, 4, dtype=dtype), -1.0)

    assert product.dtype == torch.float32
    assert torch.equal(product, torch.zeros(3, 4))
    assert not product.signbit().any()
