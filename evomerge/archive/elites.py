"""The best candidate of each kind: a grid of elites for every objective, as a view over what was scored.

Quality-diversity search keeps, for each task, an archive whose cells are what a model can do on the other tasks. Such
archives are a function of all scores, so they need no search of their own: whatever optimizer ran, they can be shown.

Source: Kuroki et al. 2024, Agent Skill Acquisition for Large Language Models via CycleQD, arXiv:2410.14735, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Range = tuple[float, float]
"""The lower edge of the first bin and the upper edge of the last one."""

Cell = tuple[int, ...]
"""The bin in each of the other objectives, from 0."""


@dataclass(frozen=True, slots=True)
class EliteGrid:
    """Who is best at one objective, for each level of the others.

    Attributes:
        quality: number of the objective that elites are best at.
        axes: numbers of the others, in order.
        ranges: one an axis.
        bins: on each axis.
        elites: cell → row of the best candidate there; cells without a candidate are left out.
    """

    quality: int
    axes: tuple[int, ...]
    ranges: tuple[Range, ...]
    bins: int
    elites: dict[Cell, int]

    @property
    def cells(self) -> int:
        """How many there are, empty ones included."""
        return int(self.bins ** len(self.axes))

    @property
    def coverage(self) -> float:
        """The share of cells that have an elite, in [0, 1]."""
        return len(self.elites) / self.cells


def elite_grids(
    values: ArrayLike,
    bins: int,
    *,
    signs: Sequence[float] | None = None,
    ranges: Sequence[Range] | None = None,
) -> list[EliteGrid]:
    """For each objective in turn the elites over the others.

    A value outside a range counts to the nearest bin, the upper edge to the last one: in a grid that is indexed by
    ⌊value · bins⌋ alone, a perfect score falls out. Of equal candidates the earliest is the elite.

    Args:
        values: of feasible candidates in the order of arrival, shape [candidates, objectives].
        bins: on each axis, at least 1.
        signs: 1 where larger is better, -1 where smaller is; all 1 by default. Bins do not depend on them.
        ranges: one an objective; by default from its smallest value to its largest.

    Raises:
        ValueError: bins below 1, values that are not finite, too few or too many ranges, or one that ends before
            it begins.

    >>> first, second = elite_grids([[0.1, 0.0], [0.9, 0.1], [0.5, 1.0]], bins=2)
    >>> first.elites, first.coverage, second.elites
    ({(0,): 1, (1,): 2}, 1.0, {(0,): 0, (1,): 2})
    """
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2:
        raise ValueError(f"expected values of shape [candidates, objectives], got shape {matrix.shape}")
    if bins < 1:
        raise ValueError(f"expected 1 bin or more, got {bins}")
    if not np.isfinite(matrix).all():
        raise ValueError("objective values must be finite")
    bounds = tuple(ranges) if ranges is not None else _ranges(matrix)
    if len(bounds) != matrix.shape[1] or any(low > high for low, high in bounds):
        raise ValueError(f"expected {matrix.shape[1]} ranges that end where they begin or later, got {bounds!r}")
    qualities = matrix * np.asarray(signs if signs is not None else np.ones(matrix.shape[1]))
    places = _places(matrix, bins, bounds)
    return [_grid(qualities, places, bins, bounds, objective) for objective in range(matrix.shape[1])]


def _ranges(matrix: NDArray[np.float64]) -> tuple[Range, ...]:
    if not len(matrix):
        return ((0.0, 1.0),) * int(matrix.shape[1])
    lows, highs = matrix.min(axis=0), matrix.max(axis=0)
    return tuple((float(low), float(high)) for low, high in zip(lows, highs, strict=True))


def _places(matrix: NDArray[np.float64], bins: int, bounds: Sequence[Range]) -> NDArray[np.intp]:
    """The bin of each value, shape [candidates, objectives]."""
    low, high = np.reshape(bounds, (-1, 2)).T
    width = np.where(high > low, high - low, 1.0)
    inside = (np.clip(matrix, low, high) - low) * bins / width  # in this order an exact edge stays exact
    return np.asarray(np.minimum(inside.astype(np.intp), bins - 1))


def _grid(
    qualities: NDArray[np.float64], places: NDArray[np.intp], bins: int, bounds: Sequence[Range], objective: int
) -> EliteGrid:
    axes = tuple(axis for axis in range(len(bounds)) if axis != objective)
    elites: dict[Cell, int] = {}
    for row, cell in enumerate(map(tuple, places[:, axes].tolist())):
        if cell not in elites or qualities[row, objective] > qualities[elites[cell], objective]:
            elites[cell] = row
    return EliteGrid(objective, axes, tuple(bounds[axis] for axis in axes), bins, dict(sorted(elites.items())))
