"""kill −9 of each process of a service with Ray workers, in the middle of a search."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.client import Client
from evomerge.storage.store import TERMINAL
from tests.served import Served
from tests.workers import tiny_run
from tests.workers.tiny_run import run_spec

pytestmark = [pytest.mark.ray]
PATIENCE_S = 240.0


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    tiny_run.make_registry(tmp_path / "models")
    served = Served(tmp_path / "data", tmp_path / "models" / "registry.yaml")
    served.start()
    yield served
    served.stop()


def wait_for(client: Client, run: str, scored: int) -> None:
    """Until so many search candidates are scored, or the run is over."""
    deadline = time.monotonic() + PATIENCE_S
    while (row := client.run(run))["summary"].get("scored", 0) < scored and row["state"] not in TERMINAL:
        assert time.monotonic() < deadline, f"the run stands still: {row['state']}, {row['summary']}"
        time.sleep(0.1)


def test_a_search_survives_the_death_of_worker_api_and_controller(served: Served) -> None:
    spec = run_spec(workers={"pool": "ray", "count": 2}, budget={"candidates": 4000})
    with Client(served.url) as client:
        run = client.submit(spec)["id"]
        wait_for(client, run, 3)
        worker = served.pid_of("worker")
        os.kill(worker, signal.SIGSTOP)  # it keeps the job that it has or gets now, while the other one goes on
        wait_for(client, run, client.run(run)["summary"]["scored"] + 4)
        os.kill(worker, signal.SIGKILL)
        wait_for(client, run, client.run(run)["summary"]["scored"] + 4)
        served.kill("api")
        served.wait_until_it_answers()
        wait_for(client, run, client.run(run)["summary"]["scored"] + 4)
        served.kill("controller")
        wait_for(client, run, client.run(run)["summary"]["scored"] + 4)
        client.command(run, "stop")
        row = client.wait(run)
        events = list(client.events(run))

    assert (row["state"], row["reason"]) == ("succeeded", "stopped by request")
    assert tiny_run.counted_once(events)
    assert any(e.type == "candidate.requeued" for e in events)


def test_a_service_that_is_told_to_end_leaves_no_process_and_its_run_goes_on_later(served: Served) -> None:
    spec = run_spec(workers={"pool": "ray", "count": 1}, budget={"candidates": 4000})
    with Client(served.url) as client:
        run = client.submit(spec)["id"]
        wait_for(client, run, 2)
    pids = served.pids()
    code = served.stop()

    assert code == 0
    assert [pid for pid in pids if Path(f"/proc/{pid}/status").exists() and not _zombie(pid)] == []

    served.start()
    with Client(served.url) as client:
        scored = client.run(run)["summary"]["scored"]
        wait_for(client, run, scored + 3)
        client.command(run, "stop")
        row = client.wait(run)

    assert row["state"] == "succeeded"


def _zombie(pid: int) -> bool:
    return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
