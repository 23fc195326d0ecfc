"""A matrix product rounded once, so that the same factors give the same bytes on any machine."""

from __future__ import annotations

import torch
from torch import Tensor

# R rows, K rank, C columns, N entries in doubt

BLOCK_ENTRIES = 1 << 17
"""Entries of the product that are worked on at once: 1 MiB of float64, which stays in cache."""
UNIT = 2.0**-53
"""Half the distance from 1 to the next float64."""


def rounded_product(B_RK: Tensor, A_KC: Tensor, scale: float) -> Tensor:
    """scale · B·A in float32, each entry a function of its row and column alone.

    BLAS sums in an order of its own, which changes with the number of threads and the processor. So the float64 product
    comes with a bound on its error (Higham 2002, Accuracy and Stability of Numerical Algorithms, eq. 3.13), and where
    both ends of that interval round to one float32 that is the result. The few entries left are summed again, exactly
    for all that matters: about one in a million with float32 factors, some percent with bfloat16 factors, whose short
    products often sum to just the middle between two float32.

    Args:
        B_RK, A_KC: factors of any floating dtype, finite.
        scale: a factor on every entry.

    Returns:
        float32, R × C, new memory; no entry is −0.

    >>> rounded_product(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]]), 0.5)
    tensor([[5.5000]])
    """
    B, A = B_RK.double(), A_KC.double()
    out_RC = torch.empty(B.shape[0], A.shape[1], dtype=torch.float32)
    rows = max(1, BLOCK_ENTRIES // max(1, A.shape[1]))
    norm_C = torch.linalg.vector_norm(A, dim=0)
    for first in range(0, B.shape[0], rows):
        block = slice(first, first + rows)
        out_RC[block] = _block(B[block], A, norm_C, scale)
    return out_RC


def _block(B_RK: Tensor, A_KC: Tensor, norm_C: Tensor, scale: float) -> Tensor:
    product_RC = (B_RK @ A_KC).mul_(scale)
    # |error| ≤ γ_K |b|·|a| ≤ γ_K ‖b‖‖a‖; twice K + 4 roundings cover the norms, the scale and the bound itself.
    bound_R = torch.linalg.vector_norm(B_RK, dim=1) * (2 * (A_KC.shape[0] + 4) * UNIT * abs(scale))
    bound_RC = torch.outer(bound_R, norm_C)
    low_RC = (product_RC - bound_RC).float().add_(0.0)  # adding 0 turns −0 into 0
    high_RC = product_RC.add_(bound_RC).float()
    row_N, column_N = (low_RC != high_RC).nonzero(as_tuple=True)
    low_RC[row_N, column_N] = _dot(B_RK, A_KC, row_N, column_N).mul_(scale).float().add_(0.0)
    return low_RC


def _dot(B_RK: Tensor, A_KC: Tensor, row_N: Tensor, column_N: Tensor) -> Tensor:
    """Single entries of B·A, as if summed in twice the precision, term by term in one order.

    Source: Ogita, Rump and Oishi 2005, Accurate Sum and Dot Product, algorithm 5.3; the products of two float32 are
    exact in float64 and need no splitting. Elementwise operations alone, which are the same on every machine.
    """
    sum_N = torch.zeros(len(row_N), dtype=torch.float64)
    lost_N = torch.zeros_like(sum_N)
    for k in range(A_KC.shape[0]):
        term_N = B_RK[row_N, k] * A_KC[k, column_N]
        next_N = sum_N + term_N
        kept_N = next_N - sum_N
        lost_N += (sum_N - (next_N - kept_N)) + (term_N - kept_N)
        sum_N = next_N
    return sum_N + lost_N
