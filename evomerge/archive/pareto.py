"""Pareto dominance, hypervolume and the front of a run. Every objective is maximised.

`a` dominates `b` when it is at least as good in every objective and better in one. Points with equal values do not
dominate each other; the earliest of them stands for all: a later copy adds nothing to a front.

The geometry is computed by moocore (LGPL-2.1, used as an installed library).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

EXACT_OBJECTIVES = 5
"""Up to here hypervolume is exact: 300 points take 2 ms with 5 objectives, but a minute with 8.

With more objectives it is the deterministic low-discrepancy approximation of `moocore.hv_approx` (within 0.3 % of the
exact value on 100 points of a sphere with 8 objectives, in 40 ms).
"""


def _matrix(points: ArrayLike, num_objectives: int | None = None) -> NDArray[np.float64]:
    """Points as a float array [points, objectives] that is fit for comparison.

    Raises:
        ValueError: a value is NaN or infinite, or the number of columns is not `num_objectives`.
    """
    matrix = np.asarray(points, dtype=np.float64)
    if matrix.size == 0:
        return np.empty((0, num_objectives or 1))
    if matrix.ndim != 2 or num_objectives not in (None, matrix.shape[1]):
        columns = "objectives" if num_objectives is None else num_objectives
        raise ValueError(f"expected points of shape [points, {columns}], got shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ValueError(f"objective values must be finite, got {matrix[~np.isfinite(matrix).all(axis=1)][0].tolist()}")
    return matrix


def non_dominated(points: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other point dominates; of equal points only the first.

    Args:
        points: shape [points, objectives], larger is better.

    Returns:
        shape [points], bool.

    Raises:
        ValueError: a value is NaN or infinite.

    >>> non_dominated([[1, 1], [1, 2], [1, 2], [0, 3]]).tolist()
    [False, True, False, True]
    """
    matrix = _matrix(points)
    if not len(matrix):
        return np.zeros(0, dtype=np.bool_)
    return np.asarray(moocore.is_nondominated(matrix, maximise=True), dtype=np.bool_)


def hypervolume(points: ArrayLike, reference: Sequence[float]) -> float:
    """The volume that is dominated by `points` and dominates `reference`.

    Points that are not better than the reference in every objective add nothing. Source: Zitzler and Thiele 1998.

    Args:
        points: shape [points, objectives], larger is better.
        reference: shape [objectives].

    Raises:
        ValueError: a value is NaN or infinite, or the lengths differ.

    >>> hypervolume([[1, 2], [2, 1]], (0, 0))
    3.0
    """
    (corner,) = _matrix([reference])
    matrix = _matrix(points, len(corner))
    inside = matrix[(matrix > corner).all(axis=1)]
    if not len(inside):
        return 0.0
    measure = moocore.hypervolume if len(corner) <= EXACT_OBJECTIVES else _approximate
    return float(measure(inside, ref=corner, maximise=True))


def _approximate(points: NDArray[np.float64], *, ref: NDArray[np.float64], maximise: bool) -> float:
    return float(moocore.hv_approx(points, ref=ref, maximise=maximise, nsamples=2**16))


def improvement(point: Sequence[float], points: ArrayLike, reference: Sequence[float]) -> float:
    """By how much `point` would raise the hypervolume of `points`: the volume that it alone dominates.

    Computed as the volume of the point less what the others dominate inside it, not as a difference of two totals,
    so that a small improvement of a large front keeps its digits.

    >>> improvement((2, 2), [[1, 3], [3, 1]], (0, 0))
    1.0
    """
    (corner,) = _matrix([point], len(reference))
    shadows = np.minimum(_matrix(points, len(reference)), corner)
    return max(0.0, hypervolume([corner], reference) - hypervolume(shadows, reference))


@dataclass(frozen=True, slots=True)
class FrontChange:
    """What one new point did to the front.

    Attributes:
        added: candidate numbers that joined (none or the new one).
        removed: candidate numbers that the new one dominates.
    """

    added: tuple[int, ...] = ()
    removed: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added)


class ParetoArchive:
    """The candidates that no other candidate dominates, by number.

    A candidate whose values equal a member's is not added: the earlier one stands for both. What was dominated is
    forgotten.

    Args:
        num_objectives: at least 1; with one objective the front is the best candidate.
        reference: the corner that hypervolume is measured from, worse than the points of interest in every objective;
            without one the hypervolume is 0.

    >>> front = ParetoArchive(2, reference=(0, 0))
    >>> front.add(7, (1, 2)), front.add(8, (2, 1)), front.add(9, (2, 3))
    (FrontChange(added=(7,), removed=()), FrontChange(added=(8,), removed=()), FrontChange(added=(9,), removed=(7, 8)))
    >>> front.members, front.hypervolume
    ((9,), 6.0)
    """

    def __init__(self, num_objectives: int, reference: Sequence[float] | None = None) -> None:
        if num_objectives < 1:
            raise ValueError(f"a front needs at least 1 objective, got {num_objectives}")
        self.num_objectives = num_objectives
        self._values: dict[int, tuple[float, ...]] = {}
        self._reference: tuple[float, ...] | None = None
        self._members: tuple[int, ...] | None = None  # None: not computed since the last change
        self._hypervolume: float | None = None  # the same
        if reference is not None:
            self.set_reference(reference)

    def add(self, number: int, values: Sequence[float]) -> FrontChange:
        """Offer a candidate; it joins unless a member is at least as good in every objective.

        Raises:
            ValueError: the number is a member's, a value is NaN or infinite, or there are too many or too few values.
        """
        if number in self._values:
            raise ValueError(f"candidate {number} is on the front already")
        (point,) = _matrix([values], self.num_objectives)
        members = self.points
        if (members >= point).all(axis=1).any():
            return FrontChange()
        beaten = (members <= point).all(axis=1)  # never equal: that was refused above
        removed = tuple(n for n, out in zip(self._values, beaten, strict=True) if out)
        for n in removed:
            del self._values[n]
        self._values[number] = tuple(point.tolist())
        self._members = self._hypervolume = None
        return FrontChange((number,), removed)

    def rebuild(self, numbers: Sequence[int], points: ArrayLike) -> None:
        """Begin again with these candidates, offered in their order: values of some have changed.

        Args:
            numbers: each once.
            points: their values, shape [candidates, objectives].

        Raises:
            ValueError: as `add`.
        """
        matrix = _matrix(points, self.num_objectives)
        kept = np.flatnonzero(non_dominated(matrix))
        self._values = {numbers[k]: tuple(matrix[k].tolist()) for k in kept.tolist()}
        self._members = self._hypervolume = None

    @property
    def members(self) -> tuple[int, ...]:
        """Candidate numbers on the front, in the order of arrival; the same tuple until the front changes."""
        if self._members is None:
            self._members = tuple(self._values)
        return self._members

    @property
    def points(self) -> NDArray[np.float64]:
        """The members' values, shape [members, objectives], in the order of `members`."""
        return np.array(list(self._values.values()), dtype=np.float64).reshape(-1, self.num_objectives)

    @property
    def reference(self) -> tuple[float, ...] | None:
        return self._reference

    def set_reference(self, values: Sequence[float]) -> None:
        """Measure the hypervolume from here on.

        Raises:
            ValueError: a value is NaN or infinite, or there are too many or too few values.
        """
        (corner,) = _matrix([values], self.num_objectives)
        self._reference, self._hypervolume = tuple(corner.tolist()), None

    @property
    def hypervolume(self) -> float:
        """The volume between the front and the reference; 0 without a reference."""
        if self._reference is None:
            return 0.0
        if self._hypervolume is None:
            self._hypervolume = hypervolume(self.points, self._reference)
        return self._hypervolume


def front_probabilities(
    values: ArrayLike, errors: ArrayLike, *, draws: int = 256, stream: np.random.Generator
) -> NDArray[np.float64]:
    """The chance that each candidate is on the front, when values are known up to normal errors: the share of draws in
    which no other dominates it.

    Candidates that are worse in every objective by more than three errors of both than another are on it in no draw.

    Args:
        values: shape [candidates, objectives], larger is better.
        errors: standard errors, same shape; 0 where a value is exact. Errors are taken as independent.

    Returns:
        shape [candidates], in [0, 1].

    Raises:
        ValueError: a value is NaN or infinite.
    """
    means, spread = _matrix(values), np.asarray(errors, dtype=np.float64)
    found = np.zeros(len(means))
    if not len(means):
        return found
    pessimistic = means - 3 * spread
    safe = pessimistic[non_dominated(pessimistic)]
    hopeful = [k for k, best in enumerate(means + 3 * spread) if not (safe > best).all(axis=1).any()]
    for _ in range(draws):
        drawn = means[hopeful] + spread[hopeful] * stream.standard_normal((len(hopeful), means.shape[1]))
        found[np.asarray(hopeful)[non_dominated(drawn)]] += 1
    return found / draws
