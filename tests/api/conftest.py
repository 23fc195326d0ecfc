"""A service over a real SQLite file, and runs written into it as a controller would."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient

from api.app import create_app
from api.cli import main
from api.settings import Settings
from evomerge.storage.sql import SqlStore, open_store
from evomerge.testing.scripted import ScriptedRun, spec

RECIPE: dict[str, Any] = {
    "base": {"location": "base"},
    "sources": {"math": {"location": "math"}, "ja": {"location": "ja"}},
    "merge": {"method": "task_arithmetic", "parameters": {"weight": 0.5}},
    "dtype": "float32",
}


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


@pytest.fixture(scope="session")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models and files with which something is wrong."""
    from tests.api.broken import make_broken

    return make_broken(tmp_path_factory.mktemp("broken"))


@pytest.fixture
def refused(
    broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run a command that must end in one line; give the line."""
    monkeypatch.chdir(broken)
    monkeypatch.setenv("EVOMERGE_DATA_DIR", str(tmp_path / "data"))

    def run(*arguments: str) -> str:
        before = sorted(broken.rglob("*"))
        monkeypatch.setattr("sys.argv", ["evomerge", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        line = capsys.readouterr().err
        assert end.value.code == 2, line
        assert line.startswith("error: "), line
        assert line.count("\n") == 1, line
        assert sorted(broken.rglob("*")) == before, "something was left behind"
        return line

    return run


@pytest.fixture
def written(tmp_path: Path, broken: Path) -> Iterator[Callable[..., str]]:
    """A recipe with changes (a None takes a field away), as a file beside the models."""
    made: list[Path] = []

    def write(**changes: Any) -> str:
        recipe = {k: v for k, v in {**copy.deepcopy(RECIPE), **changes}.items() if v is not None}
        path = broken / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe))
        made.append(path)
        return path.name

    yield write
    for path in made:
        path.unlink(missing_ok=True)
