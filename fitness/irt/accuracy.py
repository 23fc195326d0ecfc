"""How good estimates of full scores are, where the full scores are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from fitness.irt.contracts import Scores
from fitness.irt.intervals import intervals
from fitness.matrix import Floats

CANDIDATES = 16
"""Of which the best is picked, for regret and inflation."""

PICKS = 64
"""Groups of candidates drawn for each set of estimates."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Averages over sets of estimates of the same subjects' full scores, each from other items; in the score's unit.

    Attributes:
        mae, bias, rmse: of the estimates; bias is positive where they are too high.
        tau: Kendall's τ-b between estimates and full scores; NaN where either never varies.
        regret: full score lost by picking the best by estimate out of 16 subjects (all, if fewer).
        inflation: estimate minus full score of the one picked.
        coverage: share of full scores inside the nominal 90 % interval; NaN for methods without.
        num_estimates: how many estimates were compared.
    """

    mae: float
    bias: float
    rmse: float
    tau: float
    regret: float
    inflation: float
    coverage: float
    num_estimates: int


def accuracy(truth: Floats, found: Sequence[Scores], random: np.random.Generator) -> Accuracy:
    """Compare sets of estimates with the full scores [K] of the same K subjects.

    Args:
        random: groups the subjects.

    Raises:
        ValueError: no estimates, or not K of them in a set.
    """
    if not found or any(scores.means.shape != truth.shape for scores in found):
        raise ValueError(f"sets of {len(truth)} estimates are needed, at least one")
    means = np.array([scores.means for scores in found])
    low, high = (np.array(ends) for ends in zip(*(intervals(scores) for scores in found), strict=True))
    off = means - truth
    picks = [_pick(truth, row, random) for row in means]
    with_error = np.isfinite(low)
    # Rounding must not decide whether an exact estimate with error 0 is covered.
    inside = (low - 1e-9 <= truth) & (truth <= high + 1e-9)
    return Accuracy(
        mae=float(np.abs(off).mean()),
        bias=float(off.mean()),
        rmse=float(np.sqrt((off**2).mean())),
        tau=_mean_of([kendall(row, truth) for row in means]),
        regret=float(np.mean([regret for regret, _ in picks])),
        inflation=float(np.mean([inflation for _, inflation in picks])),
        coverage=float(inside[with_error].mean()) if with_error.any() else float("nan"),
        num_estimates=off.size,
    )


def kendall(left: Floats, right: Floats) -> float:
    """Kendall's τ-b; NaN where either side never varies."""
    if len(left) < 2 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return float("nan")
    return float(stats.kendalltau(left, right).statistic)


def _mean_of(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _pick(truth: Floats, estimates: Floats, random: np.random.Generator) -> tuple[float, float]:
    """Mean regret and inflation of the best by estimate, over groups drawn at random."""
    size = min(CANDIDATES, len(truth))
    groups = np.argsort(random.random((PICKS, len(truth))), axis=1)[:, :size]
    best = groups[np.arange(PICKS), np.argmax(estimates[groups], axis=1)]
    regret = truth[groups].max(axis=1) - truth[best]
    return float(regret.mean()), float((estimates[best] - truth[best]).mean())
