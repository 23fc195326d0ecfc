"""A run's transactions: what happened is folded into the machine at once and stored soon, everything together."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from evomerge.candidate import CandidateState, Genome
from evomerge.errors import LeaseLostError, StoreError
from evomerge.recipe.written import Written
from evomerge.run.state import RunMachine
from evomerge.storage.blocks import AnswerBlock
from evomerge.storage.store import CandidateKind, CandidateRow, Commit, Event, Lease, Store

log = logging.getLogger(__name__)

SNAPSHOT_EVERY, SNAPSHOT_SHARE = 25, 4
"""Told candidates between two optimizer snapshots, at least; and they are no fewer than one in four of those in flight,
which a snapshot holds all. Snapshots only make a resume faster, the events alone suffice."""
ROWS = 5000
"""Candidates kept in memory, some 10 kB each; what is open is asked for several times."""
TOLD = ("candidate.scored", "candidate.failed")

T = TypeVar("T")


class Ledger:
    """The only writer of one run's rows.

    Whoever acts on what was `put` (hands a job to a worker) calls `flush` before: then a crash loses nothing but
    answers that had not been stored, and these are asked for again.
    """

    def __init__(self, store: Store, lease: Lease, machine: RunMachine, last_seq: int, stop: threading.Event) -> None:
        self._store, self._lease, self._machine, self._stop = store, lease, machine, stop
        self._last_seq = last_seq
        self._rows: OrderedDict[int, CandidateRow] = OrderedDict()
        self._changed: dict[int, None] = {}
        self._new: set[int] = set()  # of those, which are not stored yet
        self._events: list[Event] = []
        self._commands: list[int] = []
        self._answers: list[AnswerBlock] = []
        self._told = 0

    def put(
        self,
        events: Sequence[Event],
        rows: Sequence[CandidateRow] = (),
        *,
        then: Callable[[], list[Event]] | None = None,
        commands: Sequence[int] = (),
        answers: Sequence[AnswerBlock] = (),
    ) -> None:
        """Fold `events` in, and what `then` concludes from them; they, the changed rows and the answers that these name
        are stored by `flush`."""
        before = self._machine.archive.members
        self._fold(events)
        if then is not None:
            self._fold(then())
        for row in rows:
            self._keep(row)
        after = self._machine.archive.members
        for number in {*before} ^ {*after} if after is not before else ():
            self._keep(replace(self.row(number), on_front=number in after))
        self._commands += commands
        self._answers += answers

    def flush(self) -> None:
        """Store everything that was put since the last time in one transaction, or wait until that is possible."""
        if not (self._events or self._changed or self._commands):
            return
        change = Commit(
            events=tuple(self._events),
            candidates=tuple(self._rows[number] for number in self._changed if number in self._new),
            changed=tuple(self._rows[number] for number in self._changed if number not in self._new),
            answers=tuple(self._answers),
            state=self._machine.phase,
            reason=self._machine.reason,
            summary=self._machine.summary(),
            optimizer=self._snapshot(),
            commands_done=tuple(self._commands),
        )
        self.patiently(lambda: self._store.commit(self._lease, change))
        self._last_seq += len(self._events)
        self._told = 0 if change.optimizer is not None else self._told
        self._events, self._commands, self._answers, self._changed, self._new = [], [], [], {}, set()
        while len(self._rows) > ROWS:
            self._rows.popitem(last=False)

    def row(self, number: int) -> CandidateRow:
        """A candidate as it is now, stored or not."""
        if number in self._rows:
            self._rows.move_to_end(number)
            return self._rows[number]
        row = self.patiently(lambda: self._store.candidate(self._lease.run, number))
        assert row is not None, f"candidate {number} was stored before"
        self._rows[number] = row
        return row

    def answers_of(self, subject: str) -> list[AnswerBlock]:
        """A subject's answers that are not stored yet."""
        return [block for block in self._answers if block.subject == subject]

    def patiently(self, action: Callable[[], T]) -> T:
        """Do it; while the database is away, wait with backoff: nothing is evaluated that could not be recorded."""
        delay = 0.2
        while True:
            try:
                return action()
            except LeaseLostError:
                raise
            except StoreError as error:
                log.warning("store away, next try in %.1f s: %s", delay, error)
                if self._stop.wait(delay):
                    raise
                delay = min(2 * delay, 10.0)

    def _keep(self, row: CandidateRow) -> None:
        self._rows[row.number] = row
        self._rows.move_to_end(row.number)
        self._changed[row.number] = None

    def _fold(self, events: Sequence[Event]) -> None:
        for event in events:
            numbered = Event(event.type, event.data, self._last_seq + len(self._events) + 1, event.at)
            self._machine.apply(numbered)
            self._events.append(numbered)
            self._told += event.type in TOLD
            if event.type == "candidate.proposed":
                self._new.add(event.data["number"])

    def _snapshot(self) -> bytes | None:
        if self._told < max(SNAPSHOT_EVERY, len(self._machine.open) // SNAPSHOT_SHARE):
            return None
        return str(self._events[-1].seq).encode() + b"\n" + self._machine.dialogue.optimizer.state()


def new_row(
    number: int,
    kind: CandidateKind,
    label: str,
    recipe: Written,
    digest: str,
    generation: int,
    genome: Genome,
) -> CandidateRow:
    """A candidate that nobody has looked at yet."""
    return CandidateRow(
        number=number, kind=kind, label=label, state=CandidateState.PROPOSED, generation=generation, genome=genome,
        digest=digest, recipe=recipe,
    )  # fmt: skip


def proposed_event(row: CandidateRow, asked: dict[str, Any]) -> Event:
    """`candidate.proposed` of a new row.

    Args:
        asked: what an optimizer asked for.
    """
    data = {
        "number": row.number, "kind": row.kind, "label": row.label, "generation": row.generation, "digest": row.digest,
    }  # fmt: skip
    return Event("candidate.proposed", data | asked)
