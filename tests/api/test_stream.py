"""Events to listeners: each once, in order, whatever happens on the way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from api import stream
from api.stream import Feeds, batch, encode
from evomerge.storage.sql import SqlStore
from evomerge.storage.store import Event
from evomerge.testing.scripted import ScriptedRun, spec

JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda s: st.lists(s), max_leaves=5)


def _parse(text: str) -> list[tuple[int, str, Any]]:
    """Events of a stream as (id, type, data)."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line and not line.startswith(":"))
        if "id" in fields:
            found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return found


@given(data=st.dictionaries(st.text(), JSON, max_size=4), seq=st.integers(1, 2**40))
def test_an_event_is_read_back_as_it_was_whatever_its_data(data: dict[str, Any], seq: int) -> None:
    text = encode(Event("candidate.scored", data, seq)).decode()

    assert text.endswith("\n\n")
    assert _parse(text) == [(seq, "candidate.scored", data)]


@given(count=st.integers(1, 20), first=st.integers(1, 100), after=st.integers(0, 130))
def test_a_batch_gives_only_what_is_later(count: int, first: int, after: int) -> None:
    made = batch([Event("x", {}, seq) for seq in range(first, first + count)])

    assert [seq for seq, _, _ in _parse(made.after(after).decode())] == [
        seq for seq in range(first, first + count) if seq > after
    ]


def _write(run: ScriptedRun, count: int) -> None:
    for _ in range(count):
        run.score(run.propose(), (run._random.random(),))


async def _listen(feeds: Feeds, run_id: str, after: int) -> list[int]:
    return [seq async for chunk in feeds.stream(run_id, after) for seq, _, _ in _parse(chunk.decode())]


def test_every_listener_gets_every_event_once_whenever_it_joins(store: SqlStore) -> None:
    run = ScriptedRun(store, spec("ja"))
    run.enter("running")
    _write(run, 5)

    async def watch() -> list[list[int]]:
        feeds = Feeds(store, 0.005)
        writer = Thread(target=lambda: (_write(run, 60), run.finish()))
        tasks = []
        for after in (0, 3, 0, 7, 0):
            tasks.append(asyncio.create_task(_listen(feeds, run.id, after)))
            await asyncio.sleep(0.05)
            if not writer.ident:
                writer.start()
        found = await asyncio.gather(*tasks)
        assert feeds.listeners == 0
        return found

    found = asyncio.run(asyncio.wait_for(watch(), 60))
    row = store.run(run.id)
    assert row is not None
    assert found == [list(range(after + 1, row.last_seq + 1)) for after in (0, 3, 0, 7, 0)]


def test_a_listener_that_falls_behind_is_let_go_and_misses_nothing_when_it_comes_back(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "QUEUE", 2)
    run = ScriptedRun(store, spec("ja"))
    run.enter("running")

    async def watch() -> tuple[list[int], list[int]]:
        feeds = Feeds(store, 0.001)
        slow = feeds.stream(run.id, 0)
        seen = [seq for seq, _, _ in _parse((await anext(slow) + await anext(slow)).decode())]
        feed = feeds._feeds[run.id]
        while not any(listener.lost for listener in feed._listeners):
            await asyncio.to_thread(_write, run, 1)
        seen += [seq async for chunk in slow for seq, _, _ in _parse(chunk.decode())]
        await asyncio.to_thread(run.finish)
        return seen, await _listen(feeds, run.id, seen[-1])

    before, after = asyncio.run(asyncio.wait_for(watch(), 60))
    row = store.run(run.id)
    assert row is not None
    assert len(before) < row.last_seq
    assert before + after == list(range(1, row.last_seq + 1))


def test_nobody_polls_a_run_that_nobody_watches(store: SqlStore) -> None:
    run = ScriptedRun(store, spec("ja"))
    run.enter("running")

    async def watch() -> None:
        feeds = Feeds(store, 0.001)
        listening = feeds.stream(run.id, 0)
        await anext(listening)
        feed = feeds._feeds[run.id]
        assert feed._task is not None
        task = feed._task
        await listening.aclose()
        await asyncio.wait([task], timeout=10)
        assert task.done()
        assert feeds._feeds == {}

    asyncio.run(asyncio.wait_for(watch(), 60))


def test_the_stream_of_a_finished_run_ends_with_its_last_event(client: TestClient, run: ScriptedRun) -> None:
    run.finish()
    response = client.get(f"/api/v1/runs/{run.id}/events")

    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.startswith("retry: 2000\n\n")
    events = _parse(response.text)
    assert [seq for seq, _, _ in events] == list(range(1, len(events) + 1))
    assert events[-1][1:][0] == "run.state"
    assert events[-1][2]["state"] == "succeeded"


@pytest.mark.parametrize(
    "ask",
    [
        lambda client, path: client.get(path, headers={"last-event-id": "4"}),
        lambda client, path: client.get(path + "?after=4"),
        lambda client, path: client.get(path + "?after=1", headers={"last-event-id": "4"}),
    ],
)
def test_a_stream_goes_on_after_the_last_event_seen(
    client: TestClient, run: ScriptedRun, ask: Callable[[TestClient, str], Any]
) -> None:
    run.finish()

    assert _parse(ask(client, f"/api/v1/runs/{run.id}/events").text)[0][0] == 5


def test_a_client_that_has_everything_of_a_finished_run_is_told_not_to_come_back(
    client: TestClient, run: ScriptedRun
) -> None:
    run.finish()
    row = run.store.run(run.id)
    assert row is not None

    assert client.get(f"/api/v1/runs/{run.id}/events?after={row.last_seq}").status_code == 204


def test_the_same_address_gives_pages_of_json(client: TestClient, run: ScriptedRun) -> None:
    path, headers = f"/api/v1/runs/{run.id}/events", {"accept": "application/json"}
    first = client.get(f"{path}?limit=3", headers=headers).json()
    second = client.get(f"{path}?limit=3&after={first['last_seq']}", headers=headers).json()

    assert [one["seq"] for one in first["items"] + second["items"]] == [1, 2, 3, 4, 5, 6]
    assert first["items"][0] == {
        "seq": 1,
        "type": "run.state",
        "at": first["items"][0]["at"],
        "data": {"state": "starting", "reason": None},
    }


@pytest.mark.parametrize("value", ["-1", "x", "1e3", str(2**63)])
def test_a_bad_place_is_named(client: TestClient, problem: Any, run: ScriptedRun, value: str) -> None:
    path = f"/api/v1/runs/{run.id}/events"

    assert problem(client.get(f"{path}?after={value}"), 422, "invalid")["errors"][0]["parameter"] == "after"
    body = problem(client.get(path, headers={"last-event-id": value}), 422, "invalid")
    assert body["errors"][0]["parameter"] == "last-event-id"
