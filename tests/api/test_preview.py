"""The front that a run's candidates predict, over REST: a real run of tiny models, and runs that have none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.settings import Settings
from evomerge.storage.sql import open_store
from tests.workers.tiny_run import drive, make_registry, run_spec

TWO = [
    {"name": name, "eval_sets": [name], "metric": "log_likelihood", "direction": direction, "items": 8}
    for name, direction in (("sums", "maximize"), ("threes", "maximize"))
]
COSTLY = [TWO[0], {"name": "free", "eval_sets": ["threes"], "metric": "entropy", "direction": "minimize", "items": 8}]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A data directory with runs: one to predict from, one that minimises, one too short, one of categories."""
    folder = tmp_path_factory.mktemp("previewed")
    registry, store = make_registry(folder), open_store(Settings(data_dir=folder).url)
    space: dict[str, Any] = {"kind": "parameter", "method": "task_arithmetic", "weight": [0, 1]}
    changes = {
        "two": {"objectives": TWO, "space": space, "budget": {"candidates": 24}, "optimizer": {"name": "nsga2"}},
        "costly": {"objectives": COSTLY, "space": space, "budget": {"candidates": 24}, "optimizer": {"name": "nsga2"}},
        "short": {"objectives": TWO, "space": space, "budget": {"candidates": 3}, "optimizer": {"name": "nsga2"}},
        "methods": {"space": {"kind": "parameter", "methods": ["linear", "ties"]}, "budget": {"candidates": 4}},
    }
    runs = {}
    for name, change in changes.items():
        runs[name] = store.create_run(run_spec(verify={"top": 1}, **change), name)[0].id
        assert drive(store, registry, folder / "cache", runs[name]) == "succeeded"
    store.close()
    return folder, runs


@pytest.fixture
def service(searched: tuple[Path, dict[str, str]]) -> Iterator[TestClient]:
    folder = searched[0]
    app = create_app(Settings(data_dir=folder, registry=folder / "registry.yaml"), static=folder / "no-dashboard")
    with TestClient(app, base_url="http://localhost") as client:
        yield client


@pytest.mark.parametrize(("name", "signs"), [("two", (1, 1)), ("costly", (1, -1))])
def test_the_predicted_front_is_a_front_in_the_objectives_own_units(
    service: TestClient, searched: tuple[Path, dict[str, str]], name: str, signs: tuple[int, int]
) -> None:
    run = searched[1][name]
    found = service.get(f"/api/v1/runs/{run}/preview").json()
    columns = service.get(f"/api/v1/runs/{run}/points").json()["scores"]
    values = np.array([list(point["values"].values()) for point in found["points"]])

    assert found["reason"] is None
    assert found["genes"] == ["weight/ja", "weight/math"] or found["genes"] == ["weight/math", "weight/ja"]
    assert found["answers"] == 24
    assert all(0 <= gene <= 1 for point in found["points"] for gene in point["genome"])
    assert (np.diff(signs[0] * values[:, 0]) <= 0).all()
    assert (np.diff(signs[1] * values[:, 1]) >= 0).all()
    for objective, column in zip(columns, values.T, strict=True):
        known = [one for one in columns[objective] if one is not None]
        room = np.ptp(known) + 4 * found["errors"][objective]
        assert min(known) - room <= column.min() <= column.max() <= max(known) + room
        assert 0 < found["errors"][objective] < np.ptp(known)


@pytest.mark.parametrize(
    ("name", "reason"), [("short", "6 scored candidates are needed, 3 are there"), ("methods", "all real numbers")]
)
def test_where_nothing_can_be_predicted_it_says_why(
    service: TestClient, searched: tuple[Path, dict[str, str]], name: str, reason: str
) -> None:
    found = service.get(f"/api/v1/runs/{searched[1][name]}/preview").json()

    assert reason in found["reason"]
    assert (found["points"], found["errors"]) == ([], {})


def test_models_that_are_gone_are_a_reason(service: TestClient, searched: tuple[Path, dict[str, str]]) -> None:
    folder, runs = searched
    (folder / "base").rename(folder / "elsewhere")
    try:
        from api.routes import preview

        preview._kept.clear()
        found = service.get(f"/api/v1/runs/{runs['two']}/preview").json()
    finally:
        (folder / "elsewhere").rename(folder / "base")

    assert "cannot be read" in found["reason"]


def test_an_etag_spares_the_body(service: TestClient, searched: tuple[Path, dict[str, str]]) -> None:
    first = service.get(f"/api/v1/runs/{searched[1]['two']}/preview")
    again = service.get(f"/api/v1/runs/{searched[1]['two']}/preview", headers={"if-none-match": first.headers["etag"]})

    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
