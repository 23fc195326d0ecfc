"""Who is best: pure choices over scored candidates, for one objective or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evomerge.archive.pareto import hypervolume, non_dominated
from evomerge.run.spec import Objective, RunSpec

Scores = Mapping[str, Mapping[str, Any]]


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
    feasible = [n for n in numbers if violations[n] <= 0]
    rest = sorted((n for n in numbers if violations[n] > 0), key=lambda n: (violations[n], n))
    points = {n: [sign(o) * scores[n][o.name]["mean"] for o in spec.objectives] for n in feasible}
    if len(spec.objectives) == 1:
        ranked = sorted(feasible, key=lambda n: (-points[n][0], n))
    else:
        ranked = _by_fronts(points, top)
    return [*ranked, *rest][:top]


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


def _by_fronts(points: dict[int, list[float]], top: int) -> list[int]:
    left, ranked = dict(points), list[int]()
    while left and len(ranked) < top:
        numbers = list(left)
        mask = non_dominated(np.array([left[n] for n in numbers]))
        front = [n for n, kept in zip(numbers, mask, strict=True) if kept]
        ranked += _greedy({n: left.pop(n) for n in front}, top - len(ranked))
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
