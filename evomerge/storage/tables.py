"""The tables, the same on SQLite and PostgreSQL. A change here needs a migration; a test compares the two.

JSON lies in text columns: what is read is what was written, key order included, on both databases.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, Dialect, Double, ForeignKey, Index, Integer, MetaData, Text, TypeDecorator
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from evomerge.recipe.written import Written, encode

_EMPTY: dict[type, str] = {dict: "{}", list: "[]", tuple: "[]"}


class Json(TypeDecorator[Any]):
    """A JSON document as text. NaN and infinity are refused (ValueError): no browser could read them."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        if value is None:
            return None
        if not value and type(value) in _EMPTY:  # much of a candidate is empty for long
            return _EMPTY[type(value)]
        return value.text if isinstance(value, Written) else encode(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


class Utc(TypeDecorator[datetime]):
    """A moment, aware of UTC on both sides; SQLite has no time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


_NUMBER = BigInteger().with_variant(Integer(), "sqlite")  # SQLite counts rows by itself in INTEGER keys only


class Table(DeclarativeBase):
    """The schema."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class RunTable(Table):
    """One search. `lease_*` say who may write it; `last_seq` is where event numbers come from."""

    __tablename__ = "runs"
    __table_args__ = (Index(None, "state", "id"),)

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text)
    reason: Mapped[str | None] = mapped_column(Text)
    created: Mapped[datetime] = mapped_column(Utc)
    updated: Mapped[datetime] = mapped_column(Utc)
    version: Mapped[int] = mapped_column(_NUMBER)
    last_seq: Mapped[int] = mapped_column(_NUMBER)
    lease_owner: Mapped[str | None] = mapped_column(Text)
    lease_epoch: Mapped[int] = mapped_column(_NUMBER)
    lease_expires: Mapped[datetime | None] = mapped_column(Utc)
    note: Mapped[str] = mapped_column(Text)
    spec: Mapped[dict[str, Any]] = mapped_column(Json)
    summary: Mapped[dict[str, Any]] = mapped_column(Json)


class OptimizerTable(Table):
    """The optimizer's state after the newest commit, apart from `runs` so that listing runs does not read it."""

    __tablename__ = "optimizers"

    run: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    state: Mapped[bytes]


class CandidateTable(Table):
    """One candidate a row. The large columns come last: SQLite then lists candidates without reading them."""

    __tablename__ = "candidates"

    run: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(_NUMBER, primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(Text)
    label: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text)
    generation: Mapped[int] = mapped_column(_NUMBER)
    digest: Mapped[str] = mapped_column(Text)
    violation: Mapped[float] = mapped_column(Double)
    on_front: Mapped[bool]
    cached: Mapped[bool]
    attempts: Mapped[int] = mapped_column(_NUMBER)
    worker: Mapped[str] = mapped_column(Text)
    scores: Mapped[dict[str, Any]] = mapped_column(Json)
    verified: Mapped[dict[str, Any]] = mapped_column(Json)
    seconds: Mapped[dict[str, Any]] = mapped_column(Json)
    failure: Mapped[dict[str, str] | None] = mapped_column(Json)
    genome: Mapped[list[float]] = mapped_column(Json)
    recipe: Mapped[dict[str, Any]] = mapped_column(Json)
    answers: Mapped[dict[str, Any]] = mapped_column(Json)


class EvaluatorTable(Table):
    """What the fingerprints of evaluators stand for; a fingerprint of imported answers may have no row."""

    __tablename__ = "evaluators"

    fingerprint: Mapped[str] = mapped_column(Text, primary_key=True)
    settings: Mapped[dict[str, Any]] = mapped_column(Json)


class QuestionsTable(Table):
    """Lists of items that were asked together: ids, and a hash of each one's content. Once for all who were asked."""

    __tablename__ = "questions"

    key: Mapped[str] = mapped_column(Text, primary_key=True)
    items: Mapped[list[str]] = mapped_column(Json)
    contents: Mapped[list[str]] = mapped_column(Json)


class AnswerTable(Table):
    """Blocks of answers, append-only; `key` is a hash of all that a block says, so that nothing is kept twice.

    `run` and `number` say who asked first; imports have none.
    """

    __tablename__ = "answers"
    __table_args__ = (Index(None, "key", unique=True), Index(None, "fingerprint", "subject"))

    id: Mapped[int] = mapped_column(_NUMBER, primary_key=True)
    key: Mapped[str] = mapped_column(Text)
    fingerprint: Mapped[str] = mapped_column(Text)
    eval_set: Mapped[str] = mapped_column(Text)
    subject: Mapped[str] = mapped_column(Text)
    run: Mapped[str | None] = mapped_column(ForeignKey("runs.id"))
    number: Mapped[int | None] = mapped_column(_NUMBER)
    questions: Mapped[str] = mapped_column(ForeignKey("questions.key"))
    metrics: Mapped[list[str]] = mapped_column(Json)
    created: Mapped[datetime] = mapped_column(Utc)
    packed: Mapped[bytes]


class ScoreTable(Table):
    """The means in `CandidateTable.scores` again, one a row, to sort and filter by."""

    __tablename__ = "scores"
    __table_args__ = (Index(None, "run", "name", "mean", "number"),)

    run: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(_NUMBER, primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    mean: Mapped[float] = mapped_column(Double)


class EventTable(Table):
    """What happened, append-only; `seq` counts from 1 in each run, without gaps."""

    __tablename__ = "events"

    run: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(_NUMBER, primary_key=True, autoincrement=False)
    type: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(Utc)
    data: Mapped[dict[str, Any]] = mapped_column(Json)


class CommandTable(Table):
    """What users asked of a run; `done` when its controller has obeyed."""

    __tablename__ = "commands"
    __table_args__ = (Index(None, "run", "id"),)

    id: Mapped[int] = mapped_column(_NUMBER, primary_key=True)
    run: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    verb: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(Utc)
    done: Mapped[bool]


class IdempotencyTable(Table):
    """Which request made which run, so that a repeated request finds it."""

    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(Text, primary_key=True)
    digest: Mapped[str] = mapped_column(Text)
    # Deferred, because the key is written before the run: whoever writes it first makes the run.
    run: Mapped[str] = mapped_column(ForeignKey("runs.id", deferrable=True, initially="DEFERRED"))
    at: Mapped[datetime] = mapped_column(Utc)
