"""Models that descend from sources by crossing, kept as coefficients over the sources: kilobytes instead of weights.

A crossing splits each chromosome once and interpolates spherically on both sides. SLERP of two vectors is a linear
combination whose two coefficients depend on three inner products alone. So every descendant is, between any two of its
ancestors' split points, one linear combination of the sources, and its inner products with others follow from the
sources' Gram matrices over those segments. No weights are touched.

Source: Abrantes et al. 2025, Competition and Attraction Improve Model Fusion (M2N2), arXiv:2508.16204, eq. 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from evomerge.archive.flat_order import IntArray
from evomerge.recipe.segments import Angle

FloatArray = npt.NDArray[np.float64]

SAME = 1e-7
"""Neighbouring segments whose coefficients differ by less become one: far below what bfloat16 can tell."""
LEAST_SINE = 1e-6
"""At or below this sine of the angle interpolation is linear, as in the code released with the paper."""


@dataclass(frozen=True, slots=True)
class Noise:
    """A term of normal noise over the whole model, which some ancestor was given; `std` is its standard deviation."""

    seed: int
    std: float


@dataclass(frozen=True, slots=True, eq=False)
class Strand:
    """One chromosome of an individual.

    Attributes:
        starts: [segments], flat positions in rising order, from 0.
        rows: [segments, sources + noise terms], a coefficient for each.
    """

    starts: IntArray
    rows: FloatArray

    def at(self, positions: IntArray) -> FloatArray:
        """The rows that hold at some positions."""
        return self.rows[np.searchsorted(self.starts, positions, side="right") - 1]


@dataclass(frozen=True, slots=True, eq=False)
class Individual:
    """A model of a lineage.

    Attributes:
        strands: one a chromosome.
        noise: terms in the order of the strands' columns behind the sources'.
    """

    strands: tuple[Strand, ...]
    noise: tuple[Noise, ...] = ()

    @property
    def num_segments(self) -> int:
        """Over all chromosomes."""
        return sum(len(strand.starts) for strand in self.strands)

    @property
    def num_sources(self) -> int:
        """Columns that are not noise."""
        return int(self.strands[0].rows.shape[1]) - len(self.noise)

    @property
    def num_bytes(self) -> int:
        """Of the arrays."""
        return sum(strand.starts.nbytes + strand.rows.nbytes for strand in self.strands)


class Vectors(Protocol):
    """The sources as vectors, one or several chromosomes each."""

    @property
    def starts(self) -> tuple[IntArray, ...]:
        """Of each chromosome the positions at which its tensors start, and its length behind them."""
        ...

    def grams(self, chromosome: int, edges: IntArray) -> FloatArray:
        """Inner products of the sources between each edge and the next: [edges − 1, sources, sources]."""
        ...

    def blocks(self, chromosome: int, begin: int, end: int, noise: Sequence[Noise]) -> Iterator[FloatArray]:
        """The entries themselves, piece by piece: [sources + noise terms, entries]."""
        ...


def founder(source: int, num_sources: int, num_chromosomes: int) -> Individual:
    """A source itself."""
    row = np.zeros((1, num_sources))
    row[0, source] = 1.0
    return Individual(tuple(Strand(np.zeros(1, np.int64), row.copy()) for _ in range(num_chromosomes)))


def with_noise(individual: Individual, noise: Noise) -> Individual:
    """The individual with noise added to every weight."""
    strands = (
        Strand(strand.starts, np.hstack([strand.rows, np.ones((len(strand.rows), 1))])) for strand in individual.strands
    )
    return Individual(tuple(strands), (*individual.noise, noise))


def cross(
    a: Individual, b: Individual, splits: Sequence[int], mix: float, angle: Angle, vectors: Vectors, same: float = SAME
) -> Individual:
    """The child of two individuals: left of each chromosome's split SLERP(a, b) at `mix`, right of it at 1 − `mix`.

    Args:
        splits: one a chromosome: position of the first entry on the right; 0 or the length: one side is empty.
        mix: t of the left side: 0 is a, 1 is b.
        angle: between what the angle is taken. `global`: the whole models, as in the code released with the paper;
            `side`: each side of each chromosome, as in the paper's eq. 2; `tensor`: each tensor, also where it is
            split.
        same: neighbours whose coefficients differ by less are merged.

    Individuals with noise are compared entry by entry, which takes a pass over all weights: noise is for small models.
    """
    a, b = _with_same_noise(a, b)
    crossings = [_Crossing(number, a, b, split, angle, vectors.starts[number]) for number, split in enumerate(splits)]
    labels = _labels(crossings, angle)
    products = np.concatenate([crossing.products(a, vectors) for crossing in crossings])
    sums = np.zeros((int(labels.max()) + 1, 3))
    np.add.at(sums, labels, products)
    lefts = np.concatenate([crossing.left for crossing in crossings])
    pairs: dict[tuple[int, bool], tuple[float, float]] = {}
    for label, left in sorted(set(zip(labels.tolist(), lefts.tolist(), strict=True))):
        pairs[label, left] = slerp(mix if left else 1 - mix, *sums[label])
    shares = np.array([pairs[key] for key in zip(labels.tolist(), lefts.tolist(), strict=True)])
    ends = np.cumsum([len(crossing.edges) for crossing in crossings])[:-1]
    parts = zip(crossings, np.split(shares, ends), strict=True)
    return _without_lost_noise(Individual(tuple(c.child(share, same) for c, share in parts), a.noise))


def slerp(t: float, aa: float, bb: float, ab: float) -> tuple[float, float]:
    """The two coefficients of spherical interpolation, for vectors that are not normalised; linear where the angle is
    nearly 0 or π, or a vector is 0.

    Args:
        t: 0 at a, 1 at b.
        aa, bb, ab: inner products.

    Source: Abrantes et al. 2025, eq. 2 and the code released with it.

    >>> [round(w, 4) for w in slerp(0.5, 1.0, 1.0, 0.0)]
    [0.7071, 0.7071]
    """
    norm = math.sqrt(max(aa, 0.0)) * math.sqrt(max(bb, 0.0))
    omega = math.acos(min(1.0, max(-1.0, ab / norm))) if norm > 0 else 0.0
    sine = math.sin(omega)
    if sine <= LEAST_SINE:
        return 1 - t, t
    return math.sin((1 - t) * omega) / sine, math.sin(t * omega) / sine


class _Crossing:
    """One chromosome of two parents, cut where either has a segment's start, the child's split, or (for angles by
    tensor) a tensor's.

    Attributes:
        edges: starts of the pieces.
        left: which of them lie left of the split.
    """

    def __init__(self, number: int, a: Individual, b: Individual, split: int, angle: Angle, tensors: IntArray) -> None:
        self.number, self.length = number, int(tensors[-1])
        places = [a.strands[number].starts, b.strands[number].starts, np.array([split], np.int64)]
        if angle == "tensor":
            places.append(tensors)
        edges = np.unique(np.concatenate(places))
        self.edges: IntArray = edges[(edges >= 0) & (edges < self.length)]
        self.left = self.edges < split
        self.tensors: IntArray = np.searchsorted(tensors, self.edges, side="right") - 1
        self._a, self._b = a.strands[number].at(self.edges), b.strands[number].at(self.edges)

    def products(self, a: Individual, vectors: Vectors) -> FloatArray:
        """⟨a, a⟩, ⟨b, b⟩ and ⟨a, b⟩ over each piece: [pieces, 3]."""
        edges = np.append(self.edges, self.length)
        if a.noise:
            pairs = zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
            return np.array([self._seen(n, *span, a.noise, vectors) for n, span in enumerate(pairs)])
        grams = vectors.grams(self.number, edges)
        return np.stack(
            [_inner(x, grams, y) for x, y in ((self._a, self._a), (self._b, self._b), (self._a, self._b))], 1
        )

    def _seen(self, piece: int, begin: int, end: int, noise: Sequence[Noise], vectors: Vectors) -> FloatArray:
        total = np.zeros(3)
        for block in vectors.blocks(self.number, begin, end, noise):
            x, y = ((row[piece][:, None] * block).sum(0) for row in (self._a, self._b))
            total += [x @ x, y @ y, x @ y]
        return total

    def child(self, shares: FloatArray, same: float) -> Strand:
        """The strand that shares of the parents make: [pieces, 2]."""
        rows = shares[:, :1] * self._a + shares[:, 1:] * self._b
        kept = _kept(rows, same)
        return Strand(self.edges[kept], rows[kept])


def _inner(x: FloatArray, grams: FloatArray, y: FloatArray) -> FloatArray:
    """xᵀGy piece by piece; added up in a fixed order, so that every processor finds the same."""
    total = np.zeros(len(x))
    for i in range(x.shape[1]):
        for j in range(y.shape[1]):
            total += x[:, i] * grams[:, i, j] * y[:, j]
    return total


def _labels(crossings: Sequence[_Crossing], angle: Angle) -> IntArray:
    """Which pieces share an angle."""
    if angle == "global":
        return np.zeros(sum(len(c.edges) for c in crossings), np.int64)
    if angle == "side":
        return np.concatenate([2 * c.number + ~c.left for c in crossings]).astype(np.int64)
    before = np.cumsum([0, *(int(c.tensors.max()) + 1 for c in crossings)])
    return np.concatenate([c.tensors + before[c.number] for c in crossings])


def _kept(rows: FloatArray, same: float) -> npt.NDArray[np.bool_]:
    """Which rows differ from the last one that is kept."""
    kept = np.ones(len(rows), bool)
    last = 0
    near = (np.abs(np.diff(rows, axis=0)) < same).all(1)
    for number in np.flatnonzero(near).tolist():
        if kept[number]:
            last = number
        kept[number + 1] = bool((np.abs(rows[number + 1] - rows[last]) >= same).any())
    return kept


def _with_same_noise(a: Individual, b: Individual) -> tuple[Individual, Individual]:
    """Both with the columns of all noise terms of either."""
    if a.noise == b.noise:
        return a, b
    terms = tuple(dict.fromkeys((*a.noise, *b.noise)))
    return _widened(a, terms), _widened(b, terms)


def _widened(individual: Individual, terms: tuple[Noise, ...]) -> Individual:
    number = individual.num_sources
    columns = [number + terms.index(term) for term in individual.noise]

    def wide(strand: Strand) -> Strand:
        rows = np.zeros((len(strand.rows), number + len(terms)))
        rows[:, [*range(number), *columns]] = strand.rows
        return Strand(strand.starts, rows)

    return Individual(tuple(map(wide, individual.strands)), terms)


def _without_lost_noise(individual: Individual) -> Individual:
    """Without terms that nothing is left of."""
    number = individual.num_sources
    held = np.any([(strand.rows[:, number:] != 0).any(0) for strand in individual.strands], axis=0)
    if held.all():
        return individual
    columns = np.concatenate([np.ones(number, bool), held])
    strands = tuple(Strand(strand.starts, strand.rows[:, columns]) for strand in individual.strands)
    return Individual(strands, tuple(term for term, keep in zip(individual.noise, held, strict=True) if keep))
