"""The Python client: errors as values with the service's own words, pages as one iterator."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import uvicorn

from api.app import create_app
from api.client import Client, ServiceError, UnreachableError
from api.settings import Settings
from evomerge.storage.blocks import AnswerBlock
from evomerge.testing.scripted import ScriptedRun


@contextmanager
def _serving(settings: Settings) -> Iterator[str]:
    """A real server in a thread, on a port that the system picks."""
    config = uvicorn.Config(create_app(settings), host="127.0.0.1", port=0, log_config=None, ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        thread.join(0.01)
        assert thread.is_alive(), "the server ended at its start"
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture
def service(settings: Settings, run: ScriptedRun) -> Iterator[Client]:
    with _serving(settings) as url, Client(url) as client:
        yield client


def test_a_run_is_read_commanded_and_followed_to_its_end(service: Client, run: ScriptedRun) -> None:
    assert [one["id"] for one in service.runs()] == [run.id]
    assert [one["number"] for one in service.candidates(run.id, limit=3, sort="-number")] == [7, 6, 5, 4, 3, 2, 1, 0]
    assert [one["number"] for one in service.candidates(run.id, **{"min.ja": 0.5})] == [2, 3, 5]
    assert service.candidate(run.id, 5)["scores"] == run.rows[5].scores
    assert [one["number"] for one in service.front(run.id)["members"]] == [5, 6]
    assert [grid["quality"] for grid in service.elites(run.id, bins=4)["grids"]] == ["ja", "math"]
    service.command(run.id, "stop")
    assert run.store.pending_commands(run.id)[0][1] == "stop"
    threading.Thread(target=run.finish).start()

    assert service.wait(run.id)["state"] == "succeeded"
    assert "evomerge.recipe/1" in service.recipe(run.id)
    seen = [event.seq for event in service.events(run.id)]
    assert seen == list(range(1, len(seen) + 1))


def test_a_bank_of_answers_is_read_page_by_page(service: Client, run: ScriptedRun) -> None:
    blocks = [
        AnswerBlock("f", "sums", f"m{n}", ("x", "y")[: n % 3], (), {"accuracy": (1.0, 0.0)[: n % 3]}) for n in (1, 2)
    ]
    run.store.add_answers([*blocks, *(replace(blocks[0], subject=f"s{n}") for n in range(600))])
    found = service.answers("f", "sums", "accuracy")

    assert [(bank["subjects"], bank["complete"]) for bank in service.banks()] == [(602, 1)]
    assert found["subjects"] == sorted(["m1", "m2", *(f"s{n}" for n in range(600))])
    assert found["values"] == [[1.0, None], [1.0, 0.0], *[[1.0, None]] * 600]
    assert service.answers("f") == found


def test_a_refusal_is_an_error_in_the_services_words(service: Client) -> None:
    with pytest.raises(ServiceError, match="run 'run_nobody' does not exist") as caught:
        service.run("run_nobody")
    assert caught.value.status == 404

    with pytest.raises(ServiceError, match="/models") as caught:
        service.submit({"objectives": []})
    assert len(str(caught.value).splitlines()) == len(caught.value.problem["errors"])


def test_nobody_at_the_address_is_an_error_that_says_what_to_do() -> None:
    with Client("http://127.0.0.1:1", patience_s=0) as client:
        with pytest.raises(UnreachableError, match="evomerge serve"):
            client.run("run_1")
        with pytest.raises(UnreachableError):
            next(client.events("run_1"))


def test_the_key_is_sent(settings: Settings, run: ScriptedRun) -> None:
    locked = settings.model_copy(update={"api_key_sha256": "0" * 64})
    with _serving(locked) as url, Client(url, key="evm_wrong") as client:
        with pytest.raises(ServiceError, match="API key") as caught:
            client.run(run.id)
        assert caught.value.status == 401
