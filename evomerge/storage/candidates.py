"""Candidates in the database: rows to values and back, and pages in any order. Their answers lie beside them, in blocks
that are read with the details.

A page in score order is read from the score index; the unscored candidates follow in number order. Equal scores are in
number order both ways, so a page's end is one place: (mean, number).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, get_args

from sqlalchemy import (
    ColumnElement,
    Connection,
    Dialect,
    Row,
    Select,
    and_,
    bindparam,
    delete,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from evomerge.candidate import CandidateState
from evomerge.errors import InvalidInputError
from evomerge.storage import answers, cursor
from evomerge.storage.blocks import AnswerBlock, together
from evomerge.storage.prepared import Prepared, prepare
from evomerge.storage.store import CandidateKind, CandidateQuery, CandidateRow
from evomerge.storage.tables import CandidateTable, ScoreTable

_CANDIDATES = CandidateTable.__table__
_NAMES = [c.name for c in _CANDIDATES.columns if c.name != "run"]
FIXED = frozenset({"number", "kind", "label", "generation", "genome", "digest", "recipe"})
"""What a candidate is; all else becomes known of it."""
_CHANGING = [name for name in _NAMES if name not in FIXED]
_HEAVY: dict[str, Any] = {"genome": (), "recipe": {}, "answers": {}}


def write(connection: Connection, run: str, rows: Sequence[CandidateRow], changed: Sequence[CandidateRow] = ()) -> None:
    """Insert or replace candidates.

    Args:
        changed: others, that are stored already and whose `FIXED` fields are as they were.
    """
    everybody = [*rows, *changed]
    assert all(row.answers.keys() == row.responses.keys() for row in everybody), "answers are kept as blocks"
    if rows:
        _upsert(connection.dialect).run(connection, [_to_columns(run, row, _NAMES) for row in rows])
    if changed:
        found = _change(connection.dialect).run(connection, [_to_columns(run, row, _CHANGING) for row in changed])
        assert found.rowcount == len(changed), "they are stored"
    if everybody:
        _write_scores(connection, run, everybody)


def _write_scores(connection: Connection, run: str, rows: Sequence[CandidateRow]) -> None:
    _forget_scores(connection.dialect).run(connection, [{"of_run": run, "of_number": row.number} for row in rows])
    means = [
        {"run": run, "number": row.number, "name": name, "mean": score["mean"]}
        for row in rows
        for name, score in row.scores.items()
    ]
    if means:
        _insert_scores(connection.dialect).run(connection, means)


@lru_cache(maxsize=32)
def _upsert(dialect: Dialect) -> Prepared:
    upsert: Any = (sqlite if dialect.name == "sqlite" else postgresql).insert(CandidateTable)
    others = {name: upsert.excluded[name] for name in _NAMES if name != "number"}
    statement = upsert.on_conflict_do_update(index_elements=["run", "number"], set_=others)
    return prepare(statement, dialect, ["run", *_NAMES])


@lru_cache(maxsize=32)
def _change(dialect: Dialect) -> Prepared:
    columns = _CANDIDATES.columns
    here = (columns.run == bindparam("of_run"), columns.number == bindparam("of_number"))
    return prepare(update(CandidateTable).where(*here), dialect, [*_CHANGING])


@lru_cache(maxsize=32)
def _forget_scores(dialect: Dialect) -> Prepared:
    here = (ScoreTable.run == bindparam("of_run"), ScoreTable.number == bindparam("of_number"))
    return prepare(delete(ScoreTable).where(*here), dialect)


@lru_cache(maxsize=32)
def _insert_scores(dialect: Dialect) -> Prepared:
    return prepare(insert(ScoreTable), dialect)


def read(connection: Connection, run: str, number: int) -> CandidateRow | None:
    """One candidate with everything."""
    where = (CandidateTable.run == run, CandidateTable.number == number)
    row = connection.execute(select(*_columns(details=True)).where(*where)).first()
    return None if row is None else _with_responses(connection, [_to_value(row)])[0]


def page(connection: Connection, run: str, query: CandidateQuery) -> tuple[list[CandidateRow], str | None]:
    """One page and the next page's cursor.

    Raises:
        InvalidInputError: sort, limit, state, kind or cursor make no sense.
    """
    if query.limit < 1:
        raise InvalidInputError("limit", query.limit, "at least 1")
    descending, order = query.sort.startswith("-"), query.sort.removeprefix("-")
    rows = select(*_columns(query.details)).where(CandidateTable.run == run, *_filters(query))
    if order == "number":
        return _by_number(connection, rows, query, descending)
    if order.startswith("score:"):
        return _by_score(connection, rows, query, order.removeprefix("score:"), descending)
    raise InvalidInputError("sort", query.sort, "number, -number, score:NAME or -score:NAME")


def _by_number(
    connection: Connection, rows: Select[Any], query: CandidateQuery, descending: bool
) -> tuple[list[CandidateRow], str | None]:
    number = CandidateTable.number
    if query.cursor is not None:
        (last,) = cursor.decode(query.cursor, query.sort, int)
        rows = rows.where(number < last if descending else number > last)
    rows = rows.order_by(number.desc() if descending else number).limit(query.limit + 1)
    found = [_to_value(row) for row in connection.execute(rows)]
    more = len(found) > query.limit
    del found[query.limit :]
    return _with_responses(connection, found), cursor.encode(query.sort, found[-1].number) if more else None


def _by_score(
    connection: Connection, rows: Select[Any], query: CandidateQuery, name: str, descending: bool
) -> tuple[list[CandidateRow], str | None]:
    last: tuple[Any, ...] | None = None
    if query.cursor is not None:
        last = cursor.decode(query.cursor, query.sort, float, int)
    found: list[tuple[float | None, CandidateRow]] = []
    if last is None or last[0] is not None:
        scored = _scored(rows, name, descending, last).limit(query.limit + 1)
        found = [(row[-1], _to_value(row)) for row in connection.execute(scored)]
        last = None
    if len(found) <= query.limit:
        unscored = _unscored(rows, name, last).limit(query.limit + 1 - len(found))
        found += [(None, _to_value(row)) for row in connection.execute(unscored)]
    more = len(found) > query.limit
    del found[query.limit :]
    end = cursor.encode(query.sort, found[-1][0], found[-1][1].number) if more else None
    return _with_responses(connection, [row for _, row in found]), end


def _scored(rows: Select[Any], name: str, descending: bool, last: tuple[Any, ...] | None) -> Select[Any]:
    mean, number = ScoreTable.mean, ScoreTable.number
    same = and_(ScoreTable.run == CandidateTable.run, number == CandidateTable.number, ScoreTable.name == name)
    rows = rows.add_columns(mean).join(ScoreTable, same)
    if last is not None:
        beyond = mean < float(last[0]) if descending else mean > float(last[0])
        rows = rows.where(or_(beyond, and_(mean == float(last[0]), number > last[1])))
    return rows.order_by(mean.desc() if descending else mean, number)


def _unscored(rows: Select[Any], name: str, last: tuple[Any, ...] | None) -> Select[Any]:
    if last is not None:
        rows = rows.where(CandidateTable.number > last[1])
    return rows.where(~_score(name).exists()).order_by(CandidateTable.number)


def _filters(query: CandidateQuery) -> list[Any]:
    filters: list[Any] = []
    if query.state is not None:
        filters.append(CandidateTable.state == _one_of("state", query.state, [s.value for s in CandidateState]))
    if query.kind is not None:
        filters.append(CandidateTable.kind == _one_of("kind", query.kind, get_args(CandidateKind)))
    if query.front is not None:
        filters.append(CandidateTable.on_front == query.front)
    filters += [_score(name).where(ScoreTable.mean >= least).exists() for name, least in query.min_scores.items()]
    return filters


def _score(name: str) -> Select[Any]:
    same = (ScoreTable.run == CandidateTable.run, ScoreTable.number == CandidateTable.number)
    return select(ScoreTable.mean).where(*same, ScoreTable.name == name).correlate(CandidateTable)


def _one_of(field: str, value: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise InvalidInputError(field, value, "one of " + ", ".join(allowed))
    return value


def _columns(details: bool) -> list[ColumnElement[Any]]:
    return [_CANDIDATES.columns[name] for name in _NAMES if details or name not in _HEAVY]


def _to_columns(run: str, row: CandidateRow, names: Sequence[str]) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in names}
    return values | ({"run": run} if "number" in values else {"of_run": run, "of_number": row.number})


def _with_responses(connection: Connection, rows: list[CandidateRow]) -> list[CandidateRow]:
    """The same with what the blocks that they name hold."""
    keys = [key for row in rows for sets in row.answers.values() for names in sets.values() for key in names]
    if not keys:
        return rows
    blocks = answers.by_key(connection, keys)
    return [replace(row, responses=_responses(row, blocks)) for row in rows]


def _responses(row: CandidateRow, blocks: Mapping[str, AnswerBlock]) -> dict[str, Any]:
    return {
        task: {name: together([blocks[key] for key in keys]) for name, keys in sets.items()}
        for task, sets in row.answers.items()
    }


def _to_value(row: Row[Any]) -> CandidateRow:
    fields = _HEAVY | {name: row._mapping[name] for name in _NAMES if name in row._mapping}
    fields["state"] = CandidateState(fields["state"])
    fields["genome"] = tuple(fields["genome"])
    return CandidateRow(**fields)
