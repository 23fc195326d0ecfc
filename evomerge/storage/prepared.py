"""Statements that every candidate needs, made ready once: SQLAlchemy prepares a statement anew whenever it is carried
out, which takes several times as long as the database needs for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, CursorResult, Dialect, Engine
from sqlalchemy.sql.expression import Executable

Encode = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A statement in one database's language.

    Attributes:
        text: with its places for values.
        places: names of these, in their order, each with what makes a value one that the driver takes, if need be.
        constants: values of places that the statement fills itself.
        positional: the driver takes values by their order, not by name.
    """

    text: str
    places: tuple[tuple[str, Encode | None], ...]
    constants: Mapping[str, Any]
    positional: bool

    def run(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> CursorResult[Any]:
        """Carry it out for each of the rows (name → value), in one call of the driver.

        Raises:
            ValueError: a value cannot be written as JSON.
        """
        filled = [self._fill(row) for row in rows]
        return connection.exec_driver_sql(self.text, filled if len(filled) > 1 else filled[0])

    def look(self, engine: Engine, row: Mapping[str, Any]) -> list[Any]:
        """The rows that it finds, asked of the driver itself: a tenth of the time, for what is asked all the time.

        Raises:
            the driver's errors, as they are.
        """
        with closing(engine.raw_connection()) as connection:
            driver: Any = connection.driver_connection
            found: list[Any] = driver.execute(self.text, self._fill(row)).fetchall()
            return found

    def _fill(self, row: Mapping[str, Any]) -> Any:
        values = {**self.constants, **row} if self.constants else row
        found = [values[name] if encode is None else encode(values[name]) for name, encode in self.places]
        return tuple(found) if self.positional else dict(zip((name for name, _ in self.places), found, strict=True))


def prepare(statement: Executable, dialect: Dialect, columns: Sequence[str] | None = None) -> Prepared:
    """A statement ready for a database.

    Args:
        columns: of an insert: those that rows have.
    """
    compiled: Any = statement.compile(dialect=dialect, column_keys=columns)  # type: ignore[attr-defined]
    types = {name: bind.type for bind, name in compiled.bind_names.items()}
    encoders = {name: kind.dialect_impl(dialect).bind_processor(dialect) for name, kind in types.items()}
    return Prepared(
        text=str(compiled),
        places=tuple((name, encoders[name]) for name in compiled.positiontup or types),
        constants={name: value for name, value in compiled.params.items() if value is not None},
        positional=bool(compiled.positional),
    )
