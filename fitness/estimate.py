"""From responses to numbers with error bars: means over eval sets, intervals, and paired differences.

One candidate at a time; the arithmetic of samples is in `fitness.survey`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats

from evomerge.candidate import Estimate
from fitness.items import Item
from fitness.metrics import Bounds
from fitness.subset import CERTAIN, Subset
from fitness.survey import Design, Floats, difference_mean, stratified_mean, wilson

UNBOUNDED: Bounds = (None, None)
Estimates = dict[str, dict[str, Estimate]]
"""Objective or constraint → eval set → estimate of its mean."""


def estimate_mean(
    values: Sequence[float],
    subset: Subset,
    population: Sequence[Item] | Design,
    *,
    bounds: Bounds = UNBOUNDED,
    lattice: Sequence[float] | None = None,
    finite: bool = True,
) -> Estimate:
    """The metric's mean over the population, from the responses to a subset of it.

    Args:
        values: one per item of `subset.ids`, in that order.
        subset: the items asked and the strata that they were drawn from.
        population: every item that might have been asked, or what `design` made of it and of the subset.
        bounds: of the metric; responses that lie on the bounds only (right or wrong) get a standard error that is
            not 0 even when all are equal.
        lattice: the only values that such responses take; None is the two bounds.
        finite: whether the population itself is meant (the standard error is 0 when everything was asked), or the
            wider world of questions that it was taken from.

    Raises:
        ValueError: as many values as ids are needed, and ids of the population.
    """
    if len(values) != len(subset.ids) or len(values) == 0:
        raise ValueError(f"{len(values)} values for {len(subset.ids)} items; one each is needed, and at least one")
    known = population if isinstance(population, Design) else design(subset, population)
    y = np.asarray(values, dtype=np.float64)[None, :]
    means, errors = stratified_mean(y, known, bounds=bounds, lattice=lattice, finite=finite)
    return Estimate(float(means[0]), float(errors[0]), len(values))


def design(subset: Subset, population: Sequence[Item]) -> Design:
    """What a subset's items stand for in their population: made once, it serves all who answered the subset.

    Raises:
        ValueError: the subset names an item that is not in the population.
    """
    items = {item.id: item for item in population}
    unknown = [i for i in subset.ids if i not in items]
    if unknown:
        raise ValueError(f"item {unknown[0]!r} is not in the population of {len(items)} items")
    names, certain = sorted(set(subset.strata)), subset.certain
    simple = names in ([""], ["", CERTAIN])
    drawn = [item for item in population if item.id not in certain]
    members = [
        [items[i].weight for i in sorted(certain)]
        if h == CERTAIN
        else [item.weight for item in drawn if simple or item.group == h]
        for h in names
    ]
    totals = np.asarray([sum(weights) for weights in members], dtype=np.float64)
    return Design(
        weights=np.asarray([items[i].weight for i in subset.ids], dtype=np.float64),
        strata=np.asarray([names.index(h) for h in subset.strata], dtype=np.intp),
        sizes=np.asarray([len(weights) for weights in members], dtype=np.float64),
        shares=totals / totals.sum(),
    )


def mean_weights(subset: Subset, population: Sequence[Item]) -> Floats:
    """What each response counts in the mean of `estimate_mean` (and of `estimate_difference`), one per item asked."""
    return design(subset, population).counts


def estimate_difference(
    values: Sequence[float],
    control: Sequence[float],
    control_mean: float,
    subset: Subset,
    population: Sequence[Item] | Design,
    *,
    bounds: Bounds = UNBOUNDED,
) -> Estimate:
    """The metric's mean over the population, from the differences to a control model that answered all of it.

    How hard the subset happens to be drops out, and what y and x have in common is not noise any more; see
    `survey.difference_mean`. The result is brought inside the bounds.

    Args:
        values: y, one per item of `subset.ids`, in that order.
        control: x on the same items.
        control_mean: x's mean over the population.
        subset, population, bounds: as for `estimate_mean`.
    """
    low, high = bounds
    known = population if isinstance(population, Design) else design(subset, population)
    y, x = np.asarray(values, dtype=np.float64)[None, :], np.asarray(control, dtype=np.float64)
    if y.shape[1] != len(x) or len(x) != len(subset.ids):
        raise ValueError(f"{y.shape[1]} and {len(x)} values for {len(subset.ids)} items; one each is needed")
    means, errors = difference_mean(y, x, control_mean, known, bounds=bounds)
    mean = float(means[0]) if low is None else max(low, float(means[0]))
    return Estimate(mean if high is None else min(high, mean), float(errors[0]), len(x))


def combine(estimates: Sequence[Estimate]) -> Estimate:
    """The plain mean over eval sets, whose items are drawn independently of each other."""
    if not estimates:
        raise ValueError("no estimates to combine")
    k = len(estimates)
    se = math.sqrt(sum(e.se**2 for e in estimates)) / k
    return Estimate(sum(e.mean for e in estimates) / k, se, sum(e.n for e in estimates))


def overall(estimates: Estimates) -> dict[str, Estimate]:
    """Of every objective and constraint, from its eval sets."""
    return {name: combine(list(parts.values())) for name, parts in estimates.items()}


def interval(estimate: Estimate, level: float = 0.95, *, bounds: Bounds = UNBOUNDED) -> tuple[float, float]:
    """A confidence interval inside the metric's bounds; a point when the standard error is 0.

    With two bounds: Wilson 1927 with the sample size that would give this standard error, so that finite populations,
    strata and weights count. Otherwise Student's t with n − 1 degrees of freedom, clipped.
    """
    low, high = bounds
    if estimate.se == 0:
        return estimate.mean, estimate.mean
    if low is not None and high is not None and low <= estimate.mean <= high:
        share = np.asarray((estimate.mean - low) / (high - low))
        error = np.asarray(estimate.se / (high - low))
        # Student's t, for an error by strata or by differences is estimated, too.
        ends = wilson(share, error, estimate.n, _t_quantile(level, estimate.n))
        left, right = (low + float(end) * (high - low) for end in ends)
        return left, right
    half = _t_quantile(level, estimate.n) * estimate.se
    left, right = estimate.mean - half, estimate.mean + half
    return (left if low is None else max(low, left)), (right if high is None else min(high, right))


@lru_cache(maxsize=4096)
def _t_quantile(level: float, n: int) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level {level!r} of an interval is not between 0 and 1")
    return float(stats.t.ppf(0.5 + level / 2, df=max(n - 1, 1)))


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """How much better one candidate did than another on the same items.

    Attributes:
        difference: mean of a − b, in the metric's unit.
        se: its standard error, for the world of questions that the items were taken from.
        low, high: confidence interval.
        wins, losses: items on which a's value is larger, smaller.
        p_sign: two-sided exact sign test on wins against losses; 1 when there are none.
        n: items compared.
    """

    difference: float
    se: float
    low: float
    high: float
    wins: int
    losses: int
    p_sign: float
    n: int


def paired(
    a: Sequence[float],
    b: Sequence[float],
    *,
    weights: Sequence[float] | None = None,
    level: float = 0.95,
) -> PairedDifference:
    """Compare two candidates on the same items, in the same order.

    For right-or-wrong responses the interval is Bonett and Price 2012 (one imagined win and one loss more); for others
    Student's t. `weights` are the items' (equal ones are the same as none).

    Raises:
        ValueError: not as many values as items, or none.
    """
    if len(a) != len(b) or len(a) == 0 or (weights is not None and len(weights) != len(a)):
        raise ValueError(f"{len(a)} values against {len(b)}: two equally long, non-empty lists are needed")
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    d = left - right
    w = np.ones_like(d) if weights is None else np.asarray(weights, dtype=np.float64)
    wins, losses, n = int(np.sum(d > 0)), int(np.sum(d < 0)), len(d)
    difference = float(np.average(d, weights=w))
    if np.isin(np.concatenate([left, right]), (0.0, 1.0)).all():
        d, w = np.append(d, [1.0, -1.0]), np.append(w, [w.mean(), w.mean()])
    centre = float(np.average(d, weights=w))
    z = w * (d - centre) / w.mean()
    se = math.sqrt(float(np.sum(z**2)) / (len(d) - 1) / len(d)) if len(d) > 1 else max(abs(difference), 1e-3)
    half = _t_quantile(level, n) * se
    p_sign = float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    return PairedDifference(difference, se, centre - half, centre + half, wins, losses, p_sign, n)


def combine_paired(parts: Sequence[PairedDifference], level: float = 0.95) -> PairedDifference:
    """The plain mean of paired differences over eval sets; wins and losses are added up."""
    if not parts:
        raise ValueError("no differences to combine")
    if len(parts) == 1:
        return parts[0]
    k, wins, losses = len(parts), sum(p.wins for p in parts), sum(p.losses for p in parts)
    n, se = sum(p.n for p in parts), math.sqrt(sum(p.se**2 for p in parts)) / k
    centre = sum((p.low + p.high) / 2 for p in parts) / k
    half = _t_quantile(level, n) * se
    p_sign = float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    difference = sum(p.difference for p in parts) / k
    return PairedDifference(difference, se, centre - half, centre + half, wins, losses, p_sign, n)
