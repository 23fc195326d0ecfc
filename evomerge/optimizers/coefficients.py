"""What is added to a loss of merged models because of their coefficients alone, with its derivatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Self

import numpy as np
from numpy.typing import NDArray

from evomerge.optimizers.domain import Domain

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
"""Coefficients of sources by parts of the model, shape [sources, parts]; 0 where a source has none."""

Penalty = tuple[float, Matrix]
"""A penalty and its derivatives by the coefficients."""

TINY = 1e-8
"""Least product of two lengths, as in torch's cosine."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Which genes are weights of which source in which part of the model, and of what range.

    Attributes:
        genes: for each of them its number.
        rows: for each its source's number.
        columns: for each its part's number.
        low: for each the weight at 0.
        width: for each by how much the weight is larger at 1.
    """

    genes: NDArray[np.intp]
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    low: Vector
    width: Vector

    @classmethod
    def of(cls, domain: Domain) -> Self:
        """Of a domain whose genes say what they are; genes that sources share are none of them."""
        genes = [i for i, kind in enumerate(domain.kinds) if kind.group == "weight" and kind.source]
        own = [domain.kinds[i] for i in genes]
        sources, parts = (list(dict.fromkeys(names)) for names in ((k.source for k in own), (k.part for k in own)))
        return cls(
            np.array(genes, dtype=np.intp),
            np.array([sources.index(kind.source) for kind in own], dtype=np.intp),
            np.array([parts.index(kind.part) for kind in own], dtype=np.intp),
            np.array([kind.span[0] for kind in own], dtype=np.float64),
            np.array([kind.span[1] - kind.span[0] for kind in own], dtype=np.float64),
        )

    def coefficients(self, genome: Vector) -> Matrix:
        """Of a genome."""
        found = np.zeros((self.rows.max(initial=-1) + 1, self.columns.max(initial=-1) + 1))
        found[self.rows, self.columns] = self.low + self.width * genome[self.genes]
        return found

    def by_genes(self, slopes: Matrix, dim: int) -> Vector:
        """Derivatives by the genes from those by the coefficients, shape [dim]."""
        found = np.zeros(dim)
        found[self.genes] = self.width * slopes[self.rows, self.columns]
        return found


def similarity(c: Matrix) -> Penalty:
    """Mean over pairs of sources of the cosine of their coefficients (DAM)."""

    def cosine(a: Vector, b: Vector) -> tuple[float, Vector, Vector]:
        lengths = np.linalg.norm(a), np.linalg.norm(b)
        product = max(float(lengths[0] * lengths[1]), TINY)
        value = float(a @ b) / product
        along = [value * x / max(float(length) ** 2, TINY) for x, length in zip((a, b), lengths, strict=True)]
        return value, b / product - along[0], a / product - along[1]

    return _mean_of_pairs(c, cosine)


def overlap(c: Matrix) -> Penalty:
    """Mean over pairs of sources of Σ min(|c|, |c'|) (DAM); at ties half of the derivative is each one's."""

    def common(a: Vector, b: Vector) -> tuple[float, Vector, Vector]:
        gap = np.abs(a) - np.abs(b)
        share = np.where(gap == 0, 0.5, gap < 0)
        return float(np.minimum(np.abs(a), np.abs(b)).sum()), share * np.sign(a), (1 - share) * np.sign(b)

    return _mean_of_pairs(c, common)


def _mean_of_pairs(c: Matrix, both: Callable[[Vector, Vector], tuple[float, Vector, Vector]]) -> Penalty:
    total, slopes, pairs = 0.0, np.zeros_like(c), list(combinations(range(len(c)), 2))
    for i, j in pairs:
        value, first, second = both(c[i], c[j])
        total, slopes[i], slopes[j] = total + value, slopes[i] + first, slopes[j] + second
    return total / max(len(pairs), 1), slopes / max(len(pairs), 1)


def sizes(c: Matrix, l1: float, l2: float) -> Penalty:
    """Σ over sources of l1·Σ|c| + l2·‖c‖ (DAM)."""
    lengths = np.linalg.norm(c, axis=1, keepdims=True)
    slopes = l1 * np.sign(c) + l2 * c / np.maximum(lengths, TINY)
    return float(l1 * np.abs(c).sum() + l2 * lengths.sum()), slopes


def distance(c: Matrix, start: Matrix) -> Penalty:
    """Σ over sources of the mean |c − start| (Expert Merging)."""
    gap, parts = c - start, max(c.shape[1], 1)
    return float(np.abs(gap).sum() / parts), np.sign(gap) / parts
