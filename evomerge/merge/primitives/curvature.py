"""Means that weigh every entry by how much the loss depends on it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from evomerge.merge.primitives.spectral import singular_values


def weighted_mean(deltas: Mapping[str, Tensor | None], weights: Mapping[str, Tensor], like: Tensor) -> Tensor:
    """Σ w δ / Σ w entry by entry, in float64: products of second moments and task vectors leave float32's range.

    Args:
        deltas: source → δ; None is zeros.
        weights: source → w ≥ 0, of δ's shape, any float dtype.
        like: gives shape and device.

    Returns:
        float32, new memory; 0 where no source has any weight.
    """
    top = torch.zeros_like(like, dtype=torch.float64)
    mass = torch.zeros_like(top)
    for source, weight in weights.items():
        wide = weight.double()
        mass.add_(wide)
        delta = deltas[source]
        if delta is not None:
            top.addcmul_(wide, delta.double())
    return torch.where(mass > 0, top / mass.where(mass > 0, 1.0), 0.0).float()


def spectral_norm(matrix: Tensor) -> float:
    """The largest singular value of a float32 matrix, to 10⁻⁷ of it."""
    return float(singular_values(matrix)[0]) if matrix.numel() else 0.0


def operator_norm(tensor: Tensor, kind: str) -> float:
    """The norm that fits a tensor's place in a network, up to a factor that depends on the shape alone.

    Of a matrix the spectral norm (from inputs of unit mean square to outputs), of a vocabulary (rows are tokens, so
    inputs are one-hot, as the authors' code has it) the largest Euclidean norm of a column, of a vector the root of
    the mean square.

    Source: Mahdavinia et al. 2025, OTA Merging, arXiv:2509.11167, and the authors' code.
    """
    if kind == "matrix":
        return spectral_norm(tensor)
    if kind == "vocabulary":
        return float(tensor.double().norm(dim=0).max()) if tensor.numel() else 0.0
    return float(tensor.double().square().mean().sqrt()) if tensor.numel() else 0.0
