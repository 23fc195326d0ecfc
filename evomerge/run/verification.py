"""How a run ends: the best candidates answer all search items, then the chosen few and every baseline the holdout
items, which the search has never seen."""

from __future__ import annotations

from typing import Any, Literal

from evomerge.run.ranking import shortlist
from evomerge.run.spec import RunSpec
from evomerge.run.standing import Standing
from evomerge.storage.store import Event

Task = Literal["subset", "search", "holdout"]
"""Which items a candidate answers: its generation's subset, all search items, or the holdout items."""


class Verification:
    """What all items say of candidates.

    Attributes:
        scores: task → number → objective or constraint name → {mean, se, n}, on all search or holdout items.
        believed: number → objective → {mean, se}, in the light of all candidates, when the search ended.
        winners: numbers of the chosen few, best first.
        result: the run's last word, its event's data.
    """

    def __init__(self, spec: RunSpec, num_baselines: int) -> None:
        self._spec, self._num_baselines = spec, num_baselines
        self.scores: dict[Task, dict[int, dict[str, dict[str, float]]]] = {"search": {}, "holdout": {}}
        self.believed: dict[int, dict[str, dict[str, float]]] = {}
        self.winners: tuple[int, ...] = ()
        self.result: dict[str, Any] | None = None
        self._violations: dict[int, float] = {}

    def begin(self, standing: Standing) -> Event:
        """The leading candidates are to answer all search items; those that have, as elites, need not."""
        known, leading, beliefs = self.scores["search"], standing.shortlist(self._spec.verify.top), standing.believed()
        believed = {str(n): dict(beliefs[n]) for n in sorted({*leading, *known} & beliefs.keys())}
        numbers = [n for n in leading if n not in known]
        asked = {"task": "search", "numbers": numbers, "winners": [], "believed": believed}
        return Event("verification.started", asked)

    def go_on(self) -> Event:
        """What follows when nobody is being asked: the winners are chosen and answer the holdout items, or, where none
        could be verified, the run has failed."""
        scored = self.scores["search"]
        if not scored:
            return Event("run.state", {"state": "failed", "reason": "none of the best candidates could be verified"})
        top = 1 if len(self._spec.objectives) == 1 else len(scored)
        winners = shortlist(self._spec, scored, self._violations, list(scored), top)
        numbers = [*winners, *range(self._num_baselines)] if self._spec.verify.holdout else []
        return Event("verification.started", {"task": "holdout", "numbers": numbers, "winners": winners})

    def started(self, data: dict[str, Any]) -> None:
        """Candidates are about to answer; fold that in."""
        self.believed |= {int(number): found for number, found in data.get("believed", {}).items()}
        self.winners = tuple(data["winners"])

    def verified(self, data: dict[str, Any]) -> None:
        """A candidate answered all items of a split; fold that in."""
        self.scores[data["split"]][data["number"]] = data["scores"]
        if data["split"] == "search":
            self._violations[data["number"]] = data["violation"]
