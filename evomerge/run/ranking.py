"""Who is best: pure choices over scored candidates, for one objective or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.archive.pareto import hypervolume, non_dominated
from evomerge.run.spec import Objective, RunSpec

Scores = Mapping[str, Mapping[str, Any]]
Numbers = NDArray[np.int64]
Floats = NDArray[np.float64]


def sign(objective: Objective) -> float:
    """+1 where larger is better, else −1."""
    return 1.0 if objective.direction == "maximize" else -1.0


def reference_point(objectives: Sequence[Objective], baselines: Sequence[Scores]) -> tuple[float, ...]:
    """The hypervolume's origin: a tenth of the baselines' spread below the worst baseline, in each objective.

    Larger is better in the returned signs. Without spread it is 0.05 below, for values beyond 1 a
    twentieth of them.
    """
    points = np.array([[sign(o) * s[o.name]["mean"] for o in objectives] for s in baselines])
    worst, spread = points.min(axis=0), np.ptp(points, axis=0)
    margin = np.where(spread > 0, 0.1 * spread, 0.05 * np.maximum(1.0, np.abs(worst)))
    return tuple(float(x) for x in worst - margin)


def shortlist(
    spec: RunSpec, scores: Mapping[int, Scores], violations: Mapping[int, float], numbers: Sequence[int], top: int
) -> list[int]:
    """The `top` candidates worth a closer look, best first.

    Feasible ones come before infeasible ones (those by their violation). Among the feasible: by value for one
    objective; for several, front by front, within a front greedily by the hypervolume that each adds.
    """
    points = [[sign(o) * scores[n][o.name]["mean"] for o in spec.objectives] for n in numbers]
    missed = np.array([violations[n] for n in numbers], dtype=np.float64)
    return leading(np.array(numbers, dtype=np.int64), np.array(points).reshape(-1, len(spec.objectives)), missed, top)


def leading(numbers: Numbers, points: Floats, violations: Floats, top: int) -> list[int]:
    """`shortlist` of candidates in arrays: of thousands only those near the top are put in order.

    Args:
        numbers: [candidates], each once.
        points: [candidates, objectives], larger is better.
        violations: [candidates].
    """
    feasible = violations <= 0
    if points.shape[1] == 1:
        ranked = _first(numbers[feasible], -points[feasible, 0], top)
    else:
        ranked = _by_fronts(numbers[feasible], points[feasible], top)
    return ranked + _first(numbers[~feasible], violations[~feasible], top - len(ranked))


def _first(numbers: Numbers, keys: Floats, top: int) -> list[int]:
    """The `top` numbers with the smallest keys, the smaller number first of equals."""
    if top <= 0:
        return []
    if top < len(keys):
        near = keys <= np.partition(keys, top - 1)[top - 1]
        numbers, keys = numbers[near], keys[near]
    found: list[int] = numbers[np.lexsort((numbers, keys))][:top].tolist()
    return found


def by_several(
    spec: RunSpec,
    views: Sequence[Mapping[int, Scores]],
    violations: Mapping[int, float],
    numbers: Sequence[int],
    top: int,
) -> list[int]:
    """The same by several views of the candidates' scores in turn, the first view first."""
    ranked = [shortlist(spec, view, violations, numbers, top) for view in views]
    chosen = dict.fromkeys(number for place in zip(*ranked, strict=True) for number in place)
    return list(chosen)[:top]


def _by_fronts(numbers: Numbers, points: Floats, top: int) -> list[int]:
    ranked = list[int]()
    while len(numbers) and len(ranked) < top:
        front = non_dominated(points)
        members = zip(numbers[front].tolist(), points[front].tolist(), strict=True)
        ranked += _greedy(dict(members), top - len(ranked))
        numbers, points = numbers[~front], points[~front]
    return ranked


def _greedy(front: dict[int, list[float]], top: int) -> list[int]:
    """Members in the order in which each adds the most hypervolume over the front's own worst corner."""
    values = np.array(list(front.values()))
    reference = values.min(axis=0) - 0.1 * np.maximum(np.ptp(values, axis=0), 1e-9)
    chosen = list[int]()
    while len(chosen) < min(top, len(front)):
        left = [n for n in front if n not in chosen]
        chosen.append(max(left, key=lambda n: (hypervolume(np.array([front[c] for c in [*chosen, n]]), reference), -n)))
    return chosen
