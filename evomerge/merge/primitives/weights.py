"""Weights: how much each source counts."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from evomerge.errors import InvalidInputError
from evomerge.merge.method import Values


def number(values: Values, name: str) -> float:
    """A resolved parameter that the plan has checked to be a number."""
    value = values[name]
    assert isinstance(value, int | float), f"{name} is {value!r} after planning"
    return float(value)


def of_sources(per_source: Mapping[str, Values]) -> dict[str, float]:
    """Source name → its `weight`."""
    return {source: number(values, "weight") for source, values in per_source.items()}


def normalised(weights: Mapping[str, float]) -> dict[str, float]:
    """w / Σ w.

    Raises:
        InvalidInputError: Σ w is 0 (or so near that float32 cannot hold the quotients).
    """
    total = sum(weights.values())
    scaled = {source: weight / total for source, weight in weights.items()} if total else {}
    if not all(abs(w) <= torch.finfo(torch.float32).max for w in scaled.values()) or not scaled:
        raise InvalidInputError("weight", dict(weights), "weights whose sum is not 0, or normalize: false")
    return scaled


def check_sum(weights: Mapping[str, float], *, magnitudes: bool = False) -> None:
    """Refuse weights that cannot be normalised, before any tensor is read.

    Args:
        magnitudes: the method divides by Σ|w| instead of Σw.
    """
    normalised({s: abs(w) for s, w in weights.items()} if magnitudes else weights)
