"""The schema's history leads to the tables that the code uses, and a newer schema is refused."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from evomerge.errors import StoreError
from evomerge.storage import migrate
from evomerge.storage.sql import SqlStore, open_store
from evomerge.storage.store import CandidateQuery
from evomerge.storage.tables import Table

RUN = "run_01K6Z3V0X6M8Q2T4W7Y9B1D3F5"
MATH = {"item_ids": ["x", "y"], "values": {"accuracy": [1.0, 0.0], "log_likelihood": [-0.1, -1e-300]}}
HELD: list[dict[str, Any]] = [
    {"subset": {"math": MATH, "code": {"item_ids": ["1"], "values": {"accuracy": [1.0]}}}},
    {"subset": {"math": MATH}, "holdout": {"math": {"item_ids": ["z"], "values": {"accuracy": [0.5]}}}},
    {},
]
"""What three candidates of a store of the first schema answered."""


def first_schema(file: Path, held: list[dict[str, Any]]) -> None:
    """A store as evomerge wrote it before answers had a table, with one run."""
    engine = create_engine(f"sqlite:///{file}")
    scripts = ScriptDirectory(str(Path(migrate.__file__).parent / "migrations"))
    with engine.begin() as connection:
        context = MigrationContext.configure(connection)
        with Operations.context(context):
            scripts.get_revision("0001").module.upgrade()
            context.stamp(scripts, "0001")
    engine.dispose()
    with sqlite3.connect(file) as old:
        moment = "2026-01-01 00:00:00.000000"
        run = (RUN, "old", "succeeded", None, moment, moment, 1, 0, None, 0, None, "", "{}", "{}")
        old.execute(f"INSERT INTO runs VALUES ({','.join('?' * len(run))})", run)
        for number, responses in enumerate(held):
            digest = f"{number // 2:064x}"  # the first two are the same model
            fixed = ("search", "", "scored", 0, digest, 0.0, 0, 0, 1, "w", "{}", "{}", "{}", None, "[0.5]", "{}")
            row = (RUN, number, *fixed, json.dumps(responses))
            old.execute(f"INSERT INTO candidates VALUES ({','.join('?' * len(row))})", row)
    old.close()


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


def test_answers_of_an_older_store_move_and_nothing_is_lost(tmp_path: Path) -> None:
    file = tmp_path / "store.sqlite3"
    first_schema(file, HELD)
    store = open_store(f"sqlite:///{file}")
    rows, _ = store.candidates(RUN)
    light, _ = store.candidates(RUN, CandidateQuery(details=False))
    blocks = store.answers(f"unrecorded:{RUN}")
    banks = {bank.eval_set: bank for bank in store.banks()}
    store.close()

    assert [row.responses for row in rows] == HELD
    assert [row.genome for row in rows] == [(0.5,)] * 3
    assert not any(row.responses for row in light)
    assert len(blocks) == 3  # the first two said the same to `math`
    assert all(block.contents == () and block.run == RUN for block in blocks)
    assert (banks["math"].answers, banks["math"].items, banks["code"].answers) == (3, 3, 1)


def test_a_large_older_store_moves_in_pages(tmp_path: Path) -> None:
    file = tmp_path / "store.sqlite3"
    first_schema(file, [{"subset": {"math": {"item_ids": ["x"], "values": {"a": [n / 7]}}}} for n in range(1203)])
    store = open_store(f"sqlite:///{file}")
    rows, _ = store.candidates(RUN, CandidateQuery(limit=2000))
    store.close()

    assert [row.responses["subset"]["math"]["values"]["a"] for row in rows] == [[n / 7] for n in range(1203)]


def test_a_move_that_fails_leaves_the_older_store_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "store.sqlite3"
    first_schema(file, [*HELD, {"subset": {"math": {"item_ids": ["x"]}}}])

    with pytest.raises(KeyError):
        open_store(f"sqlite:///{file}")
    with sqlite3.connect(file) as left:
        held = [json.loads(text) for (text,) in left.execute("SELECT responses FROM candidates ORDER BY number")]
    left.close()
    assert held[:3] == HELD
