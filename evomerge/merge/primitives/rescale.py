"""Rescalers: what makes up for the entries that a sparsifier dropped."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor

from evomerge.merge.primitives.measure import inner, total

NORMS = ("l1", "l2", "linf")


def inverse(density: float) -> float:
    """1/p: keeps the expectation of every entry; 0 when nothing is kept, and at most what masks resolve (2³²).

    Source: Yu et al. 2024, DARE, arXiv:2311.03099, eq. 2 (with p the drop rate, 1/(1 − p)).
    """
    return 1.0 / max(density, 2.0**-32) if density > 0 else 0.0


def matching(norm: str, pairs: Iterable[tuple[str, Tensor, Tensor]]) -> dict[str, float]:
    """Per source the factor that gives what survives the norm of the whole; 1 when nothing is left to scale.

    Args:
        norm: one of NORMS.
        pairs: source, task vector, its surviving entries; block by block.
    """
    before: dict[str, float] = {}
    after: dict[str, float] = {}
    for source, whole, kept in pairs:
        for sums, values in ((before, whole), (after, kept)):
            part, known = _measured(norm, values), sums.get(source, 0.0)
            sums[source] = max(known, part) if norm == "linf" else known + part
    factors = {source: before[source] / kept if kept > 0 else 1.0 for source, kept in after.items()}
    return {source: math.sqrt(f) for source, f in factors.items()} if norm == "l2" else factors


def _measured(norm: str, values: Tensor) -> float:
    """What adds up (for `linf`: what the largest is taken of) over blocks."""
    if norm == "l2":
        return inner(values, values)
    if norm == "linf":
        return float(values.abs().max()) if values.numel() else 0.0
    return total(values.abs())
