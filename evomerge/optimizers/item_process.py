"""What answers to single items say of genomes: a Gaussian process over pairs of genome and item.

The answer y of genome x to item i is

    y = μ + f(x) + u(x, i),   Cov(f, f′) = σ_f² k(x, x′; ℓ_f),
    Cov(u, u′) = [i = i′] (σ_a² + σ_h² k(x, x′; ℓ_h) + σ_e² [x = x′]):

a genome is good (f), an item is hard (a), genomes near each other find the same items hard (h), and a part is like
nothing else (e). The worth of a genome is its mean answer over all items, Σ wᵢ y, so that who was asked what does not
matter: a genome that got easy items is compared with others on these. Everything is in standard deviations of the
answers; μ has a flat prior.

Given μ + f, items are independent of each other, and items that the same genomes answered have the same covariance
V_p: with P_p its inverse, nothing larger than [R, R] is ever inverted (Woodbury's identity). The covariances are those
of the largest posterior density on a grid.

Sources: Rasmussen and Williams 2006, Gaussian Processes for Machine Learning, eqs. 2.42 (μ), 4.17 (the Matérn kernel
k), A.9 (Woodbury). The terms are those of generalizability theory (Brennan 2001): persons, items and their interaction,
with persons that lie in a space.

Legend: R genomes that answered, T = R and further ones, C items asked, P patterns (sets of genomes that answered an
item), n genomes in a pattern.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve

Floats = NDArray[np.float64]

FLAT = 100.0
"""Variance of μ: nothing is known of it."""
JITTER = 1e-6
"""Is added to variances, so that matrices can be inverted."""
FAR = 1e6
"""The distance of whoever lies nowhere in the space."""
LEAST_ERROR = 0.01
"""Of a score, in standard deviations of all: exact ones count as that good."""
SWEEPS = 3
"""Over the grid, one parameter after another."""


@dataclass(frozen=True, slots=True)
class Prior:
    """Length-scales in root mean square distances of genes, deviations in standard deviations of the answers.

    Attributes:
        reach: ℓ_f.
        common: σ_f.
        item: σ_a.
        own_reach: ℓ_h.
        own: σ_h.
        noise: σ_e.
    """

    reach: float = 0.8
    common: float = 0.8
    item: float = 0.5
    own_reach: float = 0.4
    own: float = 0.5
    noise: float = 0.2


_REACH, _DEVIATION = (0.1, 0.2, 0.4, 0.8, 1.6), (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
_ITEM = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
GRID: dict[str, tuple[float, ...]] = {
    "reach": _REACH, "common": _DEVIATION, "item": _ITEM, "own_reach": _REACH, "own": _ITEM, "noise": _DEVIATION,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Posterior:
    """Of what genomes are worth.

    Attributes:
        mean: [T].
        covariance: [T, T].
    """

    mean: Floats
    covariance: Floats

    @property
    def deviations(self) -> Floats:
        """[T] standard deviations."""
        return np.asarray(np.sqrt(np.maximum(np.diag(self.covariance), 0.0)))

    def without(self, first: int, count: int) -> Posterior:
        """Of all but `count` points from the `first` on."""
        kept = np.r_[:first, first + count : len(self.mean)]
        return Posterior(self.mean[kept], self.covariance[np.ix_(kept, kept)])

    def draw(self, rng: np.random.Generator, size: int) -> Floats:
        """[size, T] samples."""
        normal = rng.standard_normal((size, len(self.mean)))
        return np.asarray(self.mean + normal @ _root(self.covariance).T)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Patterns of n genomes each, and sums over the items of a pattern: z is an item's answers, w its share.

    Attributes:
        rows: the genomes, [P, n].
        count, share, squares: Σ 1, Σ w, Σ w², [P].
        first, weighted: Σ z, Σ w z, [P, n].
        second: Σ z zᵀ, [P, n, n].
    """

    rows: NDArray[np.intp]
    count: Floats
    share: Floats
    squares: Floats
    first: Floats
    weighted: Floats
    second: Floats


@dataclass(frozen=True, slots=True)
class _Fit:
    """Under one prior; Σ over items of V_p's inverse P_p, put where the pattern's genomes stand.

    Attributes:
        covariances: of μ + f and of u on one item, [R, R] each.
        precision: A = Σ P, [R, R]; shared: Σ w P; squared: Σ w² P.
        pull, shared_pull: Σ P z, Σ w P z, [R].
        worth: posterior mean of μ + f, [R].
        told: posterior covariance of μ + f, [R, R].
        log_likelihood: up to a constant.
    """

    precision: Floats
    shared: Floats
    squared: Floats
    pull: Floats
    shared_pull: Floats
    worth: Floats
    told: Floats
    log_likelihood: float


USUAL = Prior()
"""What is likely before there are answers; a factor of two away is one standard deviation."""


def surprise(prior: Prior) -> float:
    """Minus the logarithm of a prior's own density, up to a constant: few answers fit too well where anything goes."""
    return 0.5 * sum(math.log2(getattr(prior, f.name) / getattr(USUAL, f.name)) ** 2 for f in fields(Prior))


class ItemProcess:
    """Answers in arrays.

    Args:
        points: where the genomes lie, [R, dim], all different; NaN for models that are no genome, whose answers say
            something of the items.
        answers: [R, C]; NaN where a genome was not asked.
        shares: [C] of each item in the worth, w; 0 for what is no item but a score of the whole. What they lack of 1
            are items that nobody was asked.
        errors: [C] standard errors of scores, which are one genome's each; NaN for items. None: there are no scores.
    """

    def __init__(self, points: Floats, answers: Floats, shares: Floats, errors: Floats | None = None) -> None:
        asked = np.isfinite(answers)
        known = answers[asked]
        self._points, self._mean = points, float(known.mean())
        self._spread = float(known.std()) or 1.0
        self._shares = shares
        z = np.where(asked, (answers - self._mean) / self._spread, 0.0)
        items = np.full(len(shares), True) if errors is None else np.isnan(errors)
        self._batches = [*_batches(asked[:, items], z[:, items], shares[items])]
        self._scores = _scores(asked[:, ~items], z[:, ~items])
        known_errors = np.empty(0) if errors is None else errors[~items] / self._spread
        self._variances = np.maximum(known_errors, LEAST_ERROR) ** 2
        self._distances = distances(points, points)

    def likeliest(self, start: Prior) -> Prior:
        """From `start` up the likelihood: one step on the grid of one parameter after another."""
        best, height = start, self._fit(start).log_likelihood - surprise(start)
        for _ in range(SWEEPS):
            before = best
            for field in fields(Prior):
                for value in _beside(GRID[field.name], getattr(best, field.name)):
                    tried = replace(best, **{field.name: value})
                    if (found := self._fit(tried).log_likelihood - surprise(tried)) > height:
                        best, height = tried, found
            if best == before:
                break
        return best

    def log_likelihood(self, prior: Prior) -> float:
        """Of the answers, up to a constant."""
        return self._fit(prior).log_likelihood

    def posterior(self, prior: Prior, others: Floats | None = None) -> Posterior:
        """What the genomes are worth, and after them `others` [T - R, dim], which must be further ones."""
        fit, size = self._fit(prior), len(self._points)
        points = self._points if others is None else np.vstack([self._points, others])
        apart = self._distances if others is None else distances(points, points)
        worth, own = _covariances(prior, apart)
        seen = own[:, :size]  # of u at T with u at R, on the same item
        lacking = fit.precision - fit.precision @ fit.told @ fit.precision  # Zᵀ V⁻¹ Z
        mean = worth[:, :size] @ (fit.pull - fit.precision @ fit.worth)
        covariance = worth - worth[:, :size] @ lacking @ worth[:, :size].T
        mean = mean + seen @ (fit.shared_pull - fit.shared @ fit.worth)
        taken = seen @ fit.shared
        cross = taken @ covariance[:size]
        covariance = covariance - cross - cross.T + taken @ covariance[:size, :size] @ taken.T
        covariance = covariance + self._squares * own - seen @ fit.squared @ seen.T
        return Posterior(self._mean + self._spread * mean, self._spread**2 * (covariance + covariance.T) / 2)

    @property
    def _squares(self) -> float:
        """Σ w² over all items; those that nobody was asked are taken to be like the others."""
        total, squares = float(self._shares.sum()), float((self._shares**2).sum())
        return squares + max(1.0 - total, 0.0) * squares / total if total > 0 else 0.0

    def _fit(self, prior: Prior) -> _Fit:
        worth, own = _covariances(prior, self._distances)
        size = len(self._points)
        precision, shared, squared = np.zeros((3, size, size))
        pull, shared_pull = np.zeros((2, size))
        rows, values = self._scores
        height = -float(np.log(self._variances).sum()) - float((values**2 / self._variances).sum())
        np.add.at(precision, (rows, rows), 1 / self._variances)
        np.add.at(pull, rows, values / self._variances)
        for batch in self._batches:
            places = batch.rows[:, :, None], batch.rows[:, None, :]
            covariance = own[places]
            inverse = np.linalg.inv(covariance)
            height -= float(batch.count @ np.linalg.slogdet(covariance)[1]) + float((inverse * batch.second).sum())
            for total, weight in ((precision, batch.count), (shared, batch.share), (squared, batch.squares)):
                np.add.at(total, places, weight[:, None, None] * inverse)
            np.add.at(pull, batch.rows, np.einsum("pij,pj->pi", inverse, batch.first))
            np.add.at(shared_pull, batch.rows, np.einsum("pij,pj->pi", inverse, batch.weighted))
        factor = np.linalg.cholesky(worth)
        inner = np.linalg.cholesky(np.eye(size) + factor.T @ precision @ factor)
        told = factor @ cho_solve((inner, True), factor.T)
        found = told @ pull
        height += float(pull @ found) - 2 * float(np.log(np.diag(inner)).sum())
        return _Fit(precision, shared, squared, pull, shared_pull, found, told, height / 2)


def distances(a: Floats, b: Floats) -> Floats:
    """[A, B] root mean square distances of points [A, dim] and [B, dim]; what lies nowhere is far from all."""
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.asarray(np.nan_to_num(np.sqrt(np.maximum(squares, 0.0) / a.shape[1]), nan=FAR))


def _root(covariance: Floats) -> Floats:
    """A with A Aᵀ a covariance, up to rounding: what is known almost exactly may have variances below 0 by a little."""
    try:
        lift = JITTER * float(np.diag(covariance).max()) * np.eye(len(covariance))
        return np.asarray(np.linalg.cholesky(covariance + lift))
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
        return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))


def _covariances(prior: Prior, apart: Floats) -> tuple[Floats, Floats]:
    """Of μ + f, and of u on one item, for points so far apart."""
    same = np.eye(len(apart))
    worth = FLAT + prior.common**2 * _matern(apart / prior.reach) + JITTER * same
    own = prior.item**2 + prior.own**2 * _matern(apart / prior.own_reach) + (prior.noise**2 + JITTER) * same
    return worth, own


def _matern(apart: Floats) -> Floats:
    """With ν = 3/2: differentiable once."""
    scaled = np.sqrt(3.0) * apart
    return np.asarray((1 + scaled) * np.exp(-scaled))


def _beside(values: tuple[float, ...], value: float) -> tuple[float, ...]:
    place = values.index(value) if value in values else int(np.abs(np.subtract(values, value)).argmin())
    return tuple(values[k] for k in (place - 1, place + 1) if 0 <= k < len(values))


def _scores(asked: NDArray[np.bool_], z: Floats) -> tuple[NDArray[np.intp], Floats]:
    """Whose each score is, and the scores."""
    columns, rows = np.nonzero(asked.T)
    return rows, z[rows, columns]


def _batches(asked: NDArray[np.bool_], z: Floats, shares: Floats) -> Iterator[_Batch]:
    """Items in patterns, patterns of one size together."""
    columns, rows = np.nonzero(asked.T)
    sizes = asked.sum(axis=0)
    for n in np.unique(sizes[sizes > 0]).tolist():
        chosen = np.flatnonzero(sizes == n)
        answered = rows[sizes[columns] == n].reshape(-1, n)
        patterns, which = np.unique(answered, axis=0, return_inverse=True)
        which = which.reshape(-1)
        values, w = z[answered, chosen[:, None]], shares[chosen]
        order = np.argsort(which, kind="stable")
        cuts = np.searchsorted(which[order], np.arange(len(patterns)))
        values, w = values[order], w[order]
        ones = np.ones(len(w))
        blocks = np.split(values, cuts[1:])
        second = values[:, :, None] * values[:, None, :] if len(blocks) == len(values) else [v.T @ v for v in blocks]
        count, share, squares = (np.add.reduceat(v, cuts) for v in (ones, w, w**2))
        first, weighted = (np.add.reduceat(v, cuts) for v in (values, w[:, None] * values))
        yield _Batch(patterns, count, share, squares, first, weighted, np.asarray(second))
