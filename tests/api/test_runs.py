"""Runs over REST: lists, conditional answers, commands."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from evomerge.storage.sql import SqlStore
from evomerge.testing.scripted import ScriptedRun, spec


def test_a_run_shows_its_state_and_summary(client: TestClient, run: ScriptedRun) -> None:
    body = client.get(f"/api/v1/runs/{run.id}").json()

    assert (body["state"], body["spec"]["name"], body["pending"]) == ("running", "scripted", [])
    assert body["summary"]["scored"] == 5
    assert body["summary"]["best"]["ja"] == {"number": 5, **run.rows[5].scores["ja"]}


def test_an_unknown_run_is_a_problem(client: TestClient, problem: Any) -> None:
    below = "candidates candidates/0 front points elites preview items history events best/recipe"
    for path in ("", *(f"/{name}" for name in below.split())):
        assert "run_nobody" in problem(client.get(f"/api/v1/runs/run_nobody{path}"), 404, "not-found")["detail"]


def test_runs_are_listed_newest_first_in_pages_without_specs(client: TestClient, store: SqlStore) -> None:
    ids = [store.create_run(spec("ja", name=f"run {n}"), f"run {n}")[0].id for n in range(5)]
    seen, url = [], "/api/v1/runs?limit=2"
    while url:
        response = client.get(url)
        seen += response.json()["items"]
        link = response.headers.get("link", "")
        url = link[1 : link.index(">")] if link else ""

    assert [one["id"] for one in seen] == ids[::-1]
    assert all("spec" not in one for one in seen)


def test_runs_are_filtered_by_state(client: TestClient, run: ScriptedRun, store: SqlStore) -> None:
    store.create_run(spec("ja"), "other")

    assert [one["id"] for one in client.get("/api/v1/runs?state=running").json()["items"]] == [run.id]


@pytest.mark.parametrize(("query", "named"), [("state=lost", "state"), ("limit=0", "limit"), ("colour=red", "colour")])
def test_bad_list_parameters_are_named(client: TestClient, problem: Any, query: str, named: str) -> None:
    body = problem(client.get(f"/api/v1/runs?{query}"), 422, "invalid")

    assert body["errors"][0]["parameter"] == named


@pytest.mark.parametrize("cursor", ["nonsense", "e30", "%00", "W10"])
def test_a_made_up_cursor_is_a_bad_request(client: TestClient, problem: Any, run: ScriptedRun, cursor: str) -> None:
    problem(client.get(f"/api/v1/runs?cursor={cursor}"), 400, "bad-cursor")
    problem(client.get(f"/api/v1/runs/{run.id}/candidates?cursor={cursor}"), 400, "bad-cursor")


@pytest.mark.parametrize("what", ["", "/points", "/elites", "/front", "/history"])
def test_an_etag_spares_the_body_until_something_changes(client: TestClient, run: ScriptedRun, what: str) -> None:
    path = f"/api/v1/runs/{run.id}{what}"
    first = client.get(path)
    again = client.get(path, headers={"if-none-match": first.headers["etag"]})
    run.score(run.propose(), (0.9, 0.9))
    changed = client.get(path, headers={"if-none-match": first.headers["etag"]})

    assert (first.status_code, again.status_code, changed.status_code) == (200, 304, 200)
    assert again.content == b""
    assert changed.headers["etag"] != first.headers["etag"]


def test_commands_are_rows_that_the_controller_reads(client: TestClient, run: ScriptedRun) -> None:
    for verb in ("pause", "stop", "cancel"):
        assert client.post(f"/api/v1/runs/{run.id}:{verb}").status_code == 202

    assert [verb for _, verb in run.store.pending_commands(run.id)] == ["pause", "stop", "cancel"]
    assert client.get(f"/api/v1/runs/{run.id}").json()["pending"] == ["pause", "stop", "cancel"]


def test_a_pending_command_changes_the_etag(client: TestClient, run: ScriptedRun) -> None:
    tag = client.get(f"/api/v1/runs/{run.id}").headers["etag"]
    client.post(f"/api/v1/runs/{run.id}:pause")

    assert client.get(f"/api/v1/runs/{run.id}", headers={"if-none-match": tag}).status_code == 200


def test_the_same_command_twice_is_one_command(client: TestClient, run: ScriptedRun) -> None:
    for _ in range(3):
        assert client.post(f"/api/v1/runs/{run.id}:pause").status_code == 202

    assert len(run.store.pending_commands(run.id)) == 1


def test_pausing_a_paused_run_is_no_error_and_no_command(client: TestClient, run: ScriptedRun) -> None:
    run.enter("paused", "asked for")

    assert client.post(f"/api/v1/runs/{run.id}:pause").status_code == 202
    assert run.store.pending_commands(run.id) == []


def test_a_run_that_is_over_takes_no_commands(client: TestClient, problem: Any, run: ScriptedRun) -> None:
    run.finish()

    assert "succeeded" in problem(client.post(f"/api/v1/runs/{run.id}:pause"), 409, "conflict")["detail"]
    assert client.post(f"/api/v1/runs/{run.id}:stop").status_code == 202


def test_an_unknown_verb_is_a_problem(client: TestClient, problem: Any, run: ScriptedRun) -> None:
    problem(client.post(f"/api/v1/runs/{run.id}:explode"), 405, "method-not-allowed")
