"""The store on SQL: SQLite (a file, write-ahead log) for one machine, PostgreSQL with the same code for more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, get_args

from sqlalchemy import ColumnElement, Connection, Dialect, Row, and_, bindparam, exists, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, StatementError

from evomerge.errors import InvalidInputError, LeaseLostError, StoreError
from evomerge.storage import answers, candidates, commands, cursor
from evomerge.storage.blocks import AnswerBlock, Bank, BankPage
from evomerge.storage.engine import begins_writing, open_engine
from evomerge.storage.ids import RunIds, is_run_id
from evomerge.storage.migrate import upgrade
from evomerge.storage.prepared import Prepared, prepare
from evomerge.storage.store import (
    TERMINAL,
    CandidateQuery,
    CandidateRow,
    Commit,
    Event,
    Lease,
    RunRow,
    RunState,
    Verb,
)
from evomerge.storage.tables import CommandTable, EventTable, IdempotencyTable, OptimizerTable, RunTable

_RUN_COLUMNS = [c for c in RunTable.__table__.columns if not c.name.startswith("lease_")]
_LARGEST = 2**63 - 1
_EVERYTHING = CandidateQuery()


def open_store(url: str) -> SqlStore:
    """The store at `sqlite:///FILE` or `postgresql://…`, made or brought to this version's schema.

    Raises:
        InvalidInputError: the URL is of another kind.
        StoreError: the database cannot be opened, or a newer evomerge wrote it.
    """
    return SqlStore(url)


def _now() -> datetime:
    return datetime.now(UTC)


class SqlStore:
    """`evomerge.storage.store.Store` on SQLAlchemy; safe to share between threads.

    Args:
        url: `sqlite:///FILE` or `postgresql://USER@HOST/DATABASE`.
        busy_timeout_s: how long SQLite waits for another process's write.
        clock: the time in UTC; leases end by it.
    """

    def __init__(self, url: str, *, busy_timeout_s: float = 5.0, clock: Callable[[], datetime] = _now) -> None:
        self._clock = clock
        self._ids = RunIds()
        self._questions: set[str] = set()  # lists of items that are stored: most blocks share theirs with others
        self._engine = open_engine(url, busy_timeout_s)
        self._place = self._engine.url.render_as_string(hide_password=True)
        try:
            with self._write() as connection:
                upgrade(connection)
        except BaseException:
            self._engine.dispose()
            raise

    def create_run(
        self, spec: dict[str, Any], name: str, idempotency: tuple[str, str] | None = None
    ) -> tuple[RunRow, bool]:
        """A new queued run, and whether it was made now (see `Store.create_run`)."""
        at = self._clock()
        run_id = self._ids.new(at)
        with self._write() as connection:
            if idempotency is not None and not _claim_key(connection, *idempotency, run_id, at):
                earlier = _run_of_key(connection, *idempotency)
                return _read_run(connection, earlier), False
            row = {"id": run_id, "name": name, "state": "queued", "created": at, "updated": at, "spec": spec}
            zeros = {"version": 1, "last_seq": 0, "lease_epoch": 0, "note": "", "summary": {}}
            connection.execute(insert(RunTable).values(row | zeros))
            return _read_run(connection, run_id), True

    def run(self, run_id: str) -> RunRow | None:
        """One run; None for an unknown id."""
        if not is_run_id(run_id):
            return None
        with self._read() as connection:
            row = connection.execute(select(*_RUN_COLUMNS).where(RunTable.id == run_id)).first()
        return None if row is None else _to_run(row)

    def runs(
        self, state: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> tuple[list[RunRow], str | None]:
        """A page of runs, newest first, and the next page's cursor.

        Raises:
            InvalidInputError: `state`, `limit` or `cursor` make no sense.
        """
        rows = select(*_RUN_COLUMNS).where(*_runs_filter(state, limit, cursor))
        with self._read() as connection:
            found = connection.execute(rows.order_by(RunTable.id.desc()).limit(limit + 1)).all()
        page = [_to_run(row) for row in found[:limit]]
        return page, _runs_cursor(page[-1].id) if len(found) > limit else None

    def optimizer_state(self, run_id: str) -> bytes | None:
        """The optimizer's state after the newest commit that had one."""
        if not is_run_id(run_id):
            return None
        with self._read() as connection:
            return connection.scalar(select(OptimizerTable.state).where(OptimizerTable.run == run_id))

    def candidate(self, run_id: str, number: int) -> CandidateRow | None:
        """One candidate; None for an unknown run or number."""
        if not is_run_id(run_id) or not 0 <= number <= _LARGEST:
            return None
        with self._read() as connection:
            return candidates.read(connection, run_id, number)

    def candidates(self, run_id: str, query: CandidateQuery = _EVERYTHING) -> tuple[list[CandidateRow], str | None]:
        """A page of candidates and the next page's cursor; none for an unknown run.

        Raises:
            InvalidInputError: a field of the query makes no sense.
        """
        with self._read() as connection:
            return candidates.page(connection, run_id if is_run_id(run_id) else "", query)

    def events(self, run_id: str, after: int = 0, limit: int = 1000) -> list[Event]:
        """Up to `limit` events with numbers above `after`, in order."""
        if not is_run_id(run_id) or after >= _LARGEST:
            return []
        newer = select(EventTable).where(EventTable.run == run_id, EventTable.seq > max(after, 0))
        with self._read() as connection:
            rows = connection.execute(newer.order_by(EventTable.seq).limit(limit)).all()
        return [Event(row.type, row.data, row.seq, row.at) for row in rows]

    def banks(self) -> list[Bank]:
        """What there are answers to: a row for each evaluator and eval set."""
        with self._read() as connection:
            return answers.banks(connection)

    def answers(
        self, fingerprint: str, *, eval_set: str | None = None, subjects: Sequence[str] | None = None
    ) -> list[AnswerBlock]:
        """The answers that an evaluator took, oldest first."""
        with self._read() as connection:
            return answers.of(connection, fingerprint, eval_set, subjects)

    def subjects(self, fingerprint: str, *, eval_set: str | None = None) -> list[str]:
        """Who answered anything under an evaluator."""
        with self._read() as connection:
            return answers.subjects(connection, fingerprint, eval_set)

    def answer_page(
        self, fingerprint: str, eval_set: str, metric: str, *, after: str = "", limit: int, until: int | None = None
    ) -> BankPage:
        """The next subjects' answers under one metric, see `Store.answer_page`."""
        with self._read() as connection:
            return answers.page(connection, fingerprint, eval_set, metric, after, limit, until)

    def add_answers(self, blocks: Iterable[AnswerBlock]) -> int:
        """Keep imported answers, all or none; how many blocks were new (see `Store.add_answers`)."""
        with self._write() as connection:
            return answers.add(connection, blocks, self._clock())

    def describe_evaluator(self, fingerprint: str, settings: Mapping[str, Any]) -> None:
        """Keep what a fingerprint stands for; the first description stays."""
        with self._write() as connection:
            answers.describe(connection, fingerprint, settings)

    def command(self, run_id: str, verb: Verb) -> int:
        """Leave a command for the run's controller; its number.

        Raises:
            InvalidInputError: there is no such run or verb.
        """
        if verb not in get_args(Verb):
            raise InvalidInputError("verb", verb, "one of " + ", ".join(get_args(Verb)))
        with self._write() as connection:
            if not is_run_id(run_id) or connection.scalar(select(RunTable.id).where(RunTable.id == run_id)) is None:
                raise InvalidInputError("run", run_id, "the id of a run in this store")
            return commands.add(connection, run_id, verb, self._clock())

    def pending_commands(self, run_id: str) -> list[tuple[int, Verb]]:
        """Commands that no commit has marked as done, oldest first."""
        if not is_run_id(run_id):
            return []
        with self._errors():
            return commands.pending(self._engine, run_id)

    def acquire(self, owner: str, ttl_s: float, run_id: str | None = None) -> Lease | None:
        """Take the oldest unfinished run (or the one named) that nobody holds; None if there is none."""
        if run_id is not None and not is_run_id(run_id):
            return None
        at = self._clock()
        # A paused run is nobody's work until somebody asks something of it.
        asked = exists().where(CommandTable.run == RunTable.id, ~CommandTable.done)
        free = [RunTable.state.not_in(TERMINAL), _unheld(at), or_(RunTable.state != "paused", asked)]
        if run_id is not None:
            free.append(RunTable.id == run_id)
        with self._write() as connection:
            # PostgreSQL: lock the row, and pass over rows that another controller is taking right now.
            oldest = select(RunTable.id).where(*free).order_by(RunTable.id).limit(1).with_for_update(skip_locked=True)
            found = connection.scalar(oldest)
            if found is None:
                return None
            until = at + timedelta(seconds=ttl_s)
            held = {"lease_owner": owner, "lease_expires": until, "lease_epoch": RunTable.lease_epoch + 1}
            taken = update(RunTable).where(RunTable.id == found).values(held).returning(RunTable.lease_epoch)
            return Lease(found, owner, connection.execute(taken).scalar_one())

    def renew(self, lease: Lease, ttl_s: float) -> None:
        """Hold a run for another `ttl_s` from now.

        Raises:
            LeaseLostError: another controller has taken it, or it was released.
        """
        with self._write() as connection:
            until = self._clock() + timedelta(seconds=ttl_s)
            longer = update(RunTable).where(_held_by(lease)).values(lease_expires=until)
            if connection.execute(longer).rowcount == 0:
                raise _lost(connection, lease)

    def release(self, lease: Lease) -> None:
        """Let go of a run; nothing happens when it is another's by now."""
        with self._write() as connection:
            free = {"lease_owner": None, "lease_expires": None}
            connection.execute(update(RunTable).where(_held_by(lease)).values(free))

    def commit(self, lease: Lease, change: Commit) -> Sequence[Event]:
        """Everything in `change`, or nothing (see `Store.commit`)."""
        at = self._clock()
        with self._write() as connection:
            # This statement is the fence and the lock: the run's row is ours until the transaction ends, so the
            # numbers behind `last_seq` are too, and other readers see events in order.
            last_seq = _advance(connection, lease, change, at)
            if last_seq is None:
                raise _lost(connection, lease)
            first = last_seq - len(change.events) + 1
            events = [Event(e.type, e.data, seq, e.at or at) for seq, e in enumerate(change.events, start=first)]
            _append(connection, lease.run, events)
            answers.write(connection, change.answers, at, self._questions)
            candidates.write(connection, lease.run, change.candidates, change.changed)
            _keep_optimizer(connection, lease.run, change.optimizer)
            commands.finish(connection, lease.run, change.commands_done)
        self._questions.update(block.questions for block in change.answers)
        return events

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with self._errors(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with self._errors(), self._engine.connect() as connection, begins_writing(connection).begin():
            yield connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise StoreError(f"the database {self._place} refused: {str(error.orig).strip()}") from error
        except StatementError as error:  # a value of ours could not be written: not the database's doing
            raise error.orig or error from error
        except self._engine.dialect.loaded_dbapi.Error as error:
            raise StoreError(f"the database {self._place} refused: {str(error).strip()}") from error
        except SQLAlchemyError as error:
            raise StoreError(f"the database {self._place} cannot be used: {error}") from error


def _claim_key(connection: Connection, key: str, digest: str, run_id: str, at: datetime) -> bool:
    """Write the key before the run: of two requests at the same time, one waits here for the other and loses."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    claim = dialect.insert(IdempotencyTable).values(key=key, digest=digest, run=run_id, at=at)
    claimed = connection.scalar(claim.on_conflict_do_nothing().returning(IdempotencyTable.key))
    return claimed is not None


def _run_of_key(connection: Connection, key: str, digest: str) -> str:
    row = connection.execute(select(IdempotencyTable).where(IdempotencyTable.key == key)).one()
    if row.digest != digest:
        raise InvalidInputError("idempotency key", key, f"a new key: another request used it and made {row.run}")
    return str(row.run)


def _read_run(connection: Connection, run_id: str) -> RunRow:
    return _to_run(connection.execute(select(*_RUN_COLUMNS).where(RunTable.id == run_id)).one())


def _to_run(row: Row[Any]) -> RunRow:
    return RunRow(**row._mapping)


def _runs_filter(state: str | None, limit: int, after: str | None) -> list[ColumnElement[bool]]:
    if limit < 1:
        raise InvalidInputError("limit", limit, "at least 1")
    if state is not None and state not in get_args(RunState):
        raise InvalidInputError("state", state, "one of " + ", ".join(get_args(RunState)))
    filters = [] if state is None else [RunTable.state == state]
    if after is not None:
        (last,) = cursor.decode(after, "runs", str)
        if not is_run_id(last):
            raise InvalidInputError("cursor", after, "the next_cursor of a page of runs")
        filters.append(RunTable.id < last)
    return filters


def _runs_cursor(last: str) -> str:
    return cursor.encode("runs", last)


def _unheld(at: datetime) -> ColumnElement[bool]:
    return or_(RunTable.lease_owner.is_(None), RunTable.lease_expires <= at)


def _held_by(lease: Lease) -> ColumnElement[bool]:
    run_id = lease.run if is_run_id(lease.run) else ""
    return and_(RunTable.id == run_id, RunTable.lease_owner == lease.owner, RunTable.lease_epoch == lease.epoch)


def _lost(connection: Connection, lease: Lease) -> LeaseLostError:
    now = connection.execute(
        select(RunTable.lease_owner, RunTable.lease_epoch).where(RunTable.id == lease.run)
    ).one_or_none()
    if now is None:
        return LeaseLostError(f"run {lease.run!r} does not exist (any more)")
    holder = "nobody" if now.lease_owner is None else repr(now.lease_owner)
    return LeaseLostError(
        f"run {lease.run} is held by {holder} at epoch {now.lease_epoch}; "
        f"{lease.owner!r} had it at epoch {lease.epoch} and must stop writing"
    )


def _advance(connection: Connection, lease: Lease, change: Commit, at: datetime) -> int | None:
    """Change the run's row if the lease holds; its newest event's number then."""
    columns: dict[str, Any] = {"updated": at}
    if change.state is not None or change.reason is not None:
        columns["reason"] = change.reason
    if change.state is not None:
        columns["state"] = change.state
    if change.summary is not None:
        columns["summary"] = change.summary
    held = {"of_run": lease.run if is_run_id(lease.run) else "", "owner": lease.owner, "epoch": lease.epoch}
    statement = _advancing(connection.dialect, tuple(sorted(columns)))
    found: int | None = statement.run(connection, [columns | held | {"events": len(change.events)}]).scalar()
    return found


@lru_cache(maxsize=32)
def _advancing(dialect: Dialect, columns: tuple[str, ...]) -> Prepared:
    """The statement that changes these columns of a run."""
    held = and_(
        RunTable.id == bindparam("of_run"),
        RunTable.lease_owner == bindparam("owner"),
        RunTable.lease_epoch == bindparam("epoch"),
    )
    counted = {"version": RunTable.version + 1, "last_seq": RunTable.last_seq + bindparam("events")}
    wanted: dict[str, Any] = {name: bindparam(name) for name in columns}
    statement = update(RunTable).where(held).values(counted | wanted).returning(RunTable.last_seq)
    return prepare(statement, dialect)


def _append(connection: Connection, run_id: str, events: Sequence[Event]) -> None:
    if events:
        rows = [{"run": run_id, "seq": e.seq, "type": e.type, "at": e.at, "data": e.data} for e in events]
        _appending(connection.dialect).run(connection, rows)


@lru_cache(maxsize=32)
def _appending(dialect: Dialect) -> Prepared:
    return prepare(insert(EventTable), dialect)


def _keep_optimizer(connection: Connection, run_id: str, state: bytes | None) -> None:
    if state is None:
        return
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    upsert = dialect.insert(OptimizerTable).values(run=run_id, state=state)
    connection.execute(upsert.on_conflict_do_update(index_elements=["run"], set_={"state": upsert.excluded.state}))
