"""What a run makes of answers: scores, violations, and what its optimizer is told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evomerge.storage.store import CandidateRow, Event
from fitness.estimate import overall
from fitness.evaluator import Responses
from fitness.irt.estimators import ESTIMATORS
from fitness.items import Split
from fitness.measure import Control
from fitness.screening import Chosen, Role, Screening, Verdict
from workers.setup import CONTROL, Search

Answers = Mapping[str, Responses]

CHOOSING = ("auto", "parent_neyman", "hybrid", "adaptive")
"""Policies by which what is known by then says more of a generation's items than a name for its draw."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """Of one candidate's answers.

    Attributes:
        scores: objective or constraint name → {mean, se, n}, as reported.
        violation: by how much constraints are missed.
        told: what `candidate.scored` says of it beside these: `told` and `differences`, where there are any.
    """

    scores: dict[str, dict[str, float]]
    violation: float
    told: dict[str, Any]


class Judge:
    """Knows the baselines' answers and the item bank of one run."""

    def __init__(self, search: Search) -> None:
        self._search, self._plan = search, search.plan
        self._labels = list(search.baselines)
        self._base: Answers = {}
        self._complete: set[str] = set()
        self.control: Control | None = None
        self._policy = search.spec.subset
        published = self._policy.screening if self._policy.screening in ESTIMATORS else None
        self._screening = Screening(search.plan, self._policy.policy, self._policy.exposure, published)
        # Generation 0 is asked before anything is known, unless all are asked the same.
        self._chosen_for = -1 if self._plan.draws.fixed_by_answers else 0

    # -- what is learnt -----------------------------------------------------------------------------------------

    def baseline(self, row: CandidateRow, subject: str, answers: Answers) -> None:
        """A baseline answered its items."""
        if row.number == 0:
            self._base = answers
        if row.label == CONTROL:
            self.control = self._plan.control(answers)
        roles: dict[str, Role] = {"base": "base", CONTROL: "control"}
        self._screening.learn(subject, answers, roles.get(row.label, "parent"))
        self._complete.add(row.label)
        if self._complete >= set(self._labels) and self._policy.policy not in ("random", "stratified"):
            self._screening.stratify()

    def complete(self, subject: str, answers: Answers) -> None:
        """Anybody answered all search items."""
        self._screening.learn(subject, answers)

    def recall(self, events: Iterable[Event]) -> None:
        """What a run's stored events say of items and models; the baselines are told apart."""
        for event in events:
            if event.type == "candidate.proposed" and event.data["kind"] != "baseline":
                drawn = self._plan.draws.number(event.data["generation"])
                self._chosen_for = max(self._chosen_for, drawn)  # also where nothing was chosen for it
            if event.type == "subset.chosen":
                generation, eval_sets = event.data["generation"], event.data["eval_sets"]
                self._plan.draws.choose(generation, eval_sets)
                self._plan.draws.share(generation, event.data.get("deviations", {}))
                named = event.data.get("policies", {})
                found = {e: Chosen(named.get(e, self._usual), tuple(ids)) for e, ids in eval_sets.items()}
                self._screening.asked(generation, found)
                self._chosen_for = max(self._chosen_for, generation)
            if event.type == "candidate.scored" and "differences" in event.data:
                self._screening.note(event.data["generation"], event.data["differences"])

    @property
    def _usual(self) -> str:
        """How items were chosen in runs whose events do not say."""
        return "adaptive" if self._policy.policy == "adaptive" else "hybrid"

    # -- what is asked and said ---------------------------------------------------------------------------------

    def choose(self, generation: int) -> list[Event]:
        """`subset.chosen` for a new generation, if the bank suggests items for it or how to share them out."""
        generation = self._plan.draws.number(generation)
        if generation <= self._chosen_for or self._policy.policy not in CHOOSING:
            return []
        self._chosen_for = generation
        chosen = self._screening.choose(generation)
        self._plan.draws.choose(generation, {name: found.ids for name, found in chosen.items()})
        deviations = self._screening.deviations()
        self._plan.draws.share(generation, deviations)
        data: dict[str, Any] = {
            "generation": generation, "eval_sets": {name: list(found.ids) for name, found in chosen.items()}
        }  # fmt: skip
        if chosen:
            data["policies"] = {name: found.policy for name, found in chosen.items()}
        if deviations:
            data["deviations"] = deviations
        return [Event("subset.chosen", data)] if chosen or deviations else []

    def judge(self, row: CandidateRow, answers: Answers, fidelity: float, *, whole: bool) -> Judgement:
        """Of a candidate's answers to its subset.

        Args:
            fidelity: that was answered.
            whole: whether that is all it was asked, or a race ended before.
        """
        plan, costs = self._plan, self._search.costs.scores(row.recipe)
        estimates = plan.estimates(answers, row.generation, self.control, fidelity)
        found = overall(estimates) | costs
        violation = plan.violation(answers, self._base, row.generation, fidelity)
        scores = {name: asdict(estimate) for name, estimate in found.items()}
        told: dict[str, Any] = {}
        if whole and row.kind == "search" and self._policy.screening != "unbiased":
            screened = self._screening.told(answers, row.generation, fidelity, self.control, estimates)
            if screened.differences:
                told["differences"] = screened.differences
                self._screening.note(row.generation, screened.differences)
            if any(screened.scores[name] != found[name] for name in screened.scores):
                told["told"] = scores | {name: asdict(estimate) for name, estimate in screened.scores.items()}
        return Judgement(scores, violation + self._search.costs.violation(costs), told)

    def verify(self, row: CandidateRow, answers: Answers, split: Split) -> Judgement:
        """Of a candidate's answers to all items of a split."""
        costs = self._search.costs.scores(row.recipe)
        scores = {name: asdict(e) for name, e in (self._plan.full_scores(answers) | costs).items()}
        violation = 0.0
        if split == "search":
            violation = self._plan.full_violation(answers, self._base) + self._search.costs.violation(costs)
        return Judgement(scores, violation, {})

    def verdicts(self) -> Sequence[Verdict]:
        """What the bank says now of models that might screen."""
        return self._screening.verdicts()
