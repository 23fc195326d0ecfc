"""How much memory a method needs beside the tensors that it is given: known from shapes, before a tensor is read.

A method of grain `tensor` is given θ0 and a tensor a source, all in float32. What it holds beside them while it works,
the result included, it declares as a `Workspace`: an upper bound, within a factor of two of what is measured. Blocks
of fixed size (some MiB) are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from evomerge.recipe.parameters import Scalar

FLOAT32, FLOAT64 = 4, 8


@dataclass(frozen=True, slots=True)
class Extent:
    """A tensor before it is read, as far as memory depends on it.

    Attributes:
        shape: as methods see it, matrices (out × in).
        matrix: whether it is a linear map inside the network: all else is never decomposed.
        num_sources: of the recipe.
        shared: parameters that hold for all sources.
        rank: for methods that are given LoRA factors: the sum of the sources' ranks; 0 where they have none.
    """

    shape: tuple[int, ...]
    matrix: bool
    num_sources: int
    shared: Mapping[str, Scalar]
    rank: int = 0

    @property
    def size(self) -> int:
        """Entries."""
        return math.prod(self.shape)

    @property
    def one(self) -> int:
        """Bytes of one such tensor in float32."""
        return FLOAT32 * self.size

    @property
    def factors(self) -> int:
        """Bytes of all LoRA factors of it in float32."""
        return FLOAT32 * self.rank * sum(self.shape)

    @property
    def short(self) -> int:
        """The smaller side of a matrix."""
        return min(self.shape)

    @property
    def long(self) -> int:
        """The larger side of a matrix."""
        return max(self.shape)


Workspace = Callable[[Extent], int]
"""Bytes that are held beside what is given, at most."""


def tensors(number: float, a_source: float = 0.0) -> Workspace:
    """So many tensors of the shape, in float32, and so many a source."""
    return lambda extent: math.ceil((number + a_source * extent.num_sources) * extent.one)


NOTHING, RESULT = tensors(0), tensors(1)


def of_factors(number: float, a_source: float = 0.0) -> Workspace:
    """A product of factors, which takes two tensors, and so many times all factors: the second number shared among the
    sources."""
    return lambda x: 2 * x.one + math.ceil((number + a_source / x.num_sources) * x.factors)


def core_bytes(extent: Extent) -> int:
    """Bases of all left and all right factors, found one after the other by LAPACK in float64."""
    side, rank = min(extent.rank, extent.short), extent.rank
    work = FLOAT64 * (2 * extent.long * rank + side * rank + 4 * side * side)
    return extent.factors + kept_core_bytes(extent) + work


def kept_core_bytes(extent: Extent) -> int:
    """Those bases."""
    return FLOAT64 * min(extent.rank, extent.short) * sum(extent.shape)


def eigen_bytes(side: int) -> int:
    """A symmetric matrix in float64 in the place of its eigenvectors, and LAPACK's two more."""
    return 3 * FLOAT64 * side * side


def svd_bytes(rows: int, columns: int) -> int:
    """A singular value decomposition with its factors, where the spectrum falls off: its weak part is decomposed, in
    float64, beside float32 vectors of the whole."""
    side, size = min(rows, columns), rows * columns
    return eigen_bytes(side) + FLOAT32 * side * side + FLOAT64 * size


def remapped_bytes(extent: Extent) -> int:
    """A change of the singular values without right vectors, with its result."""
    side = extent.short
    return max(eigen_bytes(side), (FLOAT64 + FLOAT32) * side * side + 2 * extent.one)
