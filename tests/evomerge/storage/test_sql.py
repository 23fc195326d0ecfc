"""The SQL store under the store contract, on SQLite and, where EVOMERGE_TEST_POSTGRES names a server, PostgreSQL."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from evomerge.storage.sql import SqlStore
from evomerge.storage.store import Store
from evomerge.testing.store import Clock, StoreContract

POSTGRES = os.environ.get("EVOMERGE_TEST_POSTGRES")  # postgresql://USER@HOST/DATABASE, where schemas may be made


@pytest.fixture(params=["sqlite", "postgresql"] if POSTGRES else ["sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/store.sqlite3"
        return
    schema = f"test_{uuid.uuid4().hex}"
    engine = create_engine(make_url(POSTGRES or "").set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    yield str(make_url(POSTGRES or "").update_query_dict({"options": f"-csearch_path={schema}"}))
    with engine.begin() as connection:
        connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
    engine.dispose()


class TestSqlStore(StoreContract):
    @pytest.fixture
    def open_store(self, url: str) -> Iterator[Callable[[Clock], Store]]:
        stores: list[SqlStore] = []

        def open_(clock: Clock) -> Store:
            stores.append(SqlStore(url, clock=clock))
            return stores[-1]

        yield open_
        for store in stores:
            store.close()
