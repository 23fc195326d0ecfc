"""What a run says of its items, over REST, from the client and on the command line: a real run of tiny models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.cli import main
from api.settings import Settings
from evomerge.storage.sql import open_store
from tests.workers.tiny_run import drive, make_registry, run_spec


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A data directory with a run of twenty candidates, some of which answered everything, and one of two."""
    folder = tmp_path_factory.mktemp("searched")
    registry, store = make_registry(folder), open_store(Settings(data_dir=folder).url)
    spec = run_spec(
        budget={"candidates": 20}, subset={"elites": 4, "elites_share": 10.0, "policy": "informed"}, verify={"top": 8}
    )
    runs = []
    for wanted in (spec, run_spec(budget={"candidates": 2}, verify={"top": 1})):
        runs.append(store.create_run(wanted, "tiny")[0].id)
        drive(store, registry, folder / "cache", runs[-1])
    store.close()
    return folder, runs[0], runs[1]


@pytest.fixture
def service(searched: tuple[Path, str, str]) -> Iterator[TestClient]:
    folder = searched[0]
    app = create_app(Settings(data_dir=folder, registry=folder / "registry.yaml"), static=folder / "no-dashboard")
    with TestClient(app, base_url="http://localhost") as client:
        yield client


def test_a_runs_report_says_how_well_few_items_predict(service: TestClient, searched: tuple[Path, str, str]) -> None:
    response = service.get(f"/api/v1/runs/{searched[1]}/items")
    (found,) = response.json()["items"]
    report: dict[str, Any] = found["report"]

    assert (found["eval_set"], found["metric"], found["asked"]) == ("sums", "choice_probability", 8)
    assert found["subjects"] == report["subjects"] >= 8
    assert report["items"] == 24
    assert {one["n"] for one in report["methods"]} == {8, 10, 20}
    again = service.get(f"/api/v1/runs/{searched[1]}/items", headers={"If-None-Match": response.headers["etag"]})
    assert again.status_code == 304


def test_too_few_subjects_are_said_and_no_error(service: TestClient, searched: tuple[Path, str, str]) -> None:
    (found,) = service.get(f"/api/v1/runs/{searched[2]}/items").json()["items"]

    assert found["report"] is None
    assert "at least 3 fully scored" in found["why"]


@pytest.mark.parametrize("as_json", [True, False])
def test_the_command_line_says_the_same(
    searched: tuple[Path, str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    as_json: bool,
) -> None:
    folder, run, _ = searched
    command = ["items", "report", "--run", run, "--data-dir", str(folder), "--registry", str(folder / "registry.yaml")]

    monkeypatch.setattr("sys.argv", ["evomerge", *command, *(["--json"] if as_json else [])])

    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    out = capsys.readouterr().out
    if as_json:
        assert json.loads(out)[0]["report"]["items"] == 24
    else:
        assert "sums, choice_probability" in out
        assert "Held out of the bank" in out


def test_what_makes_no_report_is_refused(refused: Any, tmp_path: Path) -> None:
    assert "--run" in refused("items", "report")
    assert "run_nobody" in refused("items", "report", "--run", "run_nobody", "--data-dir", str(tmp_path))


def test_elites_are_plotted_where_they_are_known_to_be(service: TestClient, searched: tuple[Path, str, str]) -> None:
    folder, run, _ = searched
    store = open_store(Settings(data_dir=folder).url)
    events = store.events(run, limit=10_000)
    store.close()
    verifying = next(e.seq for e in events if e.type == "run.state" and e.data["state"] == "verifying")
    known = {e.data["number"]: e.data["scores"] for e in events if e.type == "candidate.verified" and e.seq < verifying}
    points = service.get(f"/api/v1/runs/{run}/points").json()

    assert known
    for number, scores in known.items():
        assert points["scores"]["skill"][points["number"].index(number)] == scores["skill"]["mean"]
