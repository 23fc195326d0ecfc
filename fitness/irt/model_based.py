"""Full scores by models of the bank, for screening: little variance, and wrong where subjects are unlike the bank.

EAP is the one-dimensional two-parameter model, BLUP the linear one. Recentring gives a population of subjects back the
mean that an unbiased estimator finds; a combination weighs both by what cross-validation says of the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from evomerge.errors import InvalidInputError
from fitness.irt.contracts import Estimator, Scores, Selection
from fitness.irt.design_based import check_answers, check_bounded, control_variate
from fitness.irt.drawn import drawn
from fitness.irt.fits import Fits, eap_scores
from fitness.matrix import Floats


class Model(Estimator, Protocol):
    """An estimator that can say how wrong it would have been about the bank."""

    def means(self, selection: Selection, answers: Floats) -> Floats:
        """[K] full scores, without their errors: those take cross-validation, as `residuals` does."""
        ...

    def residuals(self, selection: Selection) -> Floats:
        """[M] estimates of the bank's full scores from these items less the truth, each without its own row."""
        ...


@dataclass(frozen=True, slots=True)
class Eap:
    """Answers as they are, and for the rest what ability's posterior expects (expected a posteriori; Bock and Mislevy
    1982). Its error adds to the posterior's what the model missed on the bank with these items."""

    fits: Fits
    name: str = "eap"

    def estimate(self, selection: Selection, answers: Floats) -> Scores:
        """See `Estimator`."""
        means, variances = self._expected(selection, answers)
        return Scores(means, np.sqrt(variances + self.fits.eap_misfit(selection)), False)

    def means(self, selection: Selection, answers: Floats) -> Floats:
        """See `Model`."""
        return self._expected(selection, answers)[0]

    def _expected(self, selection: Selection, answers: Floats) -> tuple[Floats, Floats]:
        fits = self.fits
        y = check_answers(selection, answers, len(fits.matrix.weights))
        check_bounded(y)
        return eap_scores(fits.items, fits.probabilities, fits.matrix.weights, selection.places, y)

    def residuals(self, selection: Selection) -> Floats:
        """See `Model`."""
        return self.fits.eap_residuals(selection)


@dataclass(frozen=True, slots=True)
class Blup:
    """Best linear prediction from the bank's means and covariances. Its error is what cross-validation over the bank
    finds for these items, or what the model says if that is more: items that were chosen by the bank flatter the
    model."""

    fits: Fits
    name: str = "blup"

    def estimate(self, selection: Selection, answers: Floats) -> Scores:
        """See `Estimator`."""
        y = check_answers(selection, answers, len(self.fits.matrix.weights))
        means, variance = self.fits.linear.predict(selection.places, y)
        residuals = self.residuals(selection)
        variance = max(variance, float((residuals**2).mean()) if len(residuals) else 0.0)
        return Scores(means, np.full(len(y), np.sqrt(variance)), False)

    def means(self, selection: Selection, answers: Floats) -> Floats:
        """See `Model`."""
        y = check_answers(selection, answers, len(self.fits.matrix.weights))
        return self.fits.linear.predict(selection.places, y)[0]

    def residuals(self, selection: Selection) -> Floats:
        """See `Model`."""
        return self.fits.linear_residuals(selection)


def _anchored(fits: Fits, selection: Selection, answers: Floats) -> tuple[Scores, float, float]:
    """Unbiased scores of all subjects, of their mean, and the variance of the latter."""
    if drawn(selection, fits.matrix.weights) is None:
        raise InvalidInputError("selection", "chosen items only", "items of which a part was drawn at random")
    unbiased = control_variate(fits)
    common = unbiased.estimate(selection, answers.mean(axis=0, keepdims=True))
    return unbiased.estimate(selection, answers), float(common.means[0]), float(common.errors[0]) ** 2


def _spread(residuals: Floats, errors: Floats) -> Floats:
    """[K] variance of a model's residuals about their mean, for recentring takes that away; the squares of its own
    errors [K] where there are no two."""
    return np.full(len(errors), np.var(residuals, ddof=1)) if len(residuals) > 1 else errors**2


@dataclass(frozen=True, slots=True)
class Recentred:
    """A model's scores, moved together so that their mean over the K subjects is the unbiased one.

    The more subjects, the less of the model's bias is left and the less of the unbiased estimator's noise in their
    differences; a single subject's score is the unbiased one. Needs items of which a part was drawn. Its error is that
    of the mean, and the model's about its own mean in the bank.
    """

    fits: Fits
    model: Model
    name: str

    def estimate(self, selection: Selection, answers: Floats) -> Scores:
        """See `Estimator`."""
        y = check_answers(selection, answers, len(self.fits.matrix.weights))
        found = self.model.estimate(selection, y)
        if not len(y):
            return found
        _, mean, variance = _anchored(self.fits, selection, y)
        spread = _spread(self.model.residuals(selection), found.errors)
        errors = np.sqrt((1 - 1 / len(y)) * spread + variance)
        return Scores(found.means + mean - found.means.mean(), errors, False)


@dataclass(frozen=True, slots=True)
class Combined:
    """(1 − w) u + w m of the unbiased score u and the recentred model's m, w = var u / (var u + mse m).

    mse m is the model's mean square error for these items about its mean, cross-validated over the bank, plus the
    recentring's variance: not the model's own opinion. Where the bank has fewer than two rows there is nothing to judge
    the model by, and the score is u. u and m share the error of the subjects' mean, and in what is left they err
    together as far as they do on the bank's rows with these items.
    """

    fits: Fits
    model: Model
    name: str

    def estimate(self, selection: Selection, answers: Floats) -> Scores:
        """See `Estimator`."""
        y = check_answers(selection, answers, len(self.fits.matrix.weights))
        if not len(y):
            return self.model.estimate(selection, y)
        unbiased, mean, variance = _anchored(self.fits, selection, y)
        residuals = self.model.residuals(selection)
        if not len(residuals):
            return unbiased
        found = self.model.estimate(selection, y).means
        mse = (1 - 1 / len(y)) * float(_spread(residuals, unbiased.errors).mean()) + variance
        noise = float((unbiased.errors**2).mean())
        w = noise / (noise + mse) if noise > 0 else 0.0
        means = (1 - w) * unbiased.means + w * (found + mean - found.mean())
        u, m = (1 - w) * np.sqrt(np.maximum(unbiased.errors**2 - variance, 0)), w * np.sqrt(mse - variance)
        shared = 2 * _correlation(self.fits, selection, residuals) * u * m
        return Scores(means, np.sqrt(variance + u**2 + m**2 + shared), False)


def _correlation(fits: Fits, selection: Selection, residuals: Floats) -> float:
    """Of the unbiased scores' errors and the model's [M] over the bank's rows, about their means; at least 0, and 1
    where fewer than three rows say nothing."""
    weights, parents = fits.matrix.weights, list(fits.bank.parents)
    rows, sample = np.setdiff1d(np.arange(len(residuals)), parents), drawn(selection, weights)
    if len(rows) < 3 or sample is None or not np.ptp(residuals[rows]):
        return 1.0
    values = fits.matrix.values
    beside = (values - values[parents].mean(axis=0) if parents else fits.left_over)[rows]
    missed = sample.mean(beside[:, selection.places])[0] - beside @ weights
    return float(np.clip(np.corrcoef(missed, residuals[rows])[0, 1], 0.0, 1.0)) if np.ptp(missed) else 1.0
