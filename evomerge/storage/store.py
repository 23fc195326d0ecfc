"""The contract of what lasts: runs, candidates, answers, events, commands and leases.

One run has one writer at a time: the holder of its lease. Everything that belongs together commits in one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

from evomerge.candidate import CandidateState, Genome
from evomerge.recipe.written import Written
from evomerge.storage.blocks import AnswerBlock, Bank, BankPage

RunState = Literal[
    "queued", "starting", "running", "paused", "stopping", "verifying", "succeeded", "failed", "cancelled"
]
TERMINAL: frozenset[str] = frozenset({"succeeded", "failed", "cancelled"})
Verb = Literal["pause", "resume", "stop", "cancel"]
CandidateKind = Literal["baseline", "search"]


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as stored. `version` grows with every commit (ETag); `last_seq` is its newest event."""

    id: str
    name: str
    state: RunState
    reason: str | None
    spec: dict[str, Any]
    summary: dict[str, Any]
    created: datetime
    updated: datetime
    version: int
    last_seq: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class CandidateRow:
    """A candidate as stored.

    Attributes:
        number: its place in the run, from 0.
        kind: `baseline` (base, sources, plain average) or `search`.
        label: `base`, `source:math`, `average`; empty for search candidates.
        scores: objective or constraint name → {mean, se, n}.
        verified: split → the same, from all search items or all holdout items.
        answers: split or subset → eval set → keys of the blocks of answers to its items.
        responses: split or subset → eval set → {item_ids, values: metric → floats}; what those blocks hold. It is
            read, never written.
        recipe: data, as they are read; a new candidate's may be text.
        on_front: whether it is on the run's front now.
    """

    number: int
    kind: CandidateKind
    label: str
    state: CandidateState
    generation: int
    genome: Genome
    digest: str
    recipe: dict[str, Any] | Written
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    verified: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    answers: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    responses: dict[str, Any] = field(default_factory=dict)
    violation: float = 0.0
    on_front: bool = False
    cached: bool = False
    attempts: int = 0
    worker: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    failure: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a run; `seq` is gap-free per run from 1 and is the SSE id. 0: not stored yet."""

    type: str
    data: dict[str, Any]
    seq: int = 0
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write a run until it expires; a higher epoch fences a lower one out."""

    run: str
    owner: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Commit:
    """What changes together. Fields that are None stay as they are, except that a new `state` takes `reason` with it:
    without one, the old state's reason goes.

    Attributes:
        candidates: new ones, or any to write with all that they are.
        changed: others, which are stored already and are what they were (kind, label, generation, genome, digest,
            recipe): only what became known of them is written.
        answers: blocks that candidates name and that may not be stored yet; those that are stay as they are.
    """

    events: tuple[Event, ...] = ()
    candidates: tuple[CandidateRow, ...] = ()
    changed: tuple[CandidateRow, ...] = ()
    answers: tuple[AnswerBlock, ...] = ()
    state: RunState | None = None
    reason: str | None = None
    summary: dict[str, Any] | None = None
    optimizer: bytes | None = None
    commands_done: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class CandidateQuery:
    """A page of candidates. `sort` is `number`, `-number`, `score:NAME` or `-score:NAME`; `cursor` is from the page
    before; candidates without that score come last, both ways. Without `details`, genome, recipe, answers and
    responses are left empty: lists are light then."""

    state: str | None = None
    kind: str | None = None
    front: bool | None = None
    min_scores: dict[str, float] = field(default_factory=dict)
    sort: str = "number"
    limit: int = 100
    cursor: str | None = None
    details: bool = True


class Store(Protocol):
    """All methods raise `StoreError` when the database is away; unknown ids give None."""

    def create_run(
        self, spec: dict[str, Any], name: str, idempotency: tuple[str, str] | None = None
    ) -> tuple[RunRow, bool]:
        """A new queued run, and whether it was made now. `idempotency` is (key, digest of the request): the same pair
        gives the same run again.

        Raises:
            InvalidInputError: the key was used with another request.
        """
        ...

    def run(self, run_id: str) -> RunRow | None: ...

    def runs(
        self, state: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> tuple[list[RunRow], str | None]:
        """Newest first; the second value is the next page's cursor.

        Raises:
            InvalidInputError: the state, limit or cursor makes no sense.
        """
        ...

    def optimizer_state(self, run_id: str) -> bytes | None: ...

    def candidate(self, run_id: str, number: int) -> CandidateRow | None: ...

    def candidates(
        self, run_id: str, query: CandidateQuery = CandidateQuery()
    ) -> tuple[list[CandidateRow], str | None]:
        """A page of candidates, and the next page's cursor.

        Raises:
            InvalidInputError: a field of the query, or its cursor, makes no sense.
        """
        ...

    def events(self, run_id: str, after: int = 0, limit: int = 1000) -> list[Event]: ...

    def banks(self) -> list[Bank]:
        """What there are answers to: a row for each evaluator and eval set, the first that was written first."""
        ...

    def answers(
        self, fingerprint: str, *, eval_set: str | None = None, subjects: Sequence[str] | None = None
    ) -> list[AnswerBlock]:
        """The answers that an evaluator took, oldest first: of a question that was asked twice, the later counts."""
        ...

    def subjects(self, fingerprint: str, *, eval_set: str | None = None) -> list[str]:
        """Who answered anything under an evaluator, in the order of their names."""
        ...

    def answer_page(
        self, fingerprint: str, eval_set: str, metric: str, *, after: str = "", limit: int, until: int | None = None
    ) -> BankPage:
        """The answers of the next subjects who were scored by a metric, by their names; no others are read.

        Args:
            after: the last subject of the page before.
            limit: subjects, at least 1.
            until: of the page before, so that answers that come meanwhile change neither rows nor columns.
        """
        ...

    def add_answers(self, blocks: Iterable[AnswerBlock]) -> int:
        """Keep answers that no run of this store asked for (imports), all or none; how many blocks were new.

        Raises:
            ValueError: an answer is not a finite number.
        """
        ...

    def describe_evaluator(self, fingerprint: str, settings: Mapping[str, Any]) -> None:
        """Keep what a fingerprint stands for; the first description stays."""
        ...

    def command(self, run_id: str, verb: Verb) -> int:
        """Ask the run's controller for something; the controller reads it soon. Returns the command's number.

        Raises:
            InvalidInputError: there is no such run or verb.
        """
        ...

    def pending_commands(self, run_id: str) -> list[tuple[int, Verb]]: ...

    def acquire(self, owner: str, ttl_s: float, run_id: str | None = None) -> Lease | None:
        """Take the oldest unfinished run (or the one named) whose lease is free or expired; None if there is none.

        A paused run counts when a command waits for it."""
        ...

    def renew(self, lease: Lease, ttl_s: float) -> None:
        """Raises LeaseLostError when another owner has it."""
        ...

    def release(self, lease: Lease) -> None: ...

    def commit(self, lease: Lease, change: Commit) -> Sequence[Event]:
        """All or nothing; returns the events with their numbers.

        Raises:
            LeaseLostError: the lease's epoch is not the run's newest, or it was released.
            ValueError: a value cannot be written as JSON (NaN, infinity), or an answer is not a finite number.
        """
        ...

    def close(self) -> None: ...
