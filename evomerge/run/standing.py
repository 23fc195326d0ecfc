"""Who leads: every search candidate by the best that is known of it.

A candidate is known by what its optimizer was told of it, until it has answered all search items: then by these. The
best of many estimates is too good, so that elites, once they are known exactly, may fall behind candidates which they
had driven from the front: the front is then made anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.archive.pareto import ParetoArchive
from evomerge.run.ranking import Scores, by_several, reference_point, sign
from evomerge.run.spec import RunSpec

NAMED_AT_ONCE = 4
"""Elites that are chosen at one time, where the front has no more members."""


class Standing:
    """The search candidates of a run in order.

    Attributes:
        archive: the feasible ones that no other dominates.
        known: number → objective or constraint name → {mean, se, …}, told or exact.
        exact: numbers of those that answered all search items.
    """

    def __init__(self, spec: RunSpec) -> None:
        self._spec = spec
        self.archive = ParetoArchive(len(spec.objectives))
        self.known: dict[int, Scores] = {}
        self.exact: set[int] = set()
        self._shown: dict[int, Scores] = {}
        self._violations: dict[int, float] = {}
        self._best: dict[str, dict[str, Any]] = {}

    def measure_from(self, baselines: Mapping[int, Scores]) -> None:
        """Set the hypervolume's reference below the baselines, once."""
        if self.archive.reference is None:
            self.archive.set_reference(reference_point(self._spec.objectives, list(baselines.values())))

    def scored(self, number: int, shown: Scores, told: Scores, violation: float) -> bool:
        """A candidate answered its subset; whether it joined the front.

        Args:
            shown: the estimates that people see.
            told: those that the optimizer is told.
        """
        self.known[number], self._shown[number], self._violations[number] = told, shown, violation
        if violation > 0:
            return False
        self._keep_best(number)
        return bool(self.archive.add(number, self.values(number)).added)

    def completed(self, number: int, scores: Scores, violation: float) -> None:
        """A candidate answered all search items."""
        self.known[number], self._shown[number], self._violations[number] = scores, scores, violation
        self.exact.add(number)
        self._best = {}
        feasible = [n for n in sorted(self.known) if self._violations[n] <= 0]
        for n in feasible:
            self._keep_best(n)
        self.archive.rebuild({n: self.values(n) for n in feasible})

    def values(self, number: int) -> tuple[float, ...]:
        """A candidate's objective values with the sign that makes larger better, in the spec's order."""
        return tuple(sign(o) * self.known[number][o.name]["mean"] for o in self._spec.objectives)

    def best(self) -> dict[str, dict[str, Any]]:
        """Per objective the best feasible candidate, the earliest of equals: {number, mean, se, n}."""
        return dict(self._best)

    def shortlist(self, top: int) -> list[int]:
        """The `top` candidates worth a closer look, by several criteria in turn, best first."""
        return by_several(self._spec, self.known, self._violations, list(self.known), top)

    def elites(self, most: int) -> list[int]:
        """At most `most` of the leading feasible candidates that have not answered all search items yet."""
        leading = self.shortlist(max(NAMED_AT_ONCE, len(self.archive.members)))
        return [n for n in leading if n not in self.exact and self._violations[n] <= 0][: max(0, most)]

    def _keep_best(self, number: int) -> None:
        for objective in self._spec.objectives:
            name, best = objective.name, self._best.get(objective.name)
            value = self.known[number][name]["mean"]
            gain = 1.0 if best is None else sign(objective) * (value - self.known[best["number"]][name]["mean"])
            if gain > 0 or (gain == 0 and best is not None and number < best["number"]):
                self._best[name] = {"number": number, **self._shown[number][name]}
