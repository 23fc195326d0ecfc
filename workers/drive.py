"""One run in the hands of one controller: the I/O shell around `evomerge.run.state`.

Every step is: fold events into the machine, commit them with the rows they change in one transaction, then act. After a
crash nothing but the evaluations in flight is done again.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from evomerge.candidate import CandidateState, Proposal
from evomerge.errors import Failure, FailureReason
from evomerge.optimizers import restore
from evomerge.optimizers.optimizer import explanation_of, uses_items
from evomerge.recipe.written import Written, read, written
from evomerge.run.dialogue import ReplayError, proposed
from evomerge.run.spec import RunSpec
from evomerge.run.state import RunMachine
from evomerge.run.verification import Task
from evomerge.storage.blocks import AnswerBlock
from evomerge.storage.store import CandidateRow, Event, Lease, RunRow, Store
from fitness.evaluator import Responses
from fitness.items import Split
from search_spaces.space import made_of
from workers.asking import job_of
from workers.job import Job, JobResult, Pool, WorkerSpec
from workers.judge import Judge
from workers.ledger import Ledger, new_row, proposed_event
from workers.memory import Memory, answered_like, subject_of
from workers.registry import Registry
from workers.report import responses_of, result_of
from workers.setup import CONTROL, prepare
from workers.turns import Turns
from workers.twins import Twins

log = logging.getLogger(__name__)

LEASE_S = 10.0
"""A dead controller's run is taken over after this long; a live one renews its lease every third of it."""
KNOWN = 25
"""Candidates in one turn that were answered from equal ones."""
COMMANDS_S = 0.1
"""Commands are looked for this often, however many results come in."""
RETRIED = (FailureReason.WORKER_LOST, FailureReason.TIMEOUT)

PoolFactory = Callable[[WorkerSpec, RunSpec], Pool]


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """How a controller works.

    Attributes:
        cache: folder that the workers of this machine share.
        lease_s: time after which another controller may take over.
        poll_s: pause between looks for a run when there is none.
        allow_code: whether code that candidates write may run, for metrics that do that.
    """

    cache: Path
    lease_s: float = LEASE_S
    poll_s: float = 0.5
    allow_code: bool = False


class Drive:
    """One run in the hands of one controller."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        pools: PoolFactory,
        settings: ControllerSettings,
        lease: Lease,
        row: RunRow,
        stop: threading.Event,
    ) -> None:
        self.store, self.settings, self.lease, self.stop = store, settings, lease, stop
        self.spec, self.created = RunSpec.model_validate(row.spec), row.created
        self.search = prepare(self.spec, registry, self.settings.cache, allow_code=self.settings.allow_code)
        self.recipes = list(self.search.baselines.values())
        self.machine = RunMachine(
            self.spec,
            self.search.optimizer(),
            list(self.search.baselines),
            search_items=self.search.plan.num_search_items,
        )
        self.submitted: dict[int, Task] = {}
        self.twins = Twins()
        self.judge = Judge(self.search)
        self.turns, self.began, self.listened = Turns(), time.monotonic(), -math.inf
        self.ledger = Ledger(store, lease, self.machine, row.last_seq, stop)
        self.past = self._recall(row)
        self.worked_before_s = self.machine.elapsed_s
        self.pool = None if self.machine.done else pools(self.search.worker, self.spec)

    def loop(self) -> None:
        """Until the run is over, or paused with nothing in flight, or the controller must stop."""
        assert self.pool is not None or self.machine.done
        try:
            self._learn_from_other_runs()
            self._learn_again()
            while self.pool is not None and not self.machine.done and not self.stop.is_set():
                self._advance()
                self._obey()
                self._stop_when_over(self.pool.size)
                if self.machine.done or (self.machine.phase == "paused" and not self.submitted):
                    break
                jobs = list(self._jobs(self.pool.size))
                self.ledger.flush()
                for job in jobs:
                    self.pool.submit(job)
                for result in self.turns.ended(self.pool):
                    self._finish(result)
            self.ledger.flush()
        finally:
            if self.pool is not None:
                self.pool.close()

    @cached_property
    def memory(self) -> Memory:
        """What models have answered before, and where this run's answers go."""
        pool = self.pool
        assert pool is not None, "a run that is over asks nobody"
        return self.ledger.patiently(lambda: Memory(self.store, self.search, self.lease.run, pool.device))

    # -- resume -------------------------------------------------------------------------------------------------

    def _recall(self, row: RunRow) -> list[Event]:
        events = all_events(self.store, row.id)
        self.machine.replay(events, self._snapshot(row.id))
        for event in events:
            if event.type == "candidate.proposed":
                self._same_baseline(event.data)
        self.twins.recall(events, self.machine)
        return events

    def _learn_again(self) -> None:
        """What this run knew when it stopped, in the order in which its bank grew; after what it began with, which has
        a say in the strata."""
        for event in self.past:
            number = event.data.get("number", -1)
            known = event.type == "candidate.scored" and number < len(self.recipes)
            if known or (event.type == "candidate.verified" and event.data["split"] == "search"):
                found = self.ledger.patiently(partial(self.store.candidate, self.lease.run, number))
                assert found is not None, "its event was stored with it"
                self._learn(found, "subset" if known else "search")
        self.judge.recall(self.past)
        self.past = []

    def _same_baseline(self, data: dict[str, Any]) -> None:
        alone = (
            data["kind"] == "baseline" and data["label"] != CONTROL
        )  # the average would say less: it has all of them
        if alone and self.recipes[data["number"]].digest != data["digest"]:
            raise ReplayError(
                f"{data['label']} is another model than when this run began: its recipe's digest was {data['digest']}, "
                f"now it is {self.recipes[data['number']].digest}; put the old files back or start a new run"
            )

    def _snapshot(self, run: str) -> Any:
        blob = self.store.optimizer_state(run)
        if blob is None:
            return None
        seq, state = blob.split(b"\n", 1)
        return restore(self.spec.optimizer.name, state), int(seq)

    # -- steps --------------------------------------------------------------------------------------------------

    def _obey(self) -> None:
        if time.monotonic() < self.listened + COMMANDS_S:
            return
        self.listened = time.monotonic()
        for number, verb in self.ledger.patiently(lambda: self.store.pending_commands(self.lease.run)):
            events = self.machine.command(verb)
            cancelled = list(self.machine.open) if verb == "cancel" and events else []
            self.ledger.put(events, [self._cancelled(n) for n, _ in cancelled], commands=(number,))
            if cancelled and self.pool is not None:
                self.pool.cancel()

    def _stop_when_over(self, workers: int) -> None:
        if reason := self.machine.stop_reason(self._elapsed_s, workers):
            self.ledger.put([Event("run.state", {"state": "stopping", "reason": reason})])

    @property
    def _elapsed_s(self) -> float:
        """Seconds in which anybody worked on this run; the machine knows those of earlier controllers."""
        return self.worked_before_s + time.monotonic() - self.began

    def _cancelled(self, number: int) -> CandidateRow:
        row = self.ledger.row(number)
        return replace(row, state=CandidateState.CANCELLED) if not row.scores else row

    def _advance(self) -> None:
        if self.machine.phase == "queued":
            rows = [
                new_row(number, "baseline", label, written(recipe), recipe.digest, 0, ())
                for number, (label, recipe) in enumerate(self.search.baselines.items())
            ]
            note = explanation_of(self.machine.dialogue.optimizer)
            said = [Event("run.note", {"text": note})] if note else []
            self.ledger.put(
                [*self.machine.start(), *said, *(proposed_event(row, {"genome": []}) for row in rows)], rows
            )
        while events := self.machine.advance() or self.machine.name_elites() or self.machine.review():
            self.ledger.put(events)
        if self.machine.phase == "verifying" and self.machine.verification.winners and not self.machine.open:
            if self.machine.verification.result is None:
                result = result_of(self.search, self.machine, self.ledger.row)
                self.ledger.put([Event("run.result", result)])
            self._advance()

    def _jobs(self, workers: int) -> Iterator[Job]:
        """Work for idle workers: what waits, then new candidates.

        Where a space has few recipes, optimizers ask for the same ones again and again: after some answers that were
        known already, or that others give, it is time to store them, to listen and to look whether the search is over.
        """
        if self.machine.phase == "paused":
            return
        waiting = list[tuple[int, Task]]()
        if len(self.machine.open) > len(self.submitted) + len(self.twins):  # seldom, with thousands of workers perhaps
            waiting = [key for key in self.machine.open if key[0] not in self.submitted and key[0] not in self.twins]
        if self.spec.constraints and (0, "subset") in self.machine.open:
            waiting = [key for key in waiting if key[0] == 0]  # guards compare everybody with the base's answers
        known = 0
        while len(self.submitted) < workers and known < KNOWN and not self.stop.is_set():
            if waiting:
                number, task = waiting.pop(0)
            elif self.machine.may_propose:
                number, task = self._propose(), "subset"
                if (number, task) not in self.machine.open or number in self.twins:  # an equal one answers
                    known += 1
                    continue
            else:
                return
            yield self._job(number, task)

    def _propose(self) -> int:
        number, proposal = self.machine.dialogue.next()
        self.ledger.put(self.judge.choose(proposal.generation))
        recipe, digest = self._recipe(proposal)
        row = new_row(number, "search", "", recipe, digest, proposal.generation, proposal.genome)
        self.ledger.put([proposed_event(row, proposed(proposal))], [row])
        twin = self.twins.proposed(number, (digest, proposal.generation, proposal.fidelity))
        if twin is not None and twin in self.machine.scores:
            self._score_like(number, twin)
        return number

    def _score_like(self, number: int, twin: int) -> None:
        row = answered_like(self.ledger.row(number), self.ledger.row(twin))
        self._score(row, stopped=self.machine.stopped.get(twin), cached=True)

    def _recipe(self, proposal: Proposal) -> tuple[Written, str]:
        first = len(self.search.baselines)
        return made_of(self.search.space, proposal, lambda t: read(self.ledger.row(first + t).recipe))

    def _job(self, number: int, task: Task) -> Job:
        row = self.ledger.row(number)
        attempt = self.machine.open[number, task] + 1
        row = replace(row, attempts=attempt, state=_running(row))
        self.ledger.put([Event("candidate.started", {"number": number, "task": task, "attempt": attempt})], [row])
        self.submitted[number] = task
        job = job_of(self.search, self.machine, row, task, self.judge.control)
        if not self.memory.has(row):
            return job
        latest = self.ledger.answers_of(self.memory.subject(row))
        return replace(job, known=self.ledger.patiently(lambda: self.memory.known(row, job.items, latest)))

    def _finish(self, result: JobResult) -> None:
        task = self.submitted.pop(result.number, None)
        if task is None:
            return  # cancelled meanwhile
        row = replace(self.ledger.row(result.number), worker=result.worker, seconds=result.seconds)
        if result.failure is not None:
            self._fail(row, task, result.failure)
            return
        row, blocks = self.memory.keep(row, task, result.responses)
        if task == "subset":
            self._score(row, blocks, known=result.known, stopped=result.fidelity, products=result.products)
        else:
            self._verify(row, task, blocks, result.known)

    def _fail(self, row: CandidateRow, task: Task, failure: Failure) -> None:
        attempt = self.machine.open[row.number, task] + 1
        data = {"number": row.number, "task": task, "reason": failure.reason.value, "message": failure.message}
        if failure.reason in RETRIED and attempt < self.spec.workers.attempts:
            self.ledger.put([Event("candidate.requeued", data | {"attempt": attempt})], [row])
            return
        log.warning("candidate %d failed: %s: %s", row.number, failure.reason, failure.message)
        state = CandidateState.FAILED if task == "subset" else row.state
        failed = replace(row, state=state, failure={"reason": failure.reason.value, "message": failure.message})
        self.ledger.put([Event("candidate.failed", data)], [failed], then=self.machine.too_many_failures)
        if task == "subset":
            self.twins.failed(row.number)

    def _score(
        self,
        row: CandidateRow,
        blocks: Sequence[AnswerBlock] = (),
        *,
        known: int = 0,
        cached: bool = False,
        stopped: float | None = None,
        products: Sequence[Mapping[str, Mapping[str, float]]] = (),
    ) -> None:
        answers = responses_of(row, "subset")
        if row.kind == "baseline":
            self._learn(row, "subset")
        fidelity = self.machine.dialogue.fidelity(row.number) if stopped is None else stopped
        found = self.judge.judge(row, answers, fidelity, whole=stopped is None)
        scored = replace(
            row, state=CandidateState.SCORED, scores=found.scores, violation=found.violation, cached=cached
        )
        data: dict[str, Any] = {
            "number": row.number, "kind": row.kind, "label": row.label, "generation": row.generation,
            "scores": found.scores, "violation": found.violation, "cached": cached, "worker": row.worker,
            "seconds": row.seconds, "items": 0 if cached else _count(answers) - known, "elapsed_s": self._elapsed_s,
        } | found.told  # fmt: skip
        if stopped is not None:
            data["stopped"] = stopped
        if self.machine.dialogue.optimizer.uses_responses and row.kind == "search":
            data["responses"] = self.search.plan.item_scores(answers, row.generation)
        items = uses_items(self.machine.dialogue.optimizer) and self.search.plan.num_search_items is not None
        if items and (row.kind == "search" or row.label == CONTROL):
            data["answers"] = [found.dump() for found in self.search.plan.item_answers(answers)]
        if products and self.search.linear is not None:
            data["gradients"] = [self.search.linear.derivatives(row.genome, product) for product in products]
        before, best = self.machine.archive.members, self.machine.best()
        self.ledger.put(
            [Event("candidate.scored", data)],
            [scored],
            then=lambda: self.machine.front_event(before, best),
            answers=blocks,
        )
        for number in self.twins.scored(row.number):
            self._score_like(number, row.number)

    def _verify(self, row: CandidateRow, task: Split, blocks: Sequence[AnswerBlock], known: int) -> None:
        responses = responses_of(row, task)
        found = self.judge.verify(row, responses, task)
        if task == "search":
            self._learn(row, task)
        verified = replace(row, verified=row.verified | {task: found.scores})
        data = {
            "number": row.number, "kind": row.kind, "label": row.label, "split": task, "scores": found.scores,
            "violation": found.violation, "items": _count(responses) - known,
        }  # fmt: skip
        before, best = self.machine.archive.members, self.machine.best()
        self.ledger.put(
            [Event("candidate.verified", data)],
            [verified],
            then=lambda: self.machine.front_event(before, best),
            answers=blocks,
        )

    def _learn_from_other_runs(self) -> None:
        if self.spec.subset.bank and not self.machine.done:
            everything = self.search.plan.search_items()
            for subject, answers in self.ledger.patiently(lambda: self.memory.bank(everything, self.created)):
                self.judge.complete(subject, answers)

    def _learn(self, row: CandidateRow, task: str) -> None:
        """Keep in mind what baselines answered, and whoever answered everything."""
        if row.kind == "baseline" and task == "subset":
            subject = subject_of(list(self.search.baselines.values())[row.number])
            self.judge.baseline(row, subject, responses_of(row, task))
        else:
            self.judge.complete(row.digest, responses_of(row, task))


def all_events(store: Store, run: str) -> list[Event]:
    """A run's events from the first to the newest."""
    events = list[Event]()
    while page := store.events(run, after=events[-1].seq if events else 0, limit=5000):
        events += page
    return events


def _running(row: CandidateRow) -> CandidateState:
    return CandidateState.RUNNING if row.state == CandidateState.PROPOSED else row.state


def _count(responses: Mapping[str, Responses]) -> int:
    return sum(len(found.item_ids) for found in responses.values())
