"""How many items a generation needs: where a further item pays less than a further candidate.

τ is the standard deviation of full scores among the candidates compared, v the variance of an estimate's error. The
reliability τ² / (τ² + v) is the squared correlation of estimates with full scores; picking the best of K by estimates
gains τ · √reliability · E[max of K standard normals] over a random one (Lord and Novick 1968, chapters 3 and 5).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats

OVERHEAD = 100.0
"""What a candidate costs before its first item, in items: merging and loading a 7B model takes as long as some hundred
short items."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A method and how many items to ask.

    Attributes:
        method: by name.
        n: items for each candidate.
        reliability: squared correlation of its estimates with full scores, among candidates as alike as was said.
        gain: full score that picking the best of the candidates gains, on average.
    """

    method: str
    n: int
    reliability: float
    gain: float


def reliability(spread: float, variance: float) -> float:
    """Share of the variance of estimates that is the candidates' own; 0 where they do not differ."""
    total = spread**2 + variance
    return spread**2 / total if total > 0 else 0.0


def error_variance(residual: float, n: int, num_items: int) -> float:
    """Of a mean from n of N items without replacement, `residual` being the standard deviation of what is averaged."""
    return residual**2 * (1 - n / num_items) / n


def variance_from_tau(tau: float, spread: float) -> float:
    """Error variance of estimates whose Kendall τ with full scores is `tau`, among subjects of such a spread.

    By Greiner's relation for normal variables, correlation = sin(π τ / 2); infinite where τ ≤ 0 (or is not known).
    """
    correlation = math.sin(math.pi * tau / 2) if tau > 0 else 0.0
    return spread**2 * (1 / correlation**2 - 1) if correlation > 1e-6 else math.inf


@lru_cache(maxsize=256)
def expected_best(candidates: int) -> float:
    """E[max of K standard normals]; 0 for one.

    >>> round(expected_best(16), 2)
    1.77
    """
    z = np.linspace(-9.0, 9.0, 4001)
    density = candidates * stats.norm.pdf(z) * stats.norm.cdf(z) ** (candidates - 1)
    return float(np.trapezoid(z * density, z))


def recommend(
    variances: Iterable[tuple[str, int, float]],
    spread: float,
    *,
    candidates: int = 16,
    overhead: float = OVERHEAD,
) -> Recommendation:
    """The method and n with the highest gain for its cost, overhead + n; the first named on ties.

    Args:
        variances: method, n, and the variance of its error there; at least one.
        spread: τ, in the score's unit.
        candidates: K.
        overhead: what a candidate costs before its first item, in items.

    Raises:
        ValueError: nothing to choose from.
    """
    found = [
        Recommendation(method, n, r, spread * math.sqrt(r) * expected_best(candidates))
        for method, n, variance in variances
        for r in [reliability(spread, variance)]
    ]
    if not found:
        raise ValueError("no methods to recommend one of")
    return max(found, key=lambda one: one.gain / (overhead + one.n))


def recommended_number(
    spread: float, residual: float, num_items: int, *, candidates: int = 16, overhead: float = OVERHEAD
) -> Recommendation:
    """How many of N items, for an estimate by sampling alone: `residual` from a generation's own answers."""
    counts = sorted({min(num_items, round(2 ** (k / 4))) for k in range(8, 4 * 14)})
    return recommend(
        [("sampling", n, error_variance(residual, n, num_items)) for n in counts],
        spread,
        candidates=candidates,
        overhead=overhead,
    )
