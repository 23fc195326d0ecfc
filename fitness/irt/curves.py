"""Do item curves hold: predicted and observed shares of right answers; and do they still in a running search?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from evomerge.seeds import generator
from fitness.irt.ability import log_likelihoods, posteriors
from fitness.irt.contracts import Selection
from fitness.irt.cross_validation import held_out
from fitness.irt.fits import Fits
from fitness.irt.two_parameter import LOG_WEIGHTS
from fitness.matrix import Floats

BINS = 10

STALE = 3.0
"""Standard errors of a generation's mean residual beyond which the bank no longer describes what candidates answer."""


LEAST_ITEMS = 4

POPULATION_STEPS = 8
"""Of the EM for a generation's distribution of ability (Laird 1978)."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Predictions between two bounds.

    Attributes:
        low, high: bounds of the predicted probability.
        count: predictions in it.
        predicted, observed: mean prediction, mean answer; NaN without any.
    """

    low: float
    high: float
    count: int
    predicted: float
    observed: float


@dataclass(frozen=True, slots=True)
class Reliability:
    """A reliability diagram.

    Attributes:
        bins: ten, by predicted probability.
        error: expected calibration error, the mean distance of predicted from observed, by count (Naeini, Cooper and
            Hauskrecht 2015).
    """

    bins: tuple[Bin, ...]
    error: float


@dataclass(frozen=True, slots=True)
class Drift:
    """One generation's answers against the bank's item curves.

    Attributes:
        generation: its number.
        residual: mean answer less its prediction, over items that ability was not taken from.
        z: in standard errors, items being the sample.
        items: items compared.
    """

    generation: int
    residual: float
    z: float
    items: int

    @property
    def stale(self) -> bool:
        """Whether the bank no longer describes these candidates."""
        return abs(self.z) > STALE


def reliability(fits: Fits, n: int, seed: int) -> Reliability:
    """Predictions for subjects held out of the bank: ability from `n` random items, answers to all others.

    `n` is at most half of the items.
    """
    num_items = len(fits.matrix.items)
    predicted, observed = [], []
    for fold in range(len(fits.folds)):
        inner, rows = held_out(fits, fold)
        order = generator(seed, "reliability", fold).permutation(num_items)
        known, others = order[: min(n, num_items // 2)], order[min(n, num_items // 2) :]
        y = fits.matrix.values[rows]
        predicted.append((posteriors(inner.items, known, y[:, known]) @ inner.probabilities[others].T).ravel())
        observed.append(y[:, others].ravel())
    return diagram(np.concatenate(predicted), np.concatenate(observed))


def diagram(predicted: Floats, observed: Floats) -> Reliability:
    """Bin predictions in [0, 1] with what came true."""
    places = np.minimum((predicted * BINS).astype(np.intp), BINS - 1)
    counts = np.bincount(places, minlength=BINS)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(places, values, minlength=BINS) / counts for values in (predicted, observed)]
    bins = tuple(
        Bin(k / BINS, (k + 1) / BINS, int(counts[k]), float(means[0][k]), float(means[1][k])) for k in range(BINS)
    )
    error = sum(b.count * abs(b.predicted - b.observed) for b in bins if b.count) / max(len(predicted), 1)
    return Reliability(bins, float(error))


def drift(fits: Fits, generations: Sequence[tuple[int, Selection, Floats]]) -> tuple[Drift, ...]:
    """Whether candidates of each generation answer the drawn items as the bank's curves say.

    Ability is taken from the chosen items, and residuals from the drawn ones. Candidates of a generation resemble each
    other, so items are the sample. Generations with fewer than four items of either kind tell nothing and are left out:
    two random halves agree on average whatever has happened to the items.

    Args:
        generations: number, selection, and answers [K, n] of its candidates.
    """
    found = []
    for generation, selection, answers in generations:
        drawn = int(selection.random.sum())
        if min(drawn, len(selection.random) - drawn) < LEAST_ITEMS or not len(answers):
            continue
        each, shared = _residuals(fits, selection, answers)
        mean, error = float(each.mean()), float(np.sqrt(each.var(ddof=1) / len(each) + shared))
        found.append(Drift(generation, mean, mean / error if error > 0 else 0.0, len(each)))
    return tuple(found)


def _residuals(fits: Fits, selection: Selection, answers: Floats) -> tuple[Floats, float]:
    """For each drawn item, the mean over candidates of answers less their predictions; and the variance that all of
    these share because abilities are not known exactly."""
    known, asked = np.flatnonzero(~selection.random), np.flatnonzero(selection.random)
    likelihoods = log_likelihoods(fits.items, selection.places[known], answers[:, known])
    curves = fits.probabilities[selection.places[asked]]
    # The candidates' own distribution of ability, for the bank's would draw strong candidates back to it.
    prior = LOG_WEIGHTS
    for _ in range(POPULATION_STEPS):
        prior = np.log(softmax(likelihoods + prior, axis=1).mean(axis=0) + 1e-12)
    residuals = (answers[:, asked] - softmax(likelihoods + prior, axis=1) @ curves.T).mean(axis=0)
    posterior, mean_curve = softmax(likelihoods + LOG_WEIGHTS, axis=1), curves.mean(axis=0)
    spread = posterior @ mean_curve**2 - (posterior @ mean_curve) ** 2
    return np.asarray(residuals), float(spread.mean() / len(answers))
