"""Intervals that hold a full score with a nominal probability, from an estimate and its error."""

from __future__ import annotations

import numpy as np
from scipy import stats

from fitness.irt.contracts import Scores
from fitness.matrix import Floats
from fitness.survey import wilson

LEVEL = 0.9


def intervals(scores: Scores, level: float = LEVEL) -> tuple[Floats, Floats]:
    """Lower and upper ends [K]; NaN where a score has no error, the score itself where its error is 0.

    Wilson 1927 for means of right and wrong answers: there the variance at either end follows from that end, nothing is
    estimated but the effect of strata and of a finite population, and the quantile is the normal distribution's.
    Student's t where the error has degrees of freedom, else normal; these may leave the metric's bounds.
    """
    if scores.graded is None:
        half = half_width(scores.freedom, level) * scores.errors
        return scores.means - half, scores.means + half
    known = np.clip(scores.means, 0.0, 1.0)
    low, high = wilson(known, np.maximum(scores.errors, 1e-12), scores.graded, half_width(None, level))
    return np.where(np.isnan(scores.errors), np.nan, low), np.where(np.isnan(scores.errors), np.nan, high)


def half_width(freedom: float | None, level: float = LEVEL) -> float:
    """Of an interval, in standard errors, for an estimate with so many degrees of freedom; None is normal.

    >>> round(half_width(None), 3), round(half_width(19), 3)
    (1.645, 1.729)
    """
    quantile = 0.5 + level / 2
    return float(stats.norm.ppf(quantile) if freedom is None else stats.t.ppf(quantile, freedom))
