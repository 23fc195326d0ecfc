"""Answers in the database: blocks in and out, and what there is. Nothing is ever changed or taken away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Dialect, Row, Select, func, select
from sqlalchemy.dialects import postgresql, sqlite

from evomerge.errors import StoreError
from evomerge.storage.blocks import AnswerBlock, Bank, BankPage, unpack
from evomerge.storage.prepared import Prepared, prepare
from evomerge.storage.tables import AnswerTable, EvaluatorTable, QuestionsTable

_AT_ONCE = 500
"""Names in one statement; databases limit them."""
_BLOCK = (*(c for c in AnswerTable.__table__.columns if c.name != "id"), QuestionsTable.items, QuestionsTable.contents)


def write(connection: Connection, blocks: Sequence[AnswerBlock], at: datetime, known: Collection[str] = ()) -> None:
    """Insert the blocks that are not there yet.

    Args:
        known: keys of lists of items that are certainly stored.
    """
    if not blocks:
        return
    lists = {b.questions: b for b in blocks if b.questions not in known}
    if lists:
        rows = [{"key": key, "items": list(b.items), "contents": list(b.contents)} for key, b in sorted(lists.items())]
        _insert(connection.dialect, QuestionsTable).run(connection, rows)
    found = [
        {
            "key": b.key, "fingerprint": b.fingerprint, "eval_set": b.eval_set, "subject": b.subject, "run": b.run,
            "number": b.number, "questions": b.questions, "metrics": list(b.values), "created": at, "packed": b.packed,
        }
        for b in {b.key: b for b in blocks}.values()
    ]  # fmt: skip
    _insert(connection.dialect, AnswerTable).run(connection, found)


def add(connection: Connection, blocks: Iterable[AnswerBlock], at: datetime) -> int:
    """Insert the blocks that are not there yet, some at a time, so that not all are held; how many were new."""
    rest, new = iter(blocks), 0
    while some := list(islice(rest, _AT_ONCE)):
        new += count_new(connection, some)
        write(connection, some, at)
    return new


def count_new(connection: Connection, blocks: Sequence[AnswerBlock]) -> int:
    """How many blocks are not there yet, each once."""
    keys, table = {block.key for block in blocks}, AnswerTable
    stored = [len(connection.scalars(select(table.id).where(table.key.in_(some))).all()) for some in _some(keys)]
    return len(keys) - sum(stored)


def describe(connection: Connection, fingerprint: str, settings: Mapping[str, Any]) -> None:
    """Keep what a fingerprint stands for, unless it is known."""
    row = {"fingerprint": fingerprint, "settings": dict(settings)}
    _insert(connection.dialect, EvaluatorTable).run(connection, [row])


@lru_cache(maxsize=32)
def _insert(dialect: Dialect, table: Any) -> Prepared:
    insert = (sqlite if dialect.name == "sqlite" else postgresql).insert(table).on_conflict_do_nothing()
    return prepare(insert, dialect, [c.name for c in table.__table__.columns if c.name != "id"])


def by_key(connection: Connection, keys: Iterable[str]) -> dict[str, AnswerBlock]:
    """Blocks by their keys.

    Raises:
        StoreError: one is not there.
    """
    wanted, found = list(dict.fromkeys(keys)), dict[str, AnswerBlock]()
    for some in _some(wanted):
        for row in connection.execute(_blocks().where(AnswerTable.key.in_(some))):
            found[row.key] = _to_block(row)
    missing = [key for key in wanted if key not in found]
    if missing:
        raise StoreError(f"{len(missing)} blocks of answers are gone from the database, the first is {missing[0]}")
    return found


def of(
    connection: Connection, fingerprint: str, eval_set: str | None, subjects: Sequence[str] | None
) -> list[AnswerBlock]:
    """An evaluator's blocks, oldest first."""
    rows = _blocks().where(AnswerTable.fingerprint == fingerprint)
    if eval_set is not None:
        rows = rows.where(AnswerTable.eval_set == eval_set)
    if subjects is None:
        return [_to_block(row) for row in connection.execute(rows.order_by(AnswerTable.id))]
    found = [
        row
        for some in _some(dict.fromkeys(subjects))
        for row in connection.execute(rows.where(AnswerTable.subject.in_(some)).add_columns(AnswerTable.id))
    ]
    return [_to_block(row) for row in sorted(found, key=lambda row: int(row.id))]


def page(
    connection: Connection, fingerprint: str, eval_set: str, metric: str, after: str, limit: int, until: int | None
) -> BankPage:
    """The next subjects who answered anything under a metric, see `Store.answer_page`."""
    table = AnswerTable
    bank = (table.fingerprint == fingerprint, table.eval_set == eval_set)
    newest = connection.scalar(select(func.max(table.id)).where(*bank)) if until is None else until
    kinds = connection.scalars(select(table.metrics).where(*bank).distinct()).all()
    here = (*bank, table.id <= (newest or 0), table.metrics.in_([kind for kind in kinds if metric in kind]))
    names = select(table.subject).where(*here, table.subject > after).distinct().order_by(table.subject)
    found = list(connection.scalars(names.limit(limit + 1)))
    wanted = found[:limit]
    rows = [
        row
        for some in _some(wanted)
        for row in connection.execute(_blocks().where(*here, table.subject.in_(some)).add_columns(table.id))
    ]
    first, last = (
        select(table.questions).where(*here).group_by(table.questions).order_by(order(table.id))
        for order in (func.min, func.max)
    )
    keys = [list(connection.scalars(order)) for order in (first, last)]
    lists = {
        row.key: (tuple(row.items), tuple(row.contents))
        for some in _some(keys[0])
        for row in connection.execute(select(QuestionsTable).where(QuestionsTable.key.in_(some)))
    }
    return BankPage(
        subjects=tuple(wanted),
        blocks=tuple(_to_block(row) for row in sorted(rows, key=lambda row: int(row.id))),
        lists=tuple(lists[key] for key in keys[0]),
        lists_last=tuple(lists[key] for key in keys[1]),
        until=newest or 0,
        more=len(found) > limit,
    )


def subjects(connection: Connection, fingerprint: str, eval_set: str | None) -> list[str]:
    """Names of those who answered anything."""
    names = select(AnswerTable.subject).where(AnswerTable.fingerprint == fingerprint).distinct()
    if eval_set is not None:
        names = names.where(AnswerTable.eval_set == eval_set)
    return sorted(connection.scalars(names))


def banks(connection: Connection) -> list[Bank]:
    """A row for each evaluator and eval set; no values are read."""
    table = AnswerTable
    counted = select(
        table.fingerprint, table.eval_set, func.count().label("blocks"), func.sum(func.length(table.packed)),
        func.min(table.created), func.max(table.created),
    ).group_by(table.fingerprint, table.eval_set).order_by(func.min(table.id))  # fmt: skip
    settings = {row.fingerprint: row.settings for row in connection.execute(select(EvaluatorTable))}
    return [
        _bank(connection, fingerprint, eval_set, settings.get(fingerprint, {}), counts)
        for fingerprint, eval_set, *counts in connection.execute(counted).all()
    ]


def _bank(
    connection: Connection, fingerprint: str, eval_set: str, settings: dict[str, Any], counts: Sequence[Any]
) -> Bank:
    blocks, size, first, last = counts
    table = AnswerTable
    here = (table.fingerprint == fingerprint, table.eval_set == eval_set)
    kinds = connection.scalars(select(table.metrics).where(*here).distinct()).all()
    asked = dict[str, set[str]]()
    for subject, questions in connection.execute(select(table.subject, table.questions).where(*here).distinct()):
        asked.setdefault(subject, set()).add(questions)
    ids = _ids(connection, set[str]().union(*asked.values()))
    each = Counter(map(frozenset, asked.values()))  # most were asked the same lists as others
    answered = {lists: len(frozenset[str]().union(*(ids[key] for key in lists))) for lists in each}
    items = len(frozenset[str]().union(*ids.values()))
    return Bank(
        fingerprint=fingerprint,
        eval_set=eval_set,
        settings=settings,
        metrics=tuple(sorted({name for kind in kinds for name in kind})),
        subjects=len(asked),
        items=items,
        answers=sum(answered[lists] * count for lists, count in each.items()),
        complete=sum(count for lists, count in each.items() if answered[lists] == items),
        blocks=blocks,
        bytes=int(size),
        first=first,
        last=last,
    )


def _ids(connection: Connection, keys: set[str]) -> dict[str, frozenset[str]]:
    table = QuestionsTable
    return {
        row.key: frozenset(row.items)
        for some in _some(sorted(keys))
        for row in connection.execute(select(table.key, table.items).where(table.key.in_(some)))
    }


def _some(names: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(names)
    while some := list(islice(rest, _AT_ONCE)):
        yield some


def _blocks() -> Select[Any]:
    return select(*_BLOCK).join(QuestionsTable, QuestionsTable.key == AnswerTable.questions)


def _to_block(row: Row[Any]) -> AnswerBlock:
    items = tuple(row.items)
    values = unpack(row.packed, row.metrics, len(items))
    return AnswerBlock(
        row.fingerprint, row.eval_set, row.subject, items, tuple(row.contents), values, row.run, row.number, row.created
    )
