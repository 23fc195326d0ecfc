"""Joint diagonalisation: one pair of bases for many LoRA adapters, and a small core for each.

Source: Brüel Gabrielsson et al. 2024, Compress then Serve: Serving Thousands of LoRA Adapters with Little Overhead,
arXiv:2407.00066: min Σ_i ‖B_i A_i − U Σ_i Vᵀ‖² with U, V shared; Σ_i full (JD-Full) or diagonal (JD-Diag).

Both run on the adapters' cores between lossless bases of all of them, whose size is the sum of the ranks, whatever the
model's width: errors and solutions are those of the full matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# N adapters, P rows and Q columns of their lossless cores, K shared components


@dataclass(frozen=True, slots=True)
class Joint:
    """Shared bases and the adapters' parts in them.

    Attributes:
        U: P × K.
        V: Q × K.
        cores: N × K × K.
        errors: Σ_i ‖M_i − U Σ_i Vᵀ‖² after each iteration.
    """

    U: Tensor
    V: Tensor
    cores: Tensor
    errors: tuple[float, ...]

    def combined(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """U·(Σ w_i Σ_i) and V: left and right factor of the weighted sum."""
        return self.U @ torch.einsum("n,nkl->kl", weights.to(self.cores), self.cores), self.V


def full(M_NPQ: Tensor, components: int, iterations: int) -> Joint:
    """JD-Full: U and V orthonormal, Σ_i = Uᵀ M_i V.

    In turn, U becomes the leading eigenvectors of Σ M_i V Vᵀ M_iᵀ and V those of Σ M_iᵀ U Uᵀ M_i: each step is the best
    for the other basis, so that the error never grows.
    """
    U, V = _start(M_NPQ, components)
    errors = []
    for _ in range(iterations):
        U = _leading(torch.einsum("npk,nqk->pq", left := M_NPQ @ V, left), components)
        V = _leading(torch.einsum("npk,nqk->pq", right := M_NPQ.mT @ U, right), components)
        errors.append(_error(M_NPQ, U, V, U.mT @ M_NPQ @ V))
    return Joint(U, V, U.mT @ M_NPQ @ V, tuple(errors))


def diagonal(M_NPQ: Tensor, components: int, iterations: int) -> Joint:
    """JD-Diag: Σ_i diagonal, U and V any matrices: alternating least squares in U, V and the diagonals.

    The solver is ours (the objective alone is the paper's): each step solves its part exactly, through a pseudo-inverse
    where components coincide, so that the error never grows.
    """
    U, V = _start(M_NPQ, components)
    S_NK = _diagonals(M_NPQ, U, V)
    errors = []
    for _ in range(iterations):
        U = _solved(torch.einsum("npq,qk,nk->pk", M_NPQ, V, S_NK), (V.mT @ V) * (S_NK.mT @ S_NK))
        V = _solved(torch.einsum("npq,pk,nk->qk", M_NPQ, U, S_NK), (U.mT @ U) * (S_NK.mT @ S_NK))
        S_NK = _diagonals(M_NPQ, U, V)
        errors.append(_error(M_NPQ, U, V, torch.diag_embed(S_NK)))
    return Joint(U, V, torch.diag_embed(S_NK), tuple(errors))


def _start(M_NPQ: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """Leading left and right directions of all cores together."""
    left = torch.einsum("npq,nrq->pr", M_NPQ, M_NPQ)
    right = torch.einsum("npq,npr->qr", M_NPQ, M_NPQ)
    return _leading(left, components), _leading(right, components)


def _leading(gram: Tensor, components: int) -> Tensor:
    vectors: Tensor = torch.linalg.eigh(gram).eigenvectors
    return vectors[:, -components:].flip(1)


def _diagonals(M_NPQ: Tensor, U: Tensor, V: Tensor) -> Tensor:
    return _solved(torch.einsum("pk,npq,qk->nk", U, M_NPQ, V), (U.mT @ U) * (V.mT @ V))


def _solved(right: Tensor, gram: Tensor) -> Tensor:
    """X with X·G = R, in the least-squares sense."""
    inverse: Tensor = torch.linalg.pinv(gram, rtol=1e-12, hermitian=True)
    return right @ inverse


def _error(M_NPQ: Tensor, U: Tensor, V: Tensor, cores: Tensor) -> float:
    return float((M_NPQ - U @ cores @ V.mT).square().sum())
