"""Estimators as they were published, for comparison: none of them knows its error.

p-IRT, gp-IRT: Polo et al. 2024 (tinyBenchmarks, arXiv:2402.14992). mp-IRT, gmp-IRT: Mencattini et al. 2025 (MERGE³,
arXiv:2502.10436). Anchor points: Vivek et al. 2024 (arXiv:2309.08638). Ridge and AIPW: Zhang, Dorner and Hardt 2025,
How benchmark prediction from fewer data misses the mark. n of N items asked, M rows in the bank, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from fitness.irt.ability import EPSILON, ml_abilities
from fitness.irt.anchors import anchors, embeddings, squared_distances
from fitness.irt.contracts import Places, Scores, Selection
from fitness.irt.design_based import check_answers, check_bounded
from fitness.irt.drawn import as_if_drawn, drawn
from fitness.irt.fits import Fits
from fitness.irt.multidimensional import fit_multidimensional
from fitness.irt.two_parameter import ItemParameters
from fitness.matrix import Floats

PENALTIES = np.logspace(-3, 3, 13)
"""Of ridge regressions, times the mean squared feature; the one that predicts left-out rows best is taken."""

BLEND = 0.5
"""gmp-IRT's share of the plain mean, the same for any n."""


def without_errors(means: Floats) -> Scores:
    """Of methods that have none."""
    return Scores(means, np.full(len(means), np.nan), False)


def asked_and_expected(weights: Floats, places: Places, answers: Floats, expected: Floats) -> Floats:
    """[K] p-IRT's sum: answers as they are, and expected ones [K, N] for the items that were not asked."""
    rest = weights.copy()
    rest[places] = 0.0
    return answers @ weights[places] + expected @ rest


def blend_weight(irt_error: float, variance: float, n: int) -> float:
    """gp-IRT's λ = b² / (v / 4n + b²), the weight of the anchors' mean.

    Args:
        irt_error: b, p-IRT's mean absolute error on items and subjects that it was not fitted on.
        variance: v, of a subject's answers, mean over the bank.
    """
    square = irt_error**2
    return square / (variance / (4 * n) + square) if square > 0 else 0.0


def irt_error(fits: Fits) -> float:
    """b of `blend_weight`: items fitted on four fifths of the rows; abilities of the others from the even items, and
    their mean absolute error on the odd ones."""
    rows, matrix = np.arange(len(fits.matrix.subjects)), fits.matrix
    if len(rows) < 2 or len(matrix.items) < 2:
        return 0.0
    held = rows[:: min(5, len(rows))]
    items = fit_multidimensional(matrix.of(np.setdiff1d(rows, held)), force=True)
    even, odd = (np.arange(start, len(matrix.items), 2) for start in (0, 1))
    y, w = matrix.values[held], matrix.weights[odd] / matrix.weights[odd].sum()
    expected = items.probabilities(ml_abilities(items, even, y[:, even]))[:, odd]
    return float(np.abs((expected - y[:, odd]) @ w).mean())


@dataclass(frozen=True, slots=True)
class PIrt:
    """Answers as they are, and for the other items what the most likely ability predicts, without any prior."""

    fits: Fits
    items: ItemParameters
    name: str = "p_irt"

    def estimate(self, selection: Selection, answers: Floats) -> Scores:
        """See `Estimator`."""
        weights = self.fits.matrix.weights
        y = check_answers(selection, answers, len(weights))
        check_bounded(y)
        expected = self.items.probabilities(ml_abilities(self.items, selection.places, y))
        return without_errors(asked_and_expected(weights, selection.places, y, expected))


@dataclass(frozen=True, slots=True)
class GpIrt:
    """λ times the anchors' mean and 1 − λ times p-IRT. Off anchors, the plain mean stands for the anchors' one.

    Attributes:
        irt_error: b, see `blend_weight`.
        variance: v.
    """

    fits: Fits
    items: ItemParameters
    irt_error: float
    variance: float
    name: str = "gp_irt"

    def estimate(self, selection: Selection, answers: Floats) -> Scores:
        """See `Estimator`."""
        n = len(selection.places)
        found = PIrt(self.fits, self.items).estimate(selection, answers).means
        counts = _anchor_weights(self.fits, selection, embeddings(self.fits.bank, self.items), self.name)
        if counts is None:
            counts = as_if_drawn(selection, self.fits.matrix.weights).design.counts
        share = blend_weight(self.irt_error, self.variance, n)
        return without_errors(share * (np.asarray(answers, dtype=np.float64) @ counts) + (1 - share) * found)


def gp_irt(fits: Fits) -> GpIrt:
    """With b and v from the bank."""
    return GpIrt(fits, fits.multidimensional, irt_error(fits), float(fits.matrix.values.var(axis=1).mean()))


@dataclass(frozen=True, slots=True)
class MpIrt:
    """Abilities are a linear combination of the parents', θ = Σ λ_j θ_j; λ by maximum likelihood, without bounds.

    Attributes:
        parents: [J, D] most likely abilities from all items.
        blend: share of the plain mean; 0 is mp-IRT, 1/2 gmp-IRT.
    """

    fits: Fits
    items: ItemParameters
    parents: Floats
    blend: float
    name: str

    def estimate(self, selection: Selection, answers: Floats) -> Scores:
        """See `Estimator`."""
        weights, places = self.fits.matrix.weights, selection.places
        y = check_answers(selection, answers, len(weights))
        check_bounded(y)
        projected = self.items.a[places] @ self.parents.T  # [n, J] logits by λ
        shares = np.array([_mixture(projected, self.items.beta[places], row) for row in y])
        expected = self.items.probabilities(shares.reshape(len(y), len(self.parents)) @ self.parents)
        found = asked_and_expected(weights, places, y, expected)
        plain = y @ as_if_drawn(selection, weights).design.counts
        return without_errors(self.blend * plain + (1 - self.blend) * found)


def mp_irt(fits: Fits, blend: float, name: str) -> MpIrt:
    """mp-IRT (`blend` 0) or gmp-IRT."""
    items = fits.multidimensional
    everything = np.arange(len(fits.matrix.items))
    parents = ml_abilities(items, everything, fits.matrix.values[list(fits.bank.parents)])
    return MpIrt(fits, items, parents, blend, name)


def _mixture(projected: Floats, beta: Floats, answers: Floats) -> Floats:
    """[J] λ by BFGS from 1/J."""

    def likelihood(shares: Floats) -> tuple[float, Floats]:
        p = expit(projected @ shares - beta)
        value = -float(answers @ np.log(p + EPSILON) + (1 - answers) @ np.log(1 - p + EPSILON))
        by_p = (1 - answers) / (1 - p + EPSILON) - answers / (p + EPSILON)
        return value, np.asarray((by_p * p * (1 - p)) @ projected)

    number = projected.shape[1]
    return np.asarray(minimize(likelihood, np.full(number, 1 / number), jac=True, method="BFGS").x)


@dataclass(frozen=True, slots=True)
class Anchor:
    """Answers to anchor points, each with its cluster's weight. Of items that are no anchors, each stands for those
    next to it.

    Attributes:
        points: [N, ·] that items are clustered by.
    """

    fits: Fits
    points: Floats
    name: str

    def estimate(self, selection: Selection, answers: Floats) -> Scores:
        """See `Estimator`."""
        weights = self.fits.matrix.weights
        y = check_answers(selection, answers, len(weights))
        counts = _anchor_weights(self.fits, selection, self.points, self.name)
        if counts is None:
            nearest = squared_distances(self.points, self.points[selection.places]).argmin(axis=1)
            counts = np.bincount(nearest, weights, minlength=len(selection.places)).astype(np.float64)
        return without_errors(y @ counts)


def _anchor_weights(fits: Fits, selection: Selection, points: Floats, name: str) -> Floats | None:
    """[n] of the clusters, where the selection's items are the anchors of that many."""
    if selection.random.any():
        return None
    places, counts = fits.remember(
        (name, len(selection.places)),
        lambda: anchors(points, fits.matrix.weights, len(selection.places)),
    )
    order = np.argsort(selection.places)
    if not np.array_equal(selection.places[order], places):
        return None
    found = np.empty(len(counts))
    found[order] = counts
    return found


@dataclass(frozen=True, slots=True)
class Ridge:
    """Full scores by ridge regression on the answers, over the bank; with items of the largest disagreement it is what
    DISCO does, but for its features."""

    fits: Fits
    name: str = "ridge"

    def estimate(self, selection: Selection, answers: Floats) -> Scores:
        """See `Estimator`."""
        matrix = self.fits.matrix
        y = check_answers(selection, answers, len(matrix.weights))
        return without_errors(ridge(matrix.values[:, selection.places], matrix.full_scores[:, None], y)[:, 0])


@dataclass(frozen=True, slots=True)
class Aipw:
    """Each subject's answers by ridge regression on the bank's, from the items asked; those predictions' mean over all
    items, and the mean of what they miss on the items asked. The predictions have seen these, so that this is unbiased
    for large n only."""

    fits: Fits
    name: str = "aipw"

    def estimate(self, selection: Selection, answers: Floats) -> Scores:
        """See `Estimator`."""
        weights, features = self.fits.matrix.weights, self.fits.matrix.values.T
        y = check_answers(selection, answers, len(weights))
        if not len(y):
            return without_errors(np.empty(0))
        sample = drawn(selection, weights) or as_if_drawn(selection, weights)
        predicted = ridge(features[selection.places], y.T, features).T  # [K, N]
        missed = y - predicted[:, selection.places]
        means = [sample.difference(row[None], np.zeros(row.shape), 0.0)[0][0] for row in missed]
        return without_errors(predicted @ weights + np.asarray(means))


def ridge(features: Floats, targets: Floats, asked: Floats) -> Floats:
    """[Q, T] predictions for `asked` [Q, P] from `features` [R, P] and `targets` [R, T], all targets under the one
    penalty whose leave-one-out error is least (Golub, Heath and Wahba 1979). With a single row, its targets."""
    centre, mean = features.mean(axis=0), targets.mean(axis=0)
    left, values, right = np.linalg.svd(features - centre, full_matrices=False)
    size, rotated = float((values**2).sum()) / max(len(features), 1), left.T @ (targets - mean)
    if size <= 1e-12 or len(features) < 2:
        return np.tile(mean, (len(asked), 1))
    penalties = PENALTIES * size
    errors = []
    for penalty in penalties:
        kept = values**2 / (values**2 + penalty)
        leverage = 1 / len(features) + (left**2 @ kept)
        residual = targets - mean - left @ (kept[:, None] * rotated)
        errors.append(float(((residual / np.maximum(1 - leverage, 1e-6)[:, None]) ** 2).mean()))
    penalty = penalties[int(np.argmin(errors))]
    slopes = right.T @ ((values / (values**2 + penalty))[:, None] * rotated)
    return np.asarray(mean + (asked - centre) @ slopes)
