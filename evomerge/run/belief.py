"""What a search believes of its candidates: scores drawn towards those of others by their errors.

A score is unbiased, and yet the best of many scores is too good: it was picked for its luck (the winner's curse). A
posterior does not suffer from that, however candidates are picked, as far as its prior describes them (Efron and Morris
1973; Dawid 1994). Here the prior is a Gaussian process over genomes, as in kriging: a score y, of a candidate with
genome x and recipe r that answered the items of group g, is

    y = μ + f + s·e,   Cov(f, f′) = τ² ((1 − ν) k(x, x′) + ν [r = r′]),   Cov(e, e′) = ρ ½(1 + k(x, x′)) [g = g′],

the last for r ≠ r′. Neighbours are worth about the same; a recipe that came again is one recipe with several scores;
and who answered the same items shares a part of the luck, the more so the more alike they are. A recipe counts once in
a group. The noise s is the same for all of a group who answered as many items: that somebody's own error looks small is
mostly luck, too. μ has a flat prior; the length-scale of k and ν, τ, ρ are those of the largest restricted likelihood
on a grid.

Sources: Patterson and Thompson 1971 (restricted likelihood); Rasmussen and Williams 2006, Gaussian Processes for
Machine Learning, eqs. 2.41 (μ), 4.17 (the Matérn kernel k).

Legend: N scores, R recipes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve

Floats = NDArray[np.float64]

MOST = 192
"""Scores that are looked at together: the time grows with their cube."""
MOST_FITTED = 128
"""Of these so many say which prior is likeliest: most of the time goes into that."""
SWEEPS = 3
"""Over the grid, one parameter after another."""
FAR = 1e6
"""The distance of recipes that share nothing."""
LEAST_NOISE = 1e-3
"""Of a score, in standard deviations of all: exact ones count as that good, so that matrices can be inverted."""


@dataclass(frozen=True, slots=True)
class Scored:
    """One score of one objective.

    Attributes:
        recipe: whoever has the same one is the same model.
        genome: where it lies; none where candidates are no points.
        group: who has the same one answered the same items; None for a score from all items.
        mean, se: the score and its standard error; 0 when it is exact.
        n: items answered.
    """

    recipe: str
    genome: tuple[float, ...]
    group: int | None
    mean: float
    se: float
    n: int


@dataclass(frozen=True, slots=True)
class Believed:
    """Mean and standard deviation of a posterior."""

    mean: float
    se: float


def believe(scores: Sequence[Scored]) -> dict[str, Believed]:
    """Recipe → what is believed of it.

    A recipe with an exact score is worth that. Where all scores are equal there is nothing to learn from others.

    >>> few = [Scored(f"r{i}", (), 0, 0.5 + 0.1 * (i == 0), 0.1, 20) for i in range(5)]
    >>> believe(few)["r0"].mean < 0.53
    True
    """
    exact = {score.recipe: Believed(score.mean, 0.0) for score in scores if score.se == 0}
    rows = list({(row.recipe, row.group): row for row in sorted(scores, key=lambda row: row.n)}.values())
    if all(row.recipe in exact for row in rows):
        return exact
    spread = float(np.std([row.mean for row in rows]))
    if spread == 0:
        return {row.recipe: Believed(row.mean, row.se) for row in rows} | exact
    data = _Data(rows, spread)
    thinned = rows[:: -(-len(rows) // MOST_FITTED)]
    prior = (data if len(thinned) == len(rows) else _Data(thinned, spread)).likeliest()
    means, errors = data.posterior(prior)
    return {name: Believed(*found) for name, *found in zip(data.recipes, means, errors, strict=True)} | exact


@dataclass(frozen=True, slots=True)
class _Prior:
    """Length-scale of k in root mean square distances of genes, ν, τ in standard deviations of the scores, and ρ."""

    length: float = 0.2
    own: float = 0.25
    spread: float = 1.0
    shared: float = 0.3


GRID: dict[str, tuple[float, ...]] = {
    "length": (0.05, 0.1, 0.2, 0.4, 0.8, 1.6),
    "own": (0.0, 0.25, 0.5, 1.0),
    "spread": (0.125, 0.25, 0.5, 1.0, 2.0),
    "shared": (0.0, 0.3, 0.6, 0.9),
}


class _Data:
    """Scores in arrays."""

    def __init__(self, rows: Sequence[Scored], spread: float) -> None:
        self._y, self._spread = np.array([row.mean for row in rows]), spread
        self._noise = np.maximum(_noise(rows), LEAST_NOISE * spread)
        recipes = [row.recipe for row in rows]
        places = {name: recipes.index(name) for name in recipes}
        self.recipes, self._first = list(places), list(places.values())
        recipe, group = np.array([places[name] for name in recipes]), np.array([_number(row.group) for row in rows])
        self._same, together = recipe[:, None] == recipe, (group[:, None] == group) & (group >= 0)
        self._distances = _distances([rows[place].genome for place in recipe])  # a recipe lies where it came first
        self._luck = np.outer(self._noise, self._noise) * together
        self._kernels: dict[float, Floats] = {}

    def likeliest(self) -> _Prior:
        """Up the restricted likelihood, one parameter after another."""
        best = _Prior()
        height = self._fit(best).log_likelihood
        for _ in range(SWEEPS):
            before = best
            for name, values in GRID.items():
                for value in values:
                    tried = replace(best, **{name: value})
                    if tried != best and (found := self._fit(tried).log_likelihood) > height:
                        best, height = tried, found
            if best == before:
                break
        return best

    def posterior(self, prior: _Prior) -> tuple[list[float], list[float]]:
        """[R] means and standard deviations of μ + f."""
        fit = self._fit(prior)
        cross = fit.worth[self._first]
        means = fit.mean + cross @ fit.pulls
        unknown = 1 - cross @ fit.weights  # what μ still counts where scores are far
        told = np.einsum("rn,nr->r", cross, cho_solve((fit.factor, True), cross.T))
        variances = fit.worth[0, 0] - told + unknown**2 / fit.weights.sum()
        return means.tolist(), np.sqrt(np.maximum(variances, 0.0)).tolist()

    def _fit(self, prior: _Prior) -> _Fit:
        if prior.length not in self._kernels:
            self._kernels[prior.length] = np.where(self._same, 1.0, _matern(self._distances / prior.length))
        kernel = self._kernels[prior.length]
        worth = (prior.spread * self._spread) ** 2 * ((1 - prior.own) * kernel + prior.own * self._same)
        luck = prior.shared / 2 * self._luck * (1 + kernel)
        np.fill_diagonal(luck, self._noise**2)
        factor = np.linalg.cholesky(worth + luck)
        weights = cho_solve((factor, True), np.ones(len(self._y)), check_finite=False)
        mean = float(weights @ self._y / weights.sum())
        residual = self._y - mean
        pulls = cho_solve((factor, True), residual, check_finite=False)
        height = -0.5 * float(residual @ pulls + np.log(weights.sum())) - float(np.log(np.diag(factor)).sum())
        return _Fit(worth, factor, weights, mean, pulls, height)


@dataclass(frozen=True, slots=True)
class _Fit:
    """Scores under one prior, V their covariance.

    Attributes:
        worth: covariance of f, [N, N].
        factor: Cholesky factor of V, [N, N].
        weights: V⁻¹ 1, [N].
        mean: μ.
        pulls: V⁻¹ (y − μ), [N].
        log_likelihood: restricted, up to a constant.
    """

    worth: Floats
    factor: Floats
    weights: Floats
    mean: float
    pulls: Floats
    log_likelihood: float


def _matern(distances: Floats) -> Floats:
    """With ν = 3/2: differentiable once."""
    scaled: Any = np.sqrt(3.0) * distances
    return np.asarray((1 + scaled) * np.exp(-scaled))


def _distances(genomes: Sequence[tuple[float, ...]]) -> Floats:
    """[N, N] root mean square distances of genes; without genomes of one length everybody is equally far."""
    if len({len(genome) for genome in genomes}) > 1 or not genomes[0]:
        return np.full((len(genomes), len(genomes)), FAR)
    x = np.array(genomes)
    products = x @ x.T
    squares = np.diag(products)[:, None] + np.diag(products) - 2 * products
    return np.asarray(np.sqrt(np.maximum(squares, 0.0) / x.shape[1]))


def _number(group: int | None) -> int:
    return -1 if group is None else group


def _noise(rows: Sequence[Scored]) -> Floats:
    """[N] root mean square errors of those in a group who answered as many items."""
    squares: dict[tuple[int | None, int], list[float]] = {}
    for row in rows:
        squares.setdefault((row.group, row.n), []).append(row.se**2)
    return np.sqrt([float(np.mean(squares[row.group, row.n])) for row in rows])
