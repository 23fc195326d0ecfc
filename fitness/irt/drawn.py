"""Selections as samples: which of the items asked stand for others, and for how many."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from evomerge.errors import InvalidInputError
from fitness.irt.contracts import Places, Selection
from fitness.matrix import Floats
from fitness.survey import Design, difference_mean, stratified_mean

UNIT = (0.0, 1.0)

LEAST_VARIANCE = 0.02
"""Of a difference between a right-or-wrong answer and its prediction in [0, 1]: twenty right predictions in a row do
not mean that the twenty-first is certain."""

USUAL_FREEDOM = 2.0
"""Answers whose differences are imagined to vary as they usually do in the bank, beside those that were given: the
degrees of freedom of a scaled inverse χ² prior."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A selection of n items whose random part covers the rest of the population.

    Attributes:
        chosen: positions in the selection of the items that stand for themselves.
        random: positions of the others.
        counts: weights of the chosen ones in the full score.
        rest: what the others stand for, in the full score.
        design: the others' sample; empty strata and those that were asked completely are with the chosen.
    """

    chosen: Places
    random: Places
    counts: Floats
    rest: float
    design: Design

    def mean(self, values: Floats) -> tuple[Floats, Floats]:
        """Full scores [K] of answers [K, n] and their errors [K]."""
        known = values[:, self.chosen] @ self.counts
        if not len(self.random):
            return known, np.zeros(len(values))
        sample = values[:, self.random]
        means, errors = stratified_mean(sample, self.design, bounds=UNIT)
        return known + self.rest * means, self.rest * errors

    @property
    def freedom(self) -> int:
        """Degrees of freedom of a variance within the strata, at least 1."""
        return max(len(self.random) - len(self.design.sizes), 1)

    def tempered(self, errors: Floats, usual: float) -> Floats:
        """Errors whose variance of a right-or-wrong answer is drawn to the usual one, `USUAL_FREEDOM` degrees strong.

        Ten answers, two to a stratum, say little about how widely answers vary, least where all are right. Source:
        Gelman et al. 2013, Bayesian Data Analysis, section 2.6.
        """
        if not len(self.random):
            return errors
        design, own = self.design, len(self.random) - len(self.design.sizes)
        factor = self.rest**2 * float((design.shares**2 * (1 - design.asked / design.sizes) / design.asked).sum())
        variances = (own * errors**2 + USUAL_FREEDOM * usual * factor) / (own + USUAL_FREEDOM)
        return np.asarray(np.sqrt(np.maximum(variances, LEAST_VARIANCE * factor)))

    def difference(
        self, values: Floats, control: Floats, full: float, usual: float | None = None
    ) -> tuple[Floats, Floats]:
        """The same by differences to a control [n] whose full score is known.

        Args:
            usual: variance of an answer less the control, as the bank has it; None without one.
        """
        known, beside = values[:, self.chosen] @ self.counts, float(control[self.chosen] @ self.counts)
        if not len(self.random):
            return known, np.zeros(len(values))
        graded = bool(np.isin(values, UNIT).all())  # a population's mean answers, say, are known much better
        means, errors = difference_mean(
            values[:, self.random], control[self.random], 0.0, self.design,
            bounds=UNIT, floor=LEAST_VARIANCE if graded and usual is None else 0.0,
        )  # fmt: skip
        errors = self.rest * errors
        return known + (full - beside) + self.rest * means, errors if usual is None else self.tempered(errors, usual)


def drawn(selection: Selection, weights: Floats) -> Drawn | None:
    """What a selection's random part says about the population.

    Args:
        weights: [N] of all items in the full score, sum 1.

    Returns:
        None where a stratum has items that could not have been drawn: the selection is no sample then.

    Raises:
        InvalidInputError: sizes of strata that do not add up to the items; several strata of items whose weights
            differ, and nothing that says which stratum each item is in.
    """
    if sum(selection.sizes.values()) != len(weights):
        raise InvalidInputError("selection.sizes", selection.sizes, f"sizes that add up to {len(weights)} items")
    strata = sorted(selection.sizes)
    own = {h: selection.strata == h for h in strata}
    left = {h: selection.sizes[h] - int((own[h] & ~selection.random).sum()) for h in strata}
    asked = {h: int((own[h] & selection.random).sum()) for h in strata}
    if any(left[h] > 0 and asked[h] == 0 for h in strata):
        return None
    sampled = [h for h in strata if left[h] > asked[h]]
    random = np.flatnonzero(np.isin(selection.strata, sampled) & selection.random)
    chosen = np.setdiff1d(np.arange(len(selection.places)), random)
    totals = _totals(selection, weights, sampled, left)
    design = Design(
        weights=weights[selection.places[random]],
        strata=np.searchsorted(sampled, selection.strata[random]).astype(np.intp),
        sizes=np.asarray([left[h] for h in sampled], dtype=np.float64),
        shares=totals / totals.sum() if len(totals) else totals,
    )
    counts = weights[selection.places[chosen]]
    design = replace(design, separate=_disproportionate(design))
    return Drawn(chosen, random, counts, float(1 - counts.sum()), design)


def as_if_drawn(selection: Selection, weights: Floats) -> Drawn:
    """The same selection taken for a simple random sample, for numbers that make no claim."""
    n, zeros = len(selection.places), np.zeros(len(selection.places), dtype=np.intp)
    design = Design(weights[selection.places], zeros, np.asarray([float(len(weights))]), np.ones(1))
    return Drawn(zeros[:0], np.arange(n), np.empty(0), 1.0, design)


def _totals(selection: Selection, weights: Floats, sampled: list[int], left: dict[int, int]) -> Floats:
    """Weight in the full score of what each sampled stratum's random items stand for."""
    if not sampled:
        return np.empty(0)
    fixed = selection.places[~selection.random]
    if selection.columns is not None:
        open_weights = weights.copy()
        open_weights[fixed] = 0.0
        return np.asarray([open_weights[selection.columns == h].sum() for h in sampled])
    if len(sampled) == 1:
        inside = ~np.isin(selection.strata, sampled) | ~selection.random
        return np.asarray([1 - weights[selection.places[inside]].sum()])
    if np.ptp(weights) > 1e-9 * weights.max():
        raise InvalidInputError("selection.columns", None, "the stratum of every item, for items' weights differ")
    return np.asarray([left[h] for h in sampled], dtype=np.float64)


def _disproportionate(design: Design) -> bool:
    asked = design.asked
    return bool((np.abs(asked - asked.sum() * design.shares) > 1 + 1e-9).any())
