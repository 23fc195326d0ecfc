"""The event stream of a real server, through its deaths."""

from __future__ import annotations

from typing import Any

from api.client import Client
from evomerge.storage.sql import SqlStore
from evomerge.testing.scripted import ScriptedRun, spec


def test_a_listener_misses_nothing_when_the_service_is_killed_twice(service: Any, store: SqlStore) -> None:
    run = ScriptedRun(store, spec("ja"))
    run.enter("running")
    seen = []
    with Client(service.url) as client:
        for event in client.events(run.id):
            seen.append(event.seq)
            if event.seq in (5, 15):
                service.kill()
                _score(run, 5)  # what nobody could stream
                service.start()
            elif len(seen) >= 25 and event.type != "run.state":
                run.finish() if run.result is None else None
            else:
                _score(run, 1)

    row = store.run(run.id)
    assert row is not None
    assert row.state == "succeeded"
    assert seen == list(range(1, row.last_seq + 1))


def test_the_service_ends_soon_when_asked_with_streams_open(service: Any, store: SqlStore) -> None:
    run = ScriptedRun(store, spec("ja"))
    run.enter("running")
    clients = [Client(service.url, patience_s=0.0) for _ in range(5)]
    streams = [client.events(run.id) for client in clients]
    for stream in streams:
        assert next(stream).seq == 1

    seconds = service.terminate()
    for client in clients:
        client.close()
    service.start()

    assert seconds < 5


def _score(run: ScriptedRun, count: int) -> None:
    for _ in range(count):
        run.score(run.propose(), (0.5,))
