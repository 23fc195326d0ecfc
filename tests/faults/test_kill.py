"""kill −9 in the middle of a search: nothing lost, nothing counted twice, the genomes are the undisturbed run's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evomerge.storage.sql import open_store
from evomerge.storage.store import TERMINAL, Store
from tests.workers import tiny_run
from tests.workers.tiny_run import run_spec
from workers.registry import Registry

PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return tiny_run.make_registry(tmp_path_factory.mktemp("models"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(f"sqlite:///{tmp_path / 'evomerge.sqlite3'}")
    yield store
    store.close()


def start_controller(data: Path, registry: Registry) -> subprocess.Popen[bytes]:
    """A controller in a process of its own, as `evomerge serve` starts it."""
    folder = registry.models["base"].parent
    command = [sys.executable, "-m", "evomerge", "controller", "--data-dir", str(data)]
    command += ["--registry", str(folder / "registry.yaml")]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)


def wait_for(store: Store, run: str, seq: int) -> None:
    """Until the run has got as far as event `seq`, or is over."""
    deadline = time.monotonic() + PATIENCE_S
    while (row := store.run(run)) is not None and row.last_seq < seq and row.state not in TERMINAL:
        assert time.monotonic() < deadline, f"the run stands still at event {row.last_seq}"
        time.sleep(0.01)


def test_a_killed_controller_is_followed_by_one_that_asks_the_same(
    store: Store, registry: Registry, tmp_path: Path
) -> None:
    run = store.create_run(run_spec(budget={"candidates": 16}), "tiny")[0].id
    for seq in (9, 24):
        controller = start_controller(tmp_path, registry)
        wait_for(store, run, seq)
        os.kill(controller.pid, signal.SIGKILL)
        controller.wait()
    controller = start_controller(tmp_path, registry)
    wait_for(store, run, 10**6)
    controller.terminate()
    code = controller.wait(30)
    undisturbed = tiny_run.whole_run(tmp_path, registry, run_spec(budget={"candidates": 16}))
    events, expected = tiny_run.events_of(store, run), tiny_run.events_of(*undisturbed)
    row = store.run(run)
    assert row is not None

    assert (row.state, code) == ("succeeded", 0)
    assert tiny_run.counted_once(events)
    assert tiny_run.genomes_of(events) == tiny_run.genomes_of(expected)
    assert tiny_run.scores_of(events) == tiny_run.scores_of(expected)
