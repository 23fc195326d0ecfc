"""Who survives: by non-dominated fronts, then by crowding (NSGA-II) or reference directions (NSGA-III).

pymoo's sorting, crowding, normalisation and niching are used as functions on arrays. Its objects would have to be saved
as pickles, and its generations want all their answers at once. pymoo minimises, so values change their sign here.

Infeasible members come after feasible ones, by violation (Deb 2000, An efficient constraint handling method for genetic
algorithms).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga3 import HyperplaneNormalization, associate_to_niches, calc_niche_count, niching
from pymoo.operators.survival.rank_and_crowding.metrics import get_crowding_function
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting
from pymoo.util.randomized_argsort import randomized_argsort
from pymoo.util.ref_dirs import get_reference_directions

from evomerge.optimizers.steady_state import Members

Matrix = NDArray[np.float64]
Rows = NDArray[np.intp]


def survivors(members: Members, size: int, best: Callable[[Matrix, int], Rows]) -> Members:
    """The best of the members, feasible ones first.

    Args:
        size: how many, where there are so many.
        best: (costs of the feasible, how many of them to keep) → their row numbers; it is called even if all stay.
    """
    feasible = np.flatnonzero(members.violations == 0)
    infeasible = np.flatnonzero(members.violations > 0)
    kept = feasible[best(-members.values[feasible], min(size, len(feasible)))] if len(feasible) else feasible
    rest = infeasible[np.argsort(members.violations[infeasible], kind="stable")]
    return members.pick(np.concatenate([kept, rest[: size - len(kept)]]))


def by_crowding(costs: Matrix, size: int, rng: np.random.Generator) -> Rows:
    """NSGA-II's survival: whole fronts, of the last one the least crowded.

    Source: Deb, Pratap, Agarwal, Meyarivan 2002, A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II, III.
    """
    fronts = _fronts(costs, size)
    kept, last = fronts[:-1], fronts[-1]
    room = size - sum(map(len, kept))
    order = randomized_argsort(_crowding(costs[last]), order="descending", random_state=rng)
    return np.concatenate([*kept, last[order[:room]]]).astype(np.intp)


def standing(members: Members) -> tuple[Matrix, Matrix]:
    """The front that each member is in, from 0, and the crowding distance in it; infeasible members are behind.

    Returns:
        two arrays, shape [members]; an infeasible member's front is past the last one by its place.
    """
    rank, crowding = np.empty(len(members)), np.zeros(len(members))
    feasible = np.flatnonzero(members.violations == 0)
    fronts = _fronts(-members.values[feasible], len(feasible)) if len(feasible) else []
    for number, front in enumerate(fronts):
        rank[feasible[front]] = number
        crowding[feasible[front]] = _crowding(-members.values[feasible[front]])
    infeasible = np.flatnonzero(members.violations > 0)
    places = np.unique(members.violations[infeasible], return_inverse=True)[1]
    rank[infeasible] = len(fronts) + places
    return rank, crowding


def _fronts(costs: Matrix, size: int) -> list[Rows]:
    return [np.asarray(front) for front in NonDominatedSorting().do(costs, n_stop_if_ranked=size)]


def _crowding(costs: Matrix) -> Matrix:
    return np.asarray(get_crowding_function("cd").do(costs, n_remove=0))


def reference_directions(objectives: int, population: int) -> Matrix:
    """Directions spread evenly over the simplex, at most one a member, and at least one for each objective.

    Das and Dennis' lattice (1998). Where its finest one that fits has no point inside the simplex, a second, smaller
    lattice is put there (Deb and Jain 2014, section IV-A).

    Returns:
        shape [directions, objectives], rows sum to 1.
    """
    outer = _partitions(objectives, population)
    directions = np.asarray(get_reference_directions("das-dennis", objectives, n_partitions=max(1, outer)))
    inner = _partitions(objectives, population - len(directions))
    if outer >= objectives or inner < 1:
        return directions
    lattice = np.asarray(get_reference_directions("das-dennis", objectives, n_partitions=inner))
    return np.concatenate([directions, 0.5 * lattice + 0.5 / objectives])


def _partitions(objectives: int, most: int) -> int:
    """The finest lattice of at most so many points; 0: not even the corners fit."""
    if objectives == 1:
        return 1 if most >= 1 else 0
    partitions = 0
    while comb(partitions + objectives, objectives - 1) <= most:
        partitions += 1
    return partitions


class Niches:
    """NSGA-III's survival: whole fronts, of the last one those whose reference directions are least represented.

    Objectives are scaled by the ideal point and the intercepts of a hyperplane through extreme points; these are
    remembered from survival to survival.

    Args:
        directions: shape [directions, objectives].

    Source: Deb and Jain 2014, An Evolutionary Many-Objective Optimization Algorithm Using Reference-Point-Based
    Nondominated Sorting Approach, Part I, algorithms 1 to 4.
    """

    def __init__(self, directions: Matrix) -> None:
        self.directions = directions
        self._scale = HyperplaneNormalization(directions.shape[1])

    def __call__(self, costs: Matrix, size: int, rng: np.random.Generator) -> Rows:
        fronts = _fronts(costs, size)
        kept, last = np.concatenate([np.empty(0, np.intp), *fronts[:-1]]).astype(np.intp), fronts[-1]
        with warnings.catch_warnings():  # pymoo sets a global filter here, and divides by 0 where a plane is parallel
            warnings.simplefilter("ignore")
            self._scale.update(costs, nds=fronts[0])
        everyone = np.concatenate([kept, last])
        niche, distance = self.associate(costs[everyone])
        if len(everyone) <= size:
            return everyone
        split = len(kept)
        chosen = niching(
            last, size - split, calc_niche_count(len(self.directions), niche[:split]), niche[split:], distance[split:],
            random_state=rng,
        )  # fmt: skip
        return np.concatenate([kept, last[chosen]])

    def associate(self, costs: Matrix) -> tuple[Rows, Matrix]:
        """For each row the number of the direction nearest to it, and the distance, in scaled objectives."""
        niche, distance, _ = associate_to_niches(
            costs, self.directions, self._scale.ideal_point, self._scale.nadir_point
        )
        return np.asarray(niche), np.asarray(distance)

    def dump(self) -> dict[str, NDArray[Any]]:
        """Arrays for an optimizer's state."""
        extremes = self._scale.extreme_points
        return {
            "ideal": self._scale.ideal_point,
            "worst": self._scale.worst_point,
            "extremes": np.empty((0, self.directions.shape[1])) if extremes is None else extremes,
        }

    def load(self, arrays: dict[str, NDArray[Any]]) -> None:
        """What `dump` wrote."""
        self._scale.ideal_point, self._scale.worst_point = arrays["ideal"], arrays["worst"]
        self._scale.extreme_points = arrays["extremes"] if len(arrays["extremes"]) else None
