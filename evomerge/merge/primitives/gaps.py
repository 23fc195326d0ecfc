"""The edit of all task vectors that closes the gap between each and their sum."""

from __future__ import annotations

import torch
from torch import Tensor

_RANK = 1e-12
"""Share of a Gram matrix's largest eigenvalue under which another counts as 0."""


def closing_edit(vectors: Tensor, coefficients: Tensor) -> Tensor:
    """The shortest δ that minimises Σj Σrows ⟨τj, τj − S − Λ·δ⟩², S = Σ λj·τj, Λ = Σ λj, in closed form.

    Row by row, with V the task vectors' rows: δ = V⁺c / Λ, cj = ⟨τj, τj − S⟩. The Gram matrix G = VVᵀ is all that it
    takes: c = diag G − G·λ and V⁺ = VᵀG⁺. Where V has full row rank the minimum is 0.

    Args:
        vectors: τ, (N × rows × columns), float64.
        coefficients: λ > 0, (N), float64.

    Returns:
        δ, (rows × columns), float64.

    Source: Wei et al. 2025, Modeling Multi-Task Model Merging as Adaptive Projective Gradient Descent,
    arXiv:2501.01230, the data-free objective; there 400 steps of Adam follow its gradient, which move an entry by 0.04
    at most, whatever the scale of the weights.
    """
    gram = torch.einsum("irc,jrc->rij", vectors, vectors)
    gaps = torch.diagonal(gram, dim1=1, dim2=2) - gram @ coefficients
    solution = torch.linalg.pinv(gram, rtol=_RANK, hermitian=True) @ gaps[..., None]
    return torch.einsum("rj,jrc->rc", solution[..., 0], vectors) / coefficients.sum()
