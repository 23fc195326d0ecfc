"""The arithmetic of samples: means over a population of items from the answers to some of them, with their errors.

Shapes: K subjects, n items asked, H strata. In stratum h, n_h of N_h items were asked; item weights w. The mean is the
stratified one with the ratio (Hájek) mean inside each stratum: unbiased under draws without replacement when weights
are equal within strata, biased by O(1/n_h) when they are not, and exact when everything was asked (Cochran 1977,
Sampling Techniques, ch. 2, 5, 6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PSEUDO_FREEDOM = 2.0
"""Where strata have variances of their own, each is drawn towards what the pooled one lets expect as if by so many more
answers: a stratum of three items says little about its variance, and of one nothing."""


@dataclass(frozen=True)
class Design:
    """Items asked and what they stand for. What follows from these is worked out once for all who answer them.

    Attributes:
        weights: [n] of the items, relative.
        strata: [n] int, 0..H-1; every stratum has an item.
        sizes: [H] items in each stratum.
        shares: [H] of each stratum in the mean, sum 1.
        separate: whether items were shared out other than in proportion to the strata's sizes: each stratum has a
            variance of its own then. One for all is their right mixture in proportional samples only.
        deviations: [H] standard deviations of answers that were expected within strata, positive; only their ratios
            count. None: equal ones.
    """

    weights: Floats
    strata: NDArray[np.intp]
    sizes: Floats
    shares: Floats
    separate: bool = False
    deviations: Floats | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {part.name: getattr(self, part.name) for part in fields(self)}  # what follows does not travel

    @cached_property
    def asked(self) -> Floats:
        """[H] items asked in each stratum."""
        return np.bincount(self.strata, minlength=len(self.sizes)).astype(np.float64)

    @cached_property
    def members(self) -> Floats:
        """[n, H] 1 where an item is in a stratum."""
        return np.asarray(self.strata[:, None] == np.arange(len(self.sizes)), dtype=np.float64)

    @cached_property
    def inside(self) -> Floats:
        """[n, H] what each answer counts in its stratum's mean."""
        weighted = self.members * self.weights[:, None]
        return np.asarray(weighted / weighted.sum(axis=0))

    @cached_property
    def relative(self) -> Floats:
        """[n] weights, divided by the mean in their stratum."""
        means = np.bincount(self.strata, self.weights, minlength=len(self.sizes)) / self.asked
        return np.asarray(self.weights / means[self.strata])

    def factors(self, finite: bool) -> Floats:
        """[H] what each stratum's variance counts in that of the mean."""
        unasked = 1 - self.asked / self.sizes if finite else np.ones(len(self.sizes))
        return np.asarray(self.shares**2 * unasked / self.asked)

    @cached_property
    def of_variance(self) -> dict[bool, float]:
        """Whether the population is meant → the sum of `factors`."""
        return {finite: self.factors(finite).sum() for finite in (True, False)}

    @cached_property
    def counts(self) -> Floats:
        """[n] what each answer counts in the mean; sum 1."""
        totals = np.bincount(self.strata, self.weights, minlength=len(self.sizes))
        return np.asarray(self.weights * (self.shares / totals)[self.strata])


def stratified_mean(
    values: Floats,
    design: Design,
    *,
    bounds: tuple[float | None, float | None] = (None, None),
    lattice: Sequence[float] | None = None,
    finite: bool = True,
    floor: float = 0.0,
) -> tuple[Floats, Floats]:
    """Means over the population and their standard errors.

    Args:
        values: [K, n], at least one item.
        bounds: of a value; rows whose values lie on the bounds only (right or wrong) get a standard error that is not
            0 even when all are equal.
        lattice: the only values that such rows take; None is the two bounds.
        finite: whether the population itself is meant (no error when everything was asked), or the wider world of
            questions that it was taken from.
        floor: least variance of an answer.

    Returns:
        [K] means, [K] standard errors.
    """
    asked, means_h = design.asked, values @ design.inside
    # Shares sum to 1 but for rounding.
    means = np.minimum(np.maximum(means_h @ design.shares, values.min(axis=1)), values.max(axis=1))
    # Residuals of the ratio mean, in units of y: z_i = w_i (y_i − ȳ_h) / w̄_h.
    z = (values - means_h[:, design.strata]) * design.relative
    pooled = np.maximum(_pooled_variance(z, values, means, len(asked), bounds, lattice), floor)
    if not design.separate or len(asked) == 1:
        return means, np.sqrt(pooled * design.of_variance[finite])
    squares = np.ones(len(asked)) if design.deviations is None else design.deviations**2
    expected = (
        pooled[:, None] * squares / (asked @ squares / asked.sum())
    )  # their mean over the items is the pooled one
    variances = (z**2 @ design.members + PSEUDO_FREEDOM * expected) / (asked - 1 + PSEUDO_FREEDOM)
    return means, np.sqrt(variances @ design.factors(finite))


def difference_mean(
    values: Floats,
    control: Floats,
    control_mean: float,
    design: Design,
    *,
    bounds: tuple[float | None, float | None] = (None, None),
    floor: float = 0.0,
) -> tuple[Floats, Floats]:
    """Means over the population from the differences to a control that is known on all of it, and their errors.

    The difference estimator: mean of y − x on the sample, plus the mean of x; unbiased for any x that was fixed without
    looking at y (Cochran 1977, ch. 7, with the slope fixed at 1). It may leave the bounds.

    Args:
        values: y [K, n].
        control: x [n] on the same items.
        control_mean: of x over the population.
        floor: least variance of a difference; rows where y and x lie on the bounds only are treated as right-or-wrong
            answers are.
    """
    low, high = bounds
    if low is None or high is None or not ((control == low) | (control == high)).all():
        means, errors = stratified_mean(values - control, design, floor=floor)
    else:
        on_bounds = _among(values, (low, high)).all(axis=1)
        means, errors = np.empty(len(values)), np.empty(len(values))
        reach = high - low
        for rows, reaches in ((on_bounds, (-reach, reach)), (~on_bounds, (None, None))):
            lattice = (-reach, 0.0, reach)
            means[rows], errors[rows] = stratified_mean(
                values[rows] - control, design, bounds=reaches, lattice=lattice, floor=floor
            )
    return control_mean + means, errors


def wilson(p: Floats, error: Floats, n: int, quantile: float) -> tuple[Floats, Floats]:
    """Ends in [0, 1] of an interval for shares of right answers (Wilson 1927).

    Its sample is as large as would give this standard error, so that finite populations, strata and weights count (Korn
    and Graubard 1998).

    Args:
        p: in [0, 1].
        error: above 0.
        n: answers.
        quantile: of the normal distribution, or of Student's t to be more careful.
    """
    inner = (p * n + 1) / (n + 2)  # the same two imagined answers as in the standard error
    size = inner * (1 - inner) / error**2
    q = quantile**2 / size
    centre, half = (p + q / 2) / (1 + q), np.sqrt(q * p * (1 - p) + q * q / 4) / (1 + q)
    return np.asarray(np.maximum(0.0, centre - half)), np.asarray(np.minimum(1.0, centre + half))


def _among(values: Floats, few: Sequence[float]) -> NDArray[np.bool_]:
    """[K, n] which are one of a few values; `np.isin` sorts both first."""
    return np.asarray(np.logical_or.reduce([values == one for one in few]))


def _pooled_variance(
    z: Floats,
    y: Floats,
    means: Floats,
    num_strata: int,
    bounds: tuple[float | None, float | None],
    lattice: Sequence[float] | None,
) -> Floats:
    """[K] variances within strata, never 0.

    For right-or-wrong answers one more on each bound is imagined, as Agresti and Coull 1998 do for a proportion:
    twenty right answers in a row do not mean that the twenty-first is certain.
    """
    low, high = bounds
    squares, freedom = np.sum(z**2, axis=1), z.shape[1] - num_strata
    if freedom > 0 and squares.all():  # nearly always
        found = squares / freedom
    else:
        # Equal values, or a single one: half of the range if it is known, else the size of the value itself.
        scale = np.maximum(np.abs(means), 1e-3) if low is None or high is None else np.full(len(y), (high - low) / 2)
        between = np.var(y, axis=1, ddof=1) if y.shape[1] > 1 else np.zeros(len(y))
        # One item a stratum: the spread between strata bounds the one within, on average.
        found = np.where(between > 0, between, scale**2)
        if freedom > 0:
            found = np.where(squares > 0, squares / freedom, found)
    if low is None or high is None:
        return np.asarray(found)
    graded = _among(y, lattice or (low, high)).all(axis=1)
    imagined = (squares + (low - means) ** 2 + (high - means) ** 2) / (freedom + 2)
    return np.asarray(np.where(graded, imagined, found))
