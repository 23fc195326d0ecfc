"""Commands in the database: what users ask of runs, until their controllers have obeyed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache

from sqlalchemy import Connection, Dialect, Engine, bindparam, insert, select, update

from evomerge.storage.prepared import Prepared, prepare
from evomerge.storage.store import Verb
from evomerge.storage.tables import CommandTable


def add(connection: Connection, run: str, verb: Verb, at: datetime) -> int:
    """Leave a command; its number."""
    row = {"run": run, "verb": verb, "at": at, "done": False}
    return int(connection.execute(insert(CommandTable).values(row).returning(CommandTable.id)).scalar_one())


def pending(engine: Engine, run: str) -> list[tuple[int, Verb]]:
    """Those that are not done, oldest first. A controller looks several times a second, mostly in vain.

    Raises:
        the driver's errors, as they are.
    """
    return [(number, verb) for number, verb in _pending(engine.dialect).look(engine, {"run": run})]


def finish(connection: Connection, run: str, numbers: Sequence[int]) -> None:
    """They were obeyed."""
    if numbers:
        done = update(CommandTable).where(CommandTable.run == run, CommandTable.id.in_(numbers))
        connection.execute(done.values(done=True))


@lru_cache(maxsize=32)
def _pending(dialect: Dialect) -> Prepared:
    wanted = select(CommandTable.id, CommandTable.verb).where(CommandTable.run == bindparam("run"), ~CommandTable.done)
    return prepare(wanted.order_by(CommandTable.id), dialect)
