"""A service over a real SQLite file, and runs written into it as a controller would."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.settings import Settings
from evomerge.storage.sql import SqlStore, open_store
from evomerge.testing.scripted import ScriptedRun, spec


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, poll_s=0.02)


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    app = create_app(settings, static=settings.data_dir / "no-dashboard")
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def store(settings: Settings) -> Iterator[SqlStore]:
    """The same database, opened a second time as the controller's process would."""
    store = open_store(settings.url)
    yield store
    store.close()


@pytest.fixture
def run(store: SqlStore) -> ScriptedRun:
    """Two objectives, two baselines, six scored candidates of which one fails, still running."""
    run = ScriptedRun(store, spec("ja", "math"))
    run.enter("starting")
    run.baselines({"base": (0.2, 0.3), "average": (0.4, 0.5)})
    run.enter("running")
    for means in ((0.5, 0.5), (0.6, 0.4), (0.4, 0.4), (0.7, 0.7), (0.3, 0.8)):
        run.score(run.propose(), means)
    run.fail(run.propose(generation=1), "non_finite", "NaN in layer 3")
    return run


@pytest.fixture
def problem() -> Any:
    """Check that an answer is a problem document of a status, and give its body."""

    def check(response: Any, status: int, kind: str) -> dict[str, Any]:
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/problem+json"
        body: dict[str, Any] = response.json()
        assert (body["status"], body["type"]) == (status, f"/api/v1/problems/{kind}")
        assert body["title"]
        assert body["detail"]
        return body

    return check
