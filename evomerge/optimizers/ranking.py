"""One number per evaluation for an optimizer that wants one: constraints, failures and several objectives folded in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from evomerge.archive import ParetoArchive, improvement
from evomerge.candidate import Evaluation

Matrix = NDArray[np.float64]
"""Objective values, shape [evaluations, objectives], larger is better."""

Vector = NDArray[np.float64]
"""One number per evaluation."""


def costs(evaluations: Sequence[Evaluation], quality: Callable[[Matrix], Vector]) -> Vector:
    """Smaller is better; feasible before infeasible before failed.

    An infeasible candidate costs as much as the worst feasible one plus its violation, whatever its values (Deb 2000,
    An efficient constraint handling method for genetic algorithms, eq. 5). A failed one costs as much as the worst of
    the others plus their interquartile range, which keeps the scale of the costs.

    Args:
        evaluations: at least one did not fail.
        quality: of feasible candidates, larger is better.
    """
    cost = np.empty(len(evaluations))
    failed = np.array([e.values is None for e in evaluations])
    feasible = np.array([not e.violation for e in evaluations]) & ~failed
    infeasible = ~feasible & ~failed
    if feasible.any():
        cost[feasible] = -quality(np.array([e.values for e in evaluations if e.values is not None and not e.violation]))
    worst = cost[feasible].max() if feasible.any() else 0.0
    behind = np.nextafter(worst, np.inf)  # a violation may be too small to change the sum
    cost[infeasible] = np.maximum(behind, [worst + e.violation for e in np.array(evaluations)[infeasible]])
    lower, upper = np.percentile(cost[~failed], [25, 75])
    last = cost[~failed].max()
    cost[failed] = max(np.nextafter(last, np.inf), last + ((upper - lower) or 1.0))  # a range may be too small to add
    return cost


class UncrowdedImprovement:
    """What a candidate would add to the front of everything told: the uncrowded hypervolume improvement.

    A candidate that is better than the reference point and not dominated is worth the hypervolume that it adds; another
    one is worth minus its distance to the region of such points. So the worth does not end at the front: a dominated
    candidate still has a direction to go, and not towards the crowd.

    Two things differ from the paper, which optimises a fixed number of points at once by the Euclidean distance. Here
    one distribution moves along the front, against an archive of all that was told before the candidates at hand. And
    the distance is the maximum norm (the additive ε of Zitzler et al. 2003: by how much all objectives must rise),
    which is exact for any number of objectives and equally blind to crowding.

    Scale and reference adapt to what was told: each objective is divided by its range over all feasible evaluations,
    and the reference lies a tenth of that range below the worst member of the front.

    Source: Touré, Hansen, Auger, Brockhoff 2019, Uncrowded Hypervolume Improvement: COMO-CMA-ES and the Sofomore
    Framework, arXiv:1904.08823, eq. 8.
    """

    MARGIN = 0.1

    def __init__(self, num_objectives: int) -> None:
        self.front = ParetoArchive(num_objectives)
        self.low = np.full(num_objectives, np.inf)
        self.high = np.full(num_objectives, -np.inf)

    def add(self, evaluation: Evaluation) -> None:
        """Remember a feasible evaluation; others leave no trace."""
        if evaluation.values is None or evaluation.violation:
            return
        self.front.add(evaluation.trial, evaluation.values)
        self.low = np.minimum(self.low, evaluation.values)
        self.high = np.maximum(self.high, evaluation.values)

    def __call__(self, values: Matrix) -> Vector:
        """The worth of candidates that are not in the archive yet.

        Args:
            values: shape [candidates, objectives].

        Returns:
            shape [candidates], larger is better.
        """
        low = np.minimum(self.low, values.min(axis=0))
        spread = np.maximum(self.high, values.max(axis=0)) - low
        scale = np.where(spread > 0, spread, 1.0)
        front = (self.front.points - low) / scale
        points = (values - low) / scale
        reference = (front if len(front) else points).min(axis=0) - self.MARGIN
        return np.array([worth(point, front, reference) for point in points])


def worth(point: Vector, front: Matrix, reference: Vector) -> float:
    """The uncrowded hypervolume improvement of one point (see `UncrowdedImprovement`).

    Args:
        point: shape [objectives], larger is better.
        front: shape [points, objectives]; none is fine.
        reference: shape [objectives].
    """
    gain = improvement(point.tolist(), front, reference.tolist())
    if gain > 0:
        return gain
    below_reference = float(np.max(reference - point))
    below_front = float(np.max(np.min(front - point, axis=1), initial=-np.inf))
    return -max(below_reference, below_front, 0.0)
