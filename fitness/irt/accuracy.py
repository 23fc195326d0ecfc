"""How good estimates of full scores are, where the full scores are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from fitness.irt.contracts import Scores, Selection
from fitness.matrix import Floats

CANDIDATES = 16
"""Of which the best is picked, for regret and inflation."""

PICKS = 64
"""Groups of candidates drawn for each set of estimates."""

LEVEL = 0.9
"""Of the intervals whose coverage is counted."""


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


def accuracy(
    truth: Floats, found: Sequence[Scores], random: np.random.Generator, *, freedom: int | None = None
) -> Accuracy:
    """Compare sets of estimates with the full scores [K] of the same K subjects.

    Args:
        random: groups the subjects.
        freedom: of the intervals of estimates that rest on the draw alone, which are Student's t; see `freedom`. Those
            of models are normal.

    Raises:
        ValueError: no estimates, or not K of them in a set.
    """
    if not found or any(scores.means.shape != truth.shape for scores in found):
        raise ValueError(f"sets of {len(truth)} estimates are needed, at least one")
    means = np.array([scores.means for scores in found])
    errors = np.array([scores.errors for scores in found])
    off = means - truth
    picks = [_pick(truth, row, random) for row in means]
    with_error = np.isfinite(errors)
    # Rounding must not decide whether an exact estimate with error 0 is covered.
    widths = np.array([half_width(freedom if scores.unbiased else None) for scores in found])[:, None]
    inside = np.abs(off) <= widths * errors + 1e-9
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


def freedom(selection: Selection) -> int:
    """Degrees of freedom of a mean's error: items drawn less the strata that they were drawn from, at least 1."""
    strata = len(np.unique(selection.strata[selection.random]))
    return max(int(selection.random.sum()) - strata, 1)


def half_width(freedom: int | None, level: float = LEVEL) -> float:
    """Of an interval, in standard errors, for an estimate with so many degrees of freedom; None is normal.

    >>> round(half_width(None), 3), round(half_width(19), 3)
    (1.645, 1.729)
    """
    quantile = 0.5 + level / 2
    return float(stats.norm.ppf(quantile) if freedom is None else stats.t.ppf(quantile, freedom))


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
