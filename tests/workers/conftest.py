"""The tiny models' registry, a whole search over them, and an empty store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from evomerge.storage.sql import open_store
from evomerge.storage.store import Store
from tests.workers import tiny_run
from tests.workers.tiny_run import run_spec
from workers.registry import Registry


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return tiny_run.make_registry(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def whole(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, str]]:
    store, run = tiny_run.whole_run(tmp_path_factory.mktemp("whole"), registry, run_spec())
    yield store, run
    store.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(f"sqlite:///{tmp_path / 'store.sqlite3'}")
    yield store
    store.close()
