"""The schema's history leads to the tables that the code uses, and a newer schema is refused."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from evomerge.errors import StoreError
from evomerge.storage.sql import SqlStore, open_store
from evomerge.storage.tables import Table


def test_migrations_make_exactly_the_tables_of_the_code(tmp_path: Path) -> None:
    store = SqlStore(f"sqlite:///{tmp_path}/store.sqlite3")
    with store._engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(context, Table.metadata)
    store.close()

    assert differences == []


def test_an_existing_store_opens_again_with_its_runs(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.sqlite3"
    first = open_store(url)
    run, _ = first.create_run({"seed": 3}, "a")
    first.close()
    second = open_store(url)
    again = second.run(run.id)
    second.close()

    assert again == run


def test_a_store_of_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "store.sqlite3"
    open_store(f"sqlite:///{file}").close()
    with sqlite3.connect(file) as newer:
        newer.execute("UPDATE alembic_version SET version_num = '9999'")
    newer.close()

    with pytest.raises(StoreError, match="'9999', which a newer evomerge wrote"):
        open_store(f"sqlite:///{file}")
    with sqlite3.connect(file) as left:
        version = left.execute("SELECT version_num FROM alembic_version").fetchone()
    left.close()
    assert version == ("9999",)


def test_a_migration_that_fails_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "store.sqlite3"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE events (x)")  # in the way of ours
    connection.close()

    with pytest.raises(StoreError, match="events"):
        open_store(f"sqlite:///{file}")
    with sqlite3.connect(file) as left:
        tables = [name for (name,) in left.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    left.close()
    assert tables == ["events"]
