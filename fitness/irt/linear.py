"""Best linear unbiased prediction of full scores, and the items that leave least of it uncertain.

Subjects' answers are taken as draws of N(μ, C) with C = (1 − ρ) X'X / M + ρ s² I, where X [M, N] are the bank's answers
less their means μ and ρ is Ledoit and Wolf's shrinkage. C is never formed: its columns are made from X.

M subjects in the bank, N items, n asked, K subjects to score. Sources: Henderson 1975, Biometrics 31 (BLUP); Ledoit and
Wolf 2004, J. Multivariate Analysis 88 (ρ).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from evomerge.errors import InvalidInputError
from fitness.irt.contracts import Places
from fitness.matrix import Floats, ResponseMatrix

LEAST_VARIANCE = 1e-8
"""Variance that is never divided by, and never left out: of one answer, in units of the metric squared."""

REMEMBERED = 256
"""Lists of items that are kept in mind: of the generations that are in flight with very many workers."""


@dataclass(frozen=True)
class LinearModel:
    """Means and covariances of a bank's answers.

    Attributes:
        mean: [N] μ.
        centred: [M, N] X.
        shrinkage: ρ.
        scale: s², the mean variance of an item.
        weights: [N] of the items in the full score, sum 1.
    """

    mean: Floats
    centred: Floats
    shrinkage: float
    scale: float
    weights: Floats
    _known: dict[bytes, tuple[Floats, float]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def covariance(self, rows: Places, columns: Places | None = None) -> Floats:
        """C between some items and others (None: all of them)."""
        columns = np.arange(len(self.mean)) if columns is None else columns
        found = self.centred[:, rows].T @ self.centred[:, columns] * ((1 - self.shrinkage) / len(self.centred))
        found[rows[:, None] == columns] += self.shrinkage * self.scale
        return np.asarray(found)

    @cached_property
    def with_score(self) -> Floats:
        """[N] covariance of every item with the full score."""
        common = self.centred.T @ (self.centred @ self.weights) * ((1 - self.shrinkage) / len(self.centred))
        return np.asarray(common + self.shrinkage * self.scale * self.weights)

    @cached_property
    def prior(self) -> tuple[float, float]:
        """Mean and variance of the full score before any answer."""
        return float(self.mean @ self.weights), float(self.with_score @ self.weights)

    @cached_property
    def variances(self) -> Floats:
        """[N] of every item."""
        common = np.einsum("mn,mn->n", self.centred, self.centred) * ((1 - self.shrinkage) / len(self.centred))
        return np.asarray(common + self.shrinkage * self.scale)

    def predict(self, places: Places, answers: Floats) -> tuple[Floats, float]:
        """Full scores [K] from answers [K, n], and the variance that is left, the same for all."""
        gains, left = self._gains(places)
        return np.asarray(self.prior[0] + (answers - self.mean[places]) @ gains), left

    def _gains(self, places: Places) -> tuple[Floats, float]:
        """What each answer counts, and the variance that is left: once for all who answer these items."""
        key = places.tobytes()
        if key not in self._known:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            cross = self.with_score[places]
            gains = np.asarray(np.linalg.solve(self.covariance(places, places), cross), dtype=np.float64)
            self._known[key] = gains, max(self.prior[1] - float(cross @ gains), 0.0)
        return self._known[key]

    def greedy(self, number: int, among: Places | None = None, given: Places | None = None) -> Places:
        """[number] items, each the one that takes most off the full score's variance given those before it.

        Args:
            among: items to choose from; None is all.
            given: items that are asked anyway; not chosen again.

        Raises:
            InvalidInputError: more items than there are to choose from.
        """
        before = np.empty(0, dtype=np.intp) if given is None else np.asarray(given, dtype=np.intp)
        allowed = np.zeros(len(self.mean), dtype=np.bool_)
        allowed[slice(None) if among is None else among] = True
        allowed[before] = False
        if not 0 <= number <= allowed.sum():
            raise InvalidInputError("items", number, f"0 to {allowed.sum()}, the items to choose from")
        left = _Conditional(self)
        for place in before.tolist():
            left.ask(place)
        chosen = []
        for _ in range(number):
            place = int(np.argmax(np.where(allowed, left.reductions(), -1.0)))
            allowed[place] = False
            left.ask(place)
            chosen.append(place)
        return np.asarray(chosen, dtype=np.intp)


class _Conditional:
    """Variances of items and covariances with the score, given items asked: Cholesky with the pivots named outside."""

    def __init__(self, model: LinearModel) -> None:
        self._model = model
        self._with_score = model.with_score
        self._variances = model.variances
        self._factors = np.empty((0, len(model.mean)))

    def reductions(self) -> Floats:
        """[N] what asking an item takes off the score's variance."""
        return np.asarray(self._with_score**2 / np.maximum(self._variances, LEAST_VARIANCE))

    def ask(self, place: int) -> None:
        column = self._model.covariance(np.asarray([place]))[0] - self._factors[:, place] @ self._factors
        factor = column / np.sqrt(max(column[place], LEAST_VARIANCE))
        self._with_score = self._with_score - factor * self._with_score[place] / np.sqrt(
            max(column[place], LEAST_VARIANCE)
        )
        self._variances = np.maximum(self._variances - factor**2, 0.0)
        self._factors = np.vstack([self._factors, factor])


def fit_linear(matrix: ResponseMatrix) -> LinearModel:
    """From complete rows; with one row all answers are taken to vary alike and independently.

    Raises:
        InvalidInputError: no rows, or rows that are not complete.
    """
    values = matrix.values
    if len(values) == 0 or np.isnan(values).any():
        raise InvalidInputError("bank", f"{len(values)} rows, or gaps in them", "complete rows, at least one")
    mean = values.mean(axis=0)
    centred = values - mean
    shrinkage, scale = _ledoit_wolf(centred)
    return LinearModel(mean, centred, shrinkage, scale, matrix.weights)


def _ledoit_wolf(centred: Floats) -> tuple[float, float]:
    """ρ and s² from X by the M × M Gram matrix, which has the norms of the N × N covariance."""
    subjects, items = centred.shape
    gram = centred @ centred.T
    norms = np.diag(gram)
    scale = float(norms.sum()) / subjects / items
    if scale <= LEAST_VARIANCE:
        return 1.0, max(scale, 0.25)  # all answered alike: as a coin's, the most that a bounded answer can vary
    squared = float((gram**2).sum()) / subjects**2  # |S|²
    delta = squared / items - scale**2  # Lemma 3.2: distance of S from s² I
    beta = (float((norms**2).sum()) / subjects - squared) / subjects / items  # Lemma 3.4: error of S
    shrinkage = 1.0 if delta <= 0 else min(max(beta, 0.0), delta) / delta
    # Two rows deviate from their mean alike, which looks like certainty; C must have an inverse.
    return max(shrinkage, 1 / (subjects + 1)), scale
