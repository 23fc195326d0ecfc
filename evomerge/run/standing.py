"""Who leads: every search candidate by the best that is known of it.

A candidate is known by what its optimizer was told of it, until it has answered all search items: then by these. The
best of many estimates is too good, so that elites, once they are known exactly, may fall behind candidates which they
had driven from the front: the front is then made anew. Who deserves a closer look is therefore not asked of estimates,
but of what is believed of candidates in the light of all the others (`evomerge.run.belief`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.archive.pareto import ParetoArchive
from evomerge.candidate import Estimate, Genome
from evomerge.run.belief import MOST, Scored, believe
from evomerge.run.board import Board
from evomerge.run.ranking import Numbers, Scores, by_several, leading, reference_point, sign
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


Beliefs = Callable[[Sequence[Genome], int], list[Estimate | None]]
"""What an optimizer believes of genomes in an objective; None of those that it knows nothing of."""


class Standing:
    """The search candidates of a run in order.

    Attributes:
        archive: the feasible ones that no other dominates.
        known: number → objective or constraint name → {mean, se, …}, told or exact.
        exact: numbers of those that answered all search items.
    """

    def __init__(self, spec: RunSpec, by_items: Callable[[], Beliefs | None] = lambda: None) -> None:
        """
        Args:
            by_items: gives what an optimizer that learns from answers to single items believes; None from others.
        """
        self._spec, self._by_items = spec, by_items
        self.archive = ParetoArchive(len(spec.objectives))
        self.known: dict[int, Scores] = {}
        self.exact: set[int] = set()
        self._places: dict[int, Place] = {}
        self._believed: dict[int, Scores] | None = None
        self._shown: dict[int, Scores] = {}
        self._violations: dict[int, float] = {}
        self._board = Board(len(spec.objectives))
        self._uncertain: set[int] = set()
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
        self._write(number, shown, told, violation)
        if any(told[o.name]["se"] > 0 for o in self._spec.objectives):
            self._uncertain.add(number)
        if violation > 0:
            return False
        self._keep_best(number)
        return bool(self.archive.add(number, self.values(number)).added)

    def completed(self, number: int, scores: Scores, violation: float) -> None:
        """A candidate answered all search items."""
        self._write(number, scores, scores, violation)
        self.exact.add(number)
        self._uncertain.discard(number)
        feasible = self._board.feasible
        self._choose_best(feasible)
        self.archive.rebuild(feasible.tolist(), self._board.values(feasible))

    def values(self, number: int) -> tuple[float, ...]:
        """A candidate's objective values with the sign that makes larger better, in the spec's order."""
        return tuple(sign(o) * self.known[number][o.name]["mean"] for o in self._spec.objectives)

    def best(self) -> dict[str, dict[str, Any]]:
        """Per objective the best feasible candidate, the earliest of equals: {number, mean, se, n}."""
        return dict(self._best)

    @property
    def noisy(self) -> bool:
        """Whether any candidate is known with an error."""
        return bool(self._uncertain)

    def believed(self) -> dict[int, Scores]:
        """Number → objective → {mean, se}: one candidate of each recipe, the leading and the latest ones.

        Of equal recipes the one that is known exactly stands for all, else the feasible one, else the first.
        """
        if self._believed is None:
            self._believed = self._from_items()
        if self._believed is None:
            numbers = self._looked_at()
            recipes = {self._places[n].recipe: n for n in sorted(numbers, key=self._stands_for, reverse=True)}
            found: dict[int, dict[str, dict[str, float]]] = {n: {} for n in sorted(recipes.values())}
            for objective in self._spec.objectives:
                for recipe, belief in believe([self._scored(n, objective.name) for n in numbers]).items():
                    found[recipes[recipe]][objective.name] = {"mean": belief.mean, "se": belief.se}
            self._believed = dict(found)
        return self._believed

    def _from_items(self) -> dict[int, Scores] | None:
        """The same by answers to single items, where the optimizer keeps these."""
        beliefs_of = self._by_items()
        if beliefs_of is None:  # in most runs; the others look at every candidate
            return None
        recipes = {self._places[n].recipe: n for n in sorted(self.known, key=self._stands_for, reverse=True)}
        numbers = sorted(recipes.values())
        beliefs: dict[int, dict[str, dict[str, float]]] = {n: {} for n in numbers}
        for k, objective in enumerate(self._spec.objectives):
            found = beliefs_of([self._places[n].genome for n in numbers], k)
            for number, estimate in zip(numbers, found, strict=True):
                if number in self.exact or objective.is_cost:
                    beliefs[number][objective.name] = {"mean": self.known[number][objective.name]["mean"], "se": 0.0}
                elif estimate is not None:
                    beliefs[number][objective.name] = {"mean": sign(objective) * estimate.mean, "se": estimate.se}
        whole: dict[int, Scores] = {n: of for n, of in beliefs.items() if len(of) == len(self._spec.objectives)}
        return whole or None

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
        numbers = self._board.known
        if len(numbers) <= MOST:
            return [int(n) for n in numbers]
        early = numbers[: LEADERS - MOST]
        first = leading(early, self._board.values(early), self._board.violations(early), LEADERS)
        return sorted([*first, *numbers[LEADERS - MOST :].tolist()])

    def _scored(self, number: int, objective: str) -> Scored:
        place, score, exact = self._places[number], self.known[number][objective], number in self.exact
        group, se = (None, 0.0) if exact else (place.group, score["se"])
        return Scored(place.recipe, place.genome, group, score["mean"], se, int(score["n"]))

    def _write(self, number: int, shown: Scores, known: Scores, violation: float) -> None:
        self.known[number], self._shown[number], self._violations[number] = known, shown, violation
        self._board.write(number, self.values(number), violation)
        self._believed = None

    def _choose_best(self, feasible: Numbers) -> None:
        """Anew from all, which are in the order of their numbers."""
        first = self._board.values(feasible).argmax(axis=0) if len(feasible) else ()
        self._best = {}
        for objective, place in zip(self._spec.objectives, first, strict=False):
            number = int(feasible[place])
            self._best[objective.name] = {"number": number, **self._shown[number][objective.name]}

    def _keep_best(self, number: int) -> None:
        for objective in self._spec.objectives:
            name, best = objective.name, self._best.get(objective.name)
            value = self.known[number][name]["mean"]
            gain = 1.0 if best is None else sign(objective) * (value - self.known[best["number"]][name]["mean"])
            if gain > 0 or (gain == 0 and best is not None and number < best["number"]):
                self._best[name] = {"number": number, **self._shown[number][name]}
