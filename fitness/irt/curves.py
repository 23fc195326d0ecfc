"""Do item curves hold: predicted and observed shares of right answers; and do they still in a running search?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.seeds import generator
from fitness.irt.ability import posteriors
from fitness.irt.contracts import Places, Selection
from fitness.irt.cross_validation import held_out
from fitness.irt.fits import Fits
from fitness.matrix import Floats

BINS = 10

STALE = 3.0
"""Standard errors of a generation's mean residual beyond which the bank no longer describes what candidates answer."""


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

    Ability is taken from the chosen items, and residuals from the drawn ones; where all are drawn, from every second
    one and the others, both ways. Candidates of a generation resemble each other, so items are the sample. Generations
    with fewer than four drawn items tell nothing and are left out.

    Args:
        generations: number, selection, and answers [K, n] of its candidates, at least one.
    """
    found = []
    for generation, selection, answers in generations:
        drawn = np.flatnonzero(selection.random)
        if len(drawn) < 4 or not len(answers):
            continue
        chosen = np.flatnonzero(~selection.random)
        halves = [(drawn[::2], drawn[1::2]), (drawn[1::2], drawn[::2])]
        pairs = [(chosen, drawn)] if len(chosen) >= 4 else halves
        each = np.concatenate([_residuals(fits, selection, answers, known, asked) for known, asked in pairs])
        error = float(each.std(ddof=1)) / np.sqrt(len(each))
        mean = float(each.mean())
        found.append(Drift(generation, mean, mean / error if error > 0 else 0.0, len(each)))
    return tuple(found)


def _residuals(fits: Fits, selection: Selection, answers: Floats, known: Places, asked: Places) -> Floats:
    """[asked] mean over candidates of answers less their predictions."""
    posterior = posteriors(fits.items, selection.places[known], answers[:, known])
    predicted = posterior @ fits.probabilities[selection.places[asked]].T
    return np.asarray((answers[:, asked] - predicted).mean(axis=0))
