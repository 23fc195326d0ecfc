"""Edits that leave a protected subspace of outputs alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evomerge.merge.primitives.spectral import svd


def protected_directions(deltas: Sequence[Tensor], share: float) -> Tensor:
    """The output directions that most of the task vectors use: leading left singular vectors of the stack of each
    one's leading left singular vectors, min(out, in) / N apiece.

    Args:
        deltas: τ, [out, in], one or more.
        share: of min(out, in) directions, rounded down.

    Returns:
        orthonormal columns, [out, k], float32.

    Source: Wei et al. 2025, Modeling Multi-Task Model Merging as Adaptive Projective Gradient Descent,
    arXiv:2501.01230, the shared subspace.
    """
    size = min(deltas[0].shape)
    each = max(1, size // len(deltas))
    stack = torch.cat([svd(delta, count=each).left for delta in deltas], dim=1)
    return svd(stack, count=int(share * size + 1e-9)).left


def protected_edit(deltas: Sequence[Tensor], coefficients: Tensor, directions: Tensor, steps: int = 100) -> Tensor:
    """The shortest δ = (I − QQᵀ) δ that minimises Σj Σrows ⟨τj, τj − S − Λ·δ⟩², S = Σ λj·τj, Λ = Σ λj.

    It is where gradient descent from 0 ends whose every gradient loses its part in the protected directions: found by
    conjugate gradients (on the normal equations), which take a few dozen steps in place of hundreds of Adam's.

    Args:
        deltas: τ, [out, in], as many as coefficients.
        coefficients: λ > 0, [N], float64.
        directions: Q, orthonormal columns, [out, k].
        steps: at most.

    Returns:
        δ, [out, in], float32.

    Source: Wei et al. 2025, as above, the projective gradient descent.
    """
    basis = directions.double()
    weight = float(coefficients.sum())

    def forward(edit: Tensor) -> Tensor:
        """Λ ⟨τj, δ⟩ for every source and row."""
        return torch.stack([(delta.double() * edit).sum(dim=1) for delta in deltas]).mul_(weight)

    def backward(gaps: Tensor) -> Tensor:
        """The adjoint, off the protected directions."""
        total = torch.zeros(deltas[0].shape, dtype=torch.float64, device=basis.device)
        for delta, gap in zip(deltas, gaps, strict=True):
            total.addcmul_(delta.double(), gap[:, None])
        total.mul_(weight)
        return total.sub_(basis @ (basis.t() @ total))

    gaps = _gaps(deltas, coefficients)
    edit = torch.zeros(deltas[0].shape, dtype=torch.float64, device=basis.device)
    direction = backward(gaps)
    power = first = float(direction.square().sum())
    for _ in range(steps):
        if power <= 1e-20 * first:
            break
        reached = forward(direction)
        length = power / float(reached.square().sum())
        edit.add_(direction, alpha=length)
        gaps = gaps - reached * length
        slope = backward(gaps)
        before, power = power, float(slope.square().sum())
        direction.mul_(power / before).add_(slope)
        del slope  # the next one is made beside what is held here: a float64 tensor less
    return edit.float()


def _gaps(deltas: Sequence[Tensor], coefficients: Tensor) -> Tensor:
    """⟨τj, τj − S⟩ for every source and row, float64, [N, out]."""
    shared = sum(
        (d.double() * c for d, c in zip(deltas, coefficients, strict=True)), torch.zeros((), dtype=torch.float64)
    )
    own = (delta.double() for delta in deltas)
    return torch.stack([(vector - shared).mul_(vector).sum(dim=1) for vector in own])
