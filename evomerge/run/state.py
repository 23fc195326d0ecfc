"""The search as a state machine without I/O: events in, decisions out.

Theory. A run is its list of events. `apply` folds one event into the state and is the only thing that changes it, so
a run rebuilt from its stored events is the run; live, the controller first stores an event and then applies it.
Decisions are read off the state: `open` (evaluations that must end before the phase can), `may_propose`, `advance`.

    phase        open holds                              leaves when `open` is empty and …
    ---------    -------------------------------------   -----------------------------------------------
    queued       nothing                                 a controller takes the run        → starting
    starting     the baselines, on generation 0's items  always                            → running
    running      proposed search candidates, and elites  the budget is spent               → verifying
                 that answer all search items
    paused       what was running when it was asked      `resume`                          → running
    stopping     what was running when it was asked      always                            → verifying
    verifying    the best candidates, all search items   they are scored: the chosen few and every baseline
                 then the chosen and baselines, holdout  answer the holdout items          → succeeded

The optimizer is part of the state: applying `candidate.proposed` asks it and compares, applying `candidate.scored` or
`candidate.failed` tells it (`evomerge.run.dialogue`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from evomerge.archive.pareto import ParetoArchive
from evomerge.optimizers.optimizer import Optimizer, uses_items
from evomerge.run.dialogue import Dialogue
from evomerge.run.spec import RunSpec
from evomerge.run.standing import Place, Standing
from evomerge.run.stopping import Progress, reason_to_stop
from evomerge.run.verification import Task, Verification
from evomerge.storage.store import TERMINAL, Event, RunState, Verb

FIELD = 24
"""Candidates that are remembered for races."""
FIRST_REVIEW, REVIEW_GROWTH = 8, 1.25
"""What is believed of the best is worked out first after so many candidates, then after so many times more."""
MIN_FOR_SHARE = 8
"""Candidates that must have ended before the share of failures can pause a run: fewer say too little."""


class RunMachine:
    """One run's state.

    Attributes:
        phase: the run's state.
        dialogue: with the optimizer.
        verification: what all items say.
        note: what the optimizer said of itself.
        open: (candidate number, task) → attempts begun, in the order in which they were opened.
        scores: number → objective or constraint name → {mean, se, n}, on the candidate's subset.
        stopped: number → fidelity at which a candidate's race was lost.
        latest: values and standard errors of the latest feasible candidates: what others run against.
        items: answers of search candidates, elites' included, before verification.
        elapsed_s: seconds in which the run was worked on, when the latest candidate was scored.
        unchanged: search candidates scored since the front last changed.
        best_believed: objective → {number, mean, se} of the candidate of which most was believed, when last reviewed.
    """

    def __init__(
        self, spec: RunSpec, optimizer: Optimizer, baselines: Sequence[str], *, search_items: int | None = None
    ) -> None:
        """
        Args:
            search_items: how many a candidate answers when it answers all of them; None when it always does.
        """
        self.spec, self.baselines = spec, tuple(baselines)
        self.dialogue = Dialogue(optimizer, len(baselines))
        self.verification = Verification(spec, len(baselines))
        self._search_items = search_items
        self.phase: RunState = "queued"
        self.reason: str | None = None
        self.note: str | None = None
        self.open: dict[tuple[int, Task], int] = {}
        self.scores: dict[int, dict[str, dict[str, float]]] = {}
        self.violations: dict[int, float] = {}
        self.failed: set[int] = set()
        self.proposed = 0
        self.generation = 0
        self.items = 0
        self.elapsed_s = 0.0
        self.unchanged = 0
        self.stopped: dict[int, float] = {}
        self.latest: deque[tuple[tuple[float, ...], tuple[float, ...]]] = deque(maxlen=FIELD)
        self.standing = Standing(spec, self.dialogue.beliefs)
        self.best_believed: dict[str, dict[str, Any]] = {}
        self._num_scored = self._reviewed_at = 0
        self._elites_at = self._elites_items = 0
        self._failed_before = self._scored_before = 0
        self._base_failure = ""
        self._objectives = [o.model_dump(mode="json") for o in spec.objectives]
        self._constraints = [c.model_dump(mode="json") for c in spec.constraints]

    # -- decisions ----------------------------------------------------------------------------------------------

    @property
    def archive(self) -> ParetoArchive:
        """The front."""
        return self.standing.archive

    @property
    def done(self) -> bool:
        """Whether nothing will happen any more."""
        return self.phase in TERMINAL

    @property
    def may_propose(self) -> bool:
        """Whether a further candidate fits the budget and nobody asked to stop."""
        return self.phase == "running" and self.proposed < self.spec.budget.candidates

    def start(self) -> list[Event]:
        """The events that open a queued run; the caller adds the baselines' `candidate.proposed`."""
        return [Event("run.state", {"state": "starting", "reason": None})]

    def advance(self) -> list[Event]:
        """The events that end the present phase, if it can end now; else none."""
        if self.phase == "starting" and 0 in self.failed:
            reason = f"the base model could not be scored: {self._base_failure}"
            return [Event("run.state", {"state": "failed", "reason": reason})]
        if self.open or self.done or self.phase in ("queued", "paused"):
            return []
        if self.phase == "starting":
            return [Event("run.state", {"state": "running", "reason": None})]
        if self.phase in ("running", "stopping"):
            return [] if self.may_propose else self._leave_running()
        if not self.verification.winners:
            return [self.verification.go_on()]
        if self.verification.result is None:
            return []
        return [Event("run.state", {"state": "succeeded", "reason": self.reason})]

    def name_elites(self) -> list[Event]:
        """`elites.chosen` when it is time that the leading candidates answer all search items; else none."""
        policy, every = self.spec.subset, self.spec.subset.elites
        if (
            self.phase != "running"
            or self._search_items is None
            or every is None
            or uses_items(self.dialogue.optimizer)
        ):
            return []  # who learns from items asks the leading ones for more itself
        if self._num_scored < self._elites_at + every:
            return []
        left = policy.elites_share * (self.items - self._elites_items) - self._elites_items
        chosen = self.standing.elites(int(left // self._search_items))
        return [Event("elites.chosen", {"numbers": chosen, "scored": self._num_scored})]

    def review(self) -> list[Event]:
        """`belief.updated` when enough candidates were scored since the last one, and there are errors; else none."""
        due = max(FIRST_REVIEW, math.ceil(REVIEW_GROWTH * self._reviewed_at))
        if self.phase != "running" or self._num_scored < due or not self.standing.noisy:
            return []
        return self._review()

    def command(self, verb: Verb) -> list[Event]:
        """What a person asked for; a verb that does not fit the phase changes nothing."""
        match verb, self.phase:
            case "pause", "starting" | "running":
                return [Event("run.state", {"state": "paused", "reason": "asked for"})]
            case "resume", "paused":
                state = "running" if self._baselines_ended else "starting"
                return [Event("run.state", {"state": state, "reason": None})]
            case "stop", "starting" | "running" | "paused":
                return [Event("run.state", {"state": "stopping", "reason": "stopped by request"})]
            case "cancel", _ if not self.done:
                return [Event("run.state", {"state": "cancelled", "reason": "asked for"})]
        return []

    def too_many_failures(self) -> list[Event]:
        """A pause with its reason when the share of failed candidates, since the run last went on, is too large."""
        failed = len(self.failed) - self._failed_before
        ended = failed + len(self.scores) - self._scored_before
        limit = self.spec.max_failed_share
        if self.phase != "running" or ended < MIN_FOR_SHARE or failed <= limit * ended:
            return []
        reason = f"{failed} of {ended} candidates failed, more than the limit of {limit:.0%}"
        return [Event("run.state", {"state": "paused", "reason": reason})]

    def stop_reason(self, elapsed_s: float, workers: int) -> str | None:
        """Why a running search should propose no more, if it should not."""
        if self.phase != "running":
            return None
        best = self.best_believed if self.standing.noisy else self.best()
        return reason_to_stop(self.spec, Progress(self.items, elapsed_s / 3600, workers, self.unchanged, best))

    def front_event(self, before: tuple[int, ...], best_before: dict[str, Any]) -> list[Event]:
        """`front.updated` if the front or a best candidate is another one than before."""
        after, best = self.archive.members, self.best()
        if after == before and best == best_before:
            return []
        return [
            Event(
                "front.updated",
                {
                    "added": sorted(set(after) - set(before)),
                    "removed": sorted(set(before) - set(after)),
                    "front": list(after),
                    "hypervolume": self.archive.hypervolume,
                    "reference": list(self.archive.reference or ()),
                    "best": best,
                    "scored": self._num_scored,
                },
            )
        ]

    # -- the fold -----------------------------------------------------------------------------------------------

    def apply(self, event: Event, *, ask_and_tell: bool = True) -> None:
        """Fold one event in. Without `ask_and_tell` the optimizer is left alone (it was restored from a snapshot)."""
        data = event.data
        match event.type:
            case "run.state":
                self._enter(data["state"], data.get("reason"))
            case "run.note":
                self.note = data["text"]
            case "candidate.proposed":
                self._proposed(data, ask_and_tell)
            case "candidate.requeued":
                self.open[data["number"], data["task"]] = data["attempt"]
            case "candidate.scored":
                self._scored(data, ask_and_tell)
            case "candidate.failed":
                self._failed(data, ask_and_tell)
            case "elites.chosen":
                self._elites_at = data["scored"]
                self.open |= {(number, "search"): 0 for number in data["numbers"]}
            case "belief.updated":
                self.best_believed, self._reviewed_at = data["best"], data["scored"]
            case "verification.started":
                self.verification.started(data)
                self.open |= {(number, data["task"]): 0 for number in data["numbers"]}
            case "candidate.verified":
                self._verified(data)
            case "run.result":
                self.verification.result = data

    def replay(self, events: Iterable[Event], snapshot: tuple[Optimizer, int] | None = None) -> None:
        """Rebuild from stored events; with a snapshot (optimizer, seq), only later events reach the optimizer.

        Raises:
            ReplayError: the optimizer asks another genome than the stored one.
        """
        if snapshot is not None:
            self.dialogue.optimizer = snapshot[0]
        for event in events:
            self.apply(event, ask_and_tell=snapshot is None or event.seq > snapshot[1])

    def best(self) -> dict[str, dict[str, float]]:
        """Per objective the best feasible search candidate, the earliest of equals: {number, mean, se, n}."""
        return self.standing.best()

    def summary(self) -> dict[str, Any]:
        """What run lists and pages show."""
        return {
            "budget": self.spec.budget.candidates,
            "proposed": self.proposed,
            "scored": self._num_scored,
            "items": self.items,
            "elapsed_s": self.elapsed_s,
            "failed": len(self.failed),
            "complete": len(self.verification.scores["search"]),
            "generation": self.generation,
            "objectives": self._objectives,
            "constraints": self._constraints,
            "best": self.best(),
            "believed": self.best_believed,
            "front": list(self.archive.members),
            "hypervolume": self.archive.hypervolume,
            "reference": list(self.archive.reference or ()),
            "baselines": {label: number for number, label in enumerate(self.baselines)},
            "winners": list(self.verification.winners),
            "note": self.note,
            "result": self.verification.result,
        }

    # -- inside -------------------------------------------------------------------------------------------------

    @property
    def _search_scored(self) -> list[int]:
        return [number for number in self.scores if number >= len(self.baselines)]

    @property
    def _baselines_ended(self) -> bool:
        return all(n in self.scores or n in self.failed for n in range(len(self.baselines)))

    def _enter(self, state: RunState, reason: str | None) -> None:
        self.phase, self.reason = state, reason
        if state == "running":
            self._failed_before, self._scored_before = len(self.failed), len(self.scores)
        if state == "running":
            self.standing.measure_from(self.scores)
        if state in TERMINAL:
            self.open.clear()

    def _proposed(self, data: dict[str, Any], ask: bool) -> None:
        number = data["number"]
        self.open[number, "subset"] = 0
        if data["kind"] == "baseline":
            return
        group = data["generation"] if self.spec.subset.rotate else 0
        self.standing.proposed(number, Place(data["digest"], tuple(data["genome"]), group))
        self.dialogue.taken(data, ask=ask)
        self.proposed += 1
        self.generation = max(self.generation, data["generation"])

    def _scored(self, data: dict[str, Any], tell: bool) -> None:
        number = data["number"]
        del self.open[number, "subset"]
        self.scores[number], self.violations[number] = data["scores"], data["violation"]
        if not self.dialogue.is_about(number):
            if tell:
                self.dialogue.known(data)
            return
        told = data.get("told", data["scores"])
        self._num_scored += 1
        if "stopped" in data:
            self.stopped[number] = data["stopped"]
        self.items += data.get("items", 0)
        self.elapsed_s = data.get("elapsed_s", self.elapsed_s)
        changed = self.standing.scored(number, data["scores"], told, data["violation"])
        self.unchanged = 0 if changed else self.unchanged + 1
        values, errors = self.standing.values(number), tuple(told[o.name]["se"] for o in self.spec.objectives)
        if data["violation"] <= 0:
            self.latest.append((values, errors))
        if tell:
            self.dialogue.answered(data, values, errors)

    def _verified(self, data: dict[str, Any]) -> None:
        number, split = data["number"], data["split"]
        del self.open[number, split]
        self.verification.verified(data)
        if split == "search" and self.phase != "verifying":  # the front stays that of the search
            self.standing.completed(number, data["scores"], data["violation"])
            self.items += data.get("items", 0)
            self._elites_items += data.get("items", 0)

    def _failed(self, data: dict[str, Any], tell: bool) -> None:
        number, task = data["number"], data["task"]
        del self.open[number, task]
        if task != "subset":
            return  # it keeps its search-time score; the result table shows that it could not be verified
        self.failed.add(number)
        if number == 0:
            self._base_failure = data["message"]
        if tell and self.dialogue.is_about(number):
            self.dialogue.failed(number)

    def _leave_running(self) -> list[Event]:
        if not self.scores or not self._search_scored:
            return [Event("run.state", {"state": "failed", "reason": "no candidate could be scored"})]
        return [
            *(self._review() if self.standing.noisy else ()),
            Event("run.state", {"state": "verifying", "reason": self.reason}),
            self.verification.begin(self.standing),
        ]

    def _review(self) -> list[Event]:
        return [Event("belief.updated", {"scored": self._num_scored, "best": self.standing.best_believed()})]
