"""Full scores without faith in a model: unbiased by the way the items were drawn, whoever the subjects are.

y answers, x controls that are known for all items, S the items drawn, U all of them; shapes as in `contracts`.
Estimates may leave the metric's bounds; clipping them would bias them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from evomerge.errors import InvalidInputError
from fitness.irt.ability import log_likelihoods
from fitness.irt.contracts import Estimator, Scores, Selection
from fitness.irt.drawn import LEAST_VARIANCE, UNIT, USUAL_FREEDOM, Drawn, as_if_drawn, drawn
from fitness.irt.fits import Fits
from fitness.irt.two_parameter import LOG_WEIGHTS, NODES
from fitness.matrix import Floats
from fitness.survey import stratified_mean


def check_answers(selection: Selection, answers: Floats, num_items: int) -> Floats:
    """[K, n] float64.

    Raises:
        InvalidInputError: another shape, gaps, no items, or places that the bank has not.
    """
    found = np.asarray(answers, dtype=np.float64)
    n = len(selection.places)
    if n == 0 or selection.places.min() < 0 or selection.places.max() >= num_items:
        raise InvalidInputError("selection.places", n, f"at least one of the bank's {num_items} items")
    if found.ndim != 2 or found.shape[1] != n:
        raise InvalidInputError("answers", list(found.shape), f"[K, {n}], one column for each item asked")
    if not np.isfinite(found).all():
        raise InvalidInputError("answers", "NaN or infinity", "an answer to every item asked")
    return found


def _claim(
    sample: Drawn | None, means: Floats, errors: Floats, *, imagined: float = 0.0, graded: int | None = None
) -> Scores:
    """Errors only where the items are a sample; `imagined` are degrees of freedom beside the sample's own."""
    if sample is None:
        return Scores(means, np.full(len(means), np.nan), False)
    return Scores(means, errors, True, sample.freedom + imagined, graded)


def _graded(answers: Floats) -> int | None:
    """How many, if they are all right or wrong."""
    return answers.shape[1] if ((answers == 0) | (answers == 1)).all() else None


def _usual(fits: Fits, selection: Selection, answers: Floats) -> float | None:
    """Of the bank, for right and wrong answers; graded ones vary less than these, by how much is not known."""
    return fits.usual_variance(selection) if _graded(answers) else None


@dataclass(frozen=True, slots=True)
class Mean:
    """The weighted mean of the answers, whatever items they are to. An estimate of the full score only where items were
    drawn at random, all alike; of chosen ones it ranks subjects that answered the same."""

    fits: Fits
    name: str = "mean"

    def estimate(self, selection: Selection, answers: Floats) -> Scores:
        """See `Estimator`."""
        weights = self.fits.matrix.weights
        y = check_answers(selection, answers, len(weights))
        sample = drawn(selection, weights)
        means, errors = as_if_drawn(selection, weights).mean(y)
        simple = sample is not None and bool(selection.random.all()) and len(selection.sizes) == 1
        return _claim(sample if simple else None, means, errors, graded=_graded(y))


@dataclass(frozen=True, slots=True)
class Stratified:
    """The mean by strata, items that were chosen standing for themselves (Cochran 1977, ch. 5)."""

    fits: Fits
    name: str = "stratified"

    def estimate(self, selection: Selection, answers: Floats) -> Scores:
        """See `Estimator`."""
        weights = self.fits.matrix.weights
        y = check_answers(selection, answers, len(weights))
        sample = drawn(selection, weights)
        return _claim(sample, *(sample or as_if_drawn(selection, weights)).mean(y), graded=_graded(y))


@dataclass(frozen=True, slots=True)
class Difference:
    """mean_U x + mean_S (y − x) with a control x that was fixed before anybody answered.

    Attributes:
        control: x [N].
        by_bank: whether x is the bank's, so that the bank says how widely answers less x usually vary.
    """

    fits: Fits
    control: Floats
    name: str
    by_bank: bool = False

    def estimate(self, selection: Selection, answers: Floats) -> Scores:
        """See `Estimator`."""
        weights = self.fits.matrix.weights
        y = check_answers(selection, answers, len(weights))
        sample = drawn(selection, weights)
        beside, full = self.control[selection.places], float(self.control @ weights)
        usual = _usual(self.fits, selection, y) if self.by_bank else None
        means, errors = (sample or as_if_drawn(selection, weights)).difference(y, beside, full, usual)
        return _claim(sample, means, errors, imagined=0.0 if usual is None else USUAL_FREEDOM)


def difference(fits: Fits) -> Difference:
    """To the parents' mean: no bank is needed (Cochran 1977, ch. 7).

    Raises:
        InvalidInputError: the bank knows no parents.
    """
    if not fits.bank.parents:
        raise InvalidInputError("estimator", "difference", "a bank with the parents' answers")
    return Difference(fits, fits.matrix.values[list(fits.bank.parents)].mean(axis=0), "difference")


def regression(fits: Fits) -> Difference:
    """To the bank's mean answers, times the slope that they have on the bank (generalised regression, GREG; Särndal,
    Swensson and Wretman 1992, ch. 6, with a slope that the sample does not fit)."""
    return Difference(fits, fits.slope * fits.matrix.values.mean(axis=0), "greg", by_bank=True)


def control_variate(fits: Fits) -> Estimator:
    """The unbiased estimator of the least variance that a bank of any size allows: by the parents if they are known,
    else by the bank, else by strata alone."""
    if fits.bank.parents:
        return difference(fits)
    return regression(fits) if len(fits.matrix.subjects) else Stratified(fits)


@dataclass(frozen=True, slots=True)
class DoublyRobust:
    """mean_U p̂ + mean_S (y − p̂) with the one-dimensional model's predictions p̂.

    The prediction of an item that was asked comes from the answers to the others, one at a time; those others then
    count as they are, and the estimate is unbiased exactly, whatever the model is worth: given the other items, the one
    left out is equally likely to be any that was not asked. Source: Robins, Rotnitzky and Zhao 1994 (AIPW); power
    tuning as `Fits.model_slope` says.
    """

    fits: Fits
    name: str = "doubly_robust"

    def estimate(self, selection: Selection, answers: Floats) -> Scores:
        """See `Estimator`."""
        weights = self.fits.matrix.weights
        y = check_answers(selection, answers, len(weights))
        check_bounded(y)
        sample = drawn(selection, weights)
        used = sample or as_if_drawn(selection, weights)
        if not len(used.random):
            return _claim(sample, *used.mean(y))
        expected = self._expected(selection, used)
        usual = _usual(self.fits, selection, y)
        floor = LEAST_VARIANCE if usual is None else 0.0
        parts = [
            _leave_one_out(self.fits, selection, rows, used, expected, floor)
            for rows in np.array_split(y, _chunks(y))
        ]  # fmt: skip
        means, errors = (np.concatenate(found) for found in zip(*parts, strict=True))
        errors = errors if usual is None else used.tempered(errors, usual)
        return _claim(sample, means, errors, imagined=0.0 if usual is None else USUAL_FREEDOM)

    def _expected(self, selection: Selection, used: Drawn) -> Floats:
        """[H, Q] expected weighted answers to a stratum's items that were not asked, at the nodes."""
        weights, curves = self.fits.matrix.weights, self.fits.probabilities
        left = np.ones(len(weights), dtype=np.bool_)
        left[selection.places] = False
        if len(used.design.sizes) <= 1:
            return np.asarray((weights * left) @ curves)[None, :]
        if selection.columns is None:
            raise InvalidInputError("selection.columns", None, "the stratum of every item, to predict those not asked")
        strata = np.unique(selection.strata[used.random])
        return np.asarray([(weights * (left & (selection.columns == h))) @ curves for h in strata])


def _chunks(answers: Floats) -> int:
    """Parts of K in which [K, n, Q] stays below some 100 MB."""
    return max(1, answers.size * len(NODES) // 12_000_000)


def _leave_one_out(
    fits: Fits, selection: Selection, y: Floats, used: Drawn, expected: Floats, floor: float
) -> tuple[Floats, Floats]:
    weights, places = fits.matrix.weights, selection.places
    z = fits.items.a[places, :1] * NODES - fits.items.beta[places, None]
    own = y[:, :, None] * z - np.logaddexp(0.0, z)
    total = log_likelihoods(fits.items, places, y) + LOG_WEIGHTS
    # Items that stand for themselves are no one's to leave out.
    without = softmax(total[:, None, :] - own[:, used.random], axis=2)  # [K, r, Q]
    asked, w = places[used.random], weights[places[used.random]]
    h = used.design.strata
    mine = fits.model_slope * np.einsum("krq,rq->kr", without, fits.probabilities[asked])
    others = fits.model_slope * np.einsum("krq,rq->kr", without, expected[h])
    answered = y[:, used.random]
    left = (used.design.sizes - used.design.asked + 1)[h]  # the items that the one left out may have been
    known = np.stack([answered[:, h == s] @ w[h == s] for s in range(len(expected))], axis=1)[:, h] - answered * w
    each = known + others + mine * w + left * w * (answered - mine)
    means = y[:, used.chosen] @ used.counts + each @ (1 / used.design.asked[h])
    _, errors = stratified_mean(answered - mine, used.design, floor=floor)
    return means, used.rest * errors


def check_bounded(answers: Floats) -> None:
    """Of models of right and wrong, or of grades between them.

    Raises:
        InvalidInputError: answers outside of [0, 1].
    """
    if answers.size and (answers.min() < 0 or answers.max() > 1):
        raise InvalidInputError("answers", [float(answers.min()), float(answers.max())], f"answers in {list(UNIT)}")
