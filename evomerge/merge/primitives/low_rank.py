"""Task vectors as LoRA factors: exact where the rank allows it, else the best approximation of that rank.

Source: Vasani et al. 2025, PHLoRA: data-free Post-hoc Low-Rank Adapter extraction from full-rank checkpoint,
arXiv:2509.10971: δ = UΣVᵀ, B = U√Σ, A = √ΣVᵀ, cut at a rank or at a share of the energy Σσ².
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from evomerge.models.factors import Factors

NOISE = 1e-7
"""Singular values below this share of the largest are rounding errors of float32, not part of a task vector."""
_ROWS = 256
"""Rows whose error is computed at a time."""


def truncated(delta: Tensor, rank: int | None, energy: float | None) -> tuple[Factors, float]:
    """The factors of a matrix and how much of it they miss.

    Through the eigenvectors of the smaller Gram matrix in float64: what is cut off is orthogonal to what stays, so that
    the factors are a projection of δ itself and no singular value is computed twice.

    Args:
        delta: out × in.
        rank: most ranks; None: no limit.
        energy: share of Σσ² that is kept at least; None: all that `rank` allows.

    Returns:
        the factors (rank 0 where δ = 0), and ‖δ − B·A‖ / ‖δ‖ with the factors as they are in float32.
    """
    if delta.shape[0] > delta.shape[1]:
        turned, error = truncated(delta.t(), rank, energy)
        return turned.turned, error
    whole = delta.double()
    norm = float(torch.linalg.vector_norm(whole))
    squares, U = torch.linalg.eigh(whole @ whole.t())
    squares, U = squares.flip(0).clamp_min(0), U.flip(1)
    count = ranks_needed(squares, rank, energy)
    root = squares[:count].sqrt().sqrt()
    B = (U[:, :count] * root).float()
    A = ((U[:, :count].t() @ whole) / root[:, None]).float()
    found = Factors(A.contiguous(), B.contiguous())
    return found, _missed(whole, found) / norm if norm else 0.0


def _missed(whole: Tensor, factors: Factors) -> float:
    """‖δ − B·A‖, some rows at a time."""
    A = factors.A.double()
    parts = (slice(first, first + _ROWS) for first in range(0, len(whole), _ROWS))
    return math.sqrt(math.fsum(float((whole[at] - factors.B[at].double() @ A).square().sum()) for at in parts))


def reduced(factors: Factors, rank: int | None, energy: float | None) -> tuple[Factors, float]:
    """The same for a matrix that is given by factors: no matrix of its size is made.

    Factors that satisfy the limits as they are stay as they are, to the byte.
    """
    if energy is None and (rank is None or factors.rank <= rank):
        return factors, 0.0
    Q_B, R_B = torch.linalg.qr(factors.B.double())
    Q_A, R_A = torch.linalg.qr(factors.A.double().t())
    U, S, V = torch.linalg.svd(R_B @ R_A.t())
    squares = S.square()
    count = ranks_needed(squares, rank, energy)
    root = S[:count].sqrt()
    B, A = Q_B @ (U[:, :count] * root), (root[:, None] * V[:count]) @ Q_A.t()
    total = float(squares.sum())
    error = (float(squares[count:].sum()) / total) ** 0.5 if total else 0.0
    return Factors(A.float().contiguous(), B.float().contiguous()), error


def ranks_needed(squares: Tensor, rank: int | None, energy: float | None) -> int:
    """How many ranks are kept, at most.

    Args:
        squares: σ², falling.

    >>> ranks_needed(torch.tensor([9.0, 4.0, 1.0, 0.0]), None, 0.9)
    2
    """
    count = int((squares > NOISE**2 * squares[0]).sum())
    if energy is not None and count:
        shares = squares[:count].cumsum(0) / squares[:count].sum()
        count = min(count, int((shares < energy).sum()) + 1)
    return min(count, rank) if rank is not None else count
