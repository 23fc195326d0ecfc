"""Who leads: every search candidate by the best that is known of it.

A candidate is known by what its optimizer was told of it, until it has answered all search items: then by these. The
best of many estimates is too good, so that elites, once they are known exactly, may fall behind candidates which they
had driven from the front: the front is then made anew. Who deserves a closer look is therefore not asked of estimates,
but of what is believed of candidates in the light of all the others (`evomerge.run.belief`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.archive.pareto import ParetoArchive
from evomerge.run.belief import MOST, Scored, believe
from evomerge.run.ranking import Scores, by_several, reference_point, shortlist, sign
from evomerge.run.spec import RunSpec

NAMED_AT_ONCE = 4
"""Elites that are chosen at one time, where the front has no more members."""
LEADERS = MOST // 3
"""Of more candidates than belief looks at, so many are the leading ones and the rest the latest ones."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a candidate is: candidates with the same recipe are the same model, those of a group answered the same
    items."""

    recipe: str
    genome: tuple[float, ...]
    group: int


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
        self._places: dict[int, Place] = {}
        self._believed: dict[int, Scores] | None = None
        self._shown: dict[int, Scores] = {}
        self._violations: dict[int, float] = {}
        self._best: dict[str, dict[str, Any]] = {}

    def measure_from(self, baselines: Mapping[int, Scores]) -> None:
        """Set the hypervolume's reference below the baselines, once."""
        if self.archive.reference is None:
            self.archive.set_reference(reference_point(self._spec.objectives, list(baselines.values())))

    def proposed(self, number: int, place: Place) -> None:
        """A candidate is about to answer its subset."""
        self._places[number] = place

    def scored(self, number: int, shown: Scores, told: Scores, violation: float) -> bool:
        """A candidate answered its subset; whether it joined the front.

        Args:
            shown: the estimates that people see.
            told: those that the optimizer is told.
        """
        self.known[number], self._shown[number], self._violations[number] = told, shown, violation
        self._believed = None
        if violation > 0:
            return False
        self._keep_best(number)
        return bool(self.archive.add(number, self.values(number)).added)

    def completed(self, number: int, scores: Scores, violation: float) -> None:
        """A candidate answered all search items."""
        self.known[number], self._shown[number], self._violations[number] = scores, scores, violation
        self.exact.add(number)
        self._best, self._believed = {}, None
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

    @property
    def noisy(self) -> bool:
        """Whether any candidate is known with an error."""
        return any(
            self.known[n][o.name]["se"] > 0 for n in self.known.keys() - self.exact for o in self._spec.objectives
        )

    def believed(self) -> dict[int, Scores]:
        """Number → objective → {mean, se}: one candidate of each recipe, the leading and the latest ones.

        Of equal recipes the one that is known exactly stands for all, else the feasible one, else the first.
        """
        if self._believed is None:
            numbers = self._looked_at()
            recipes = {self._places[n].recipe: n for n in sorted(numbers, key=self._stands_for, reverse=True)}
            found: dict[int, dict[str, dict[str, float]]] = {n: {} for n in sorted(recipes.values())}
            for objective in self._spec.objectives:
                for recipe, belief in believe([self._scored(n, objective.name) for n in numbers]).items():
                    found[recipes[recipe]][objective.name] = {"mean": belief.mean, "se": belief.se}
            self._believed = dict(found)
        return self._believed

    def best_believed(self) -> dict[str, dict[str, Any]]:
        """Per objective the feasible candidate of which most is believed: {number, mean, se}."""
        beliefs, best = self.believed(), dict[str, dict[str, Any]]()
        for objective in self._spec.objectives:
            rows = [(sign(objective) * b[objective.name]["mean"], -n) for n, b in beliefs.items() if self._feasible(n)]
            if rows:
                number = -max(rows)[1]
                best[objective.name] = {"number": number, **beliefs[number][objective.name]}
        return best

    def shortlist(self, top: int) -> list[int]:
        """The `top` candidates worth a closer look, best first, each recipe once.

        In turn by what is believed of them and by what they may well be worth, a standard deviation more: only the best
        of those looked at is taken in the end.
        """
        beliefs = self.believed()
        hopes = {
            n: {o.name: {"mean": b[o.name]["mean"] + sign(o) * b[o.name]["se"]} for o in self._spec.objectives}
            for n, b in beliefs.items()
        }
        return by_several(self._spec, (beliefs, hopes), self._violations, list(beliefs), top)

    def elites(self, most: int) -> list[int]:
        """At most `most` of the leading feasible candidates that have not answered all search items yet."""
        if most <= 0:
            return []
        leading = self.shortlist(max(NAMED_AT_ONCE, len(self.archive.members)))
        return [n for n in leading if n not in self.exact and self._feasible(n)][:most]

    def _feasible(self, number: int) -> bool:
        return self._violations[number] <= 0

    def _stands_for(self, number: int) -> tuple[bool, bool, int]:
        return number not in self.exact, not self._feasible(number), number

    def _looked_at(self) -> list[int]:
        """All candidates; of too many the latest ones, and those that lead by what was told."""
        numbers = sorted(self.known)
        if len(numbers) <= MOST:
            return numbers
        early = numbers[: LEADERS - MOST]
        return sorted(
            [*shortlist(self._spec, self.known, self._violations, early, LEADERS), *numbers[LEADERS - MOST :]]
        )

    def _scored(self, number: int, objective: str) -> Scored:
        place, score, exact = self._places[number], self.known[number][objective], number in self.exact
        group, se = (None, 0.0) if exact else (place.group, score["se"])
        return Scored(place.recipe, place.genome, group, score["mean"], se, int(score["n"]))

    def _keep_best(self, number: int) -> None:
        for objective in self._spec.objectives:
            name, best = objective.name, self._best.get(objective.name)
            value = self.known[number][name]["mean"]
            gain = 1.0 if best is None else sign(objective) * (value - self.known[best["number"]][name]["mean"])
            if gain > 0 or (gain == 0 and best is not None and number < best["number"]):
                self._best[name] = {"number": number, **self._shown[number][name]}
