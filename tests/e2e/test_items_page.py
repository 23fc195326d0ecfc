"""What a run's pages say beside its candidates: of its items, after a real search, its predicted front, its elites."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from evomerge.storage.sql import SqlStore
from evomerge.testing.scripted import ScriptedRun, spec
from tests.workers.tiny_run import drive, make_registry, run_spec

pytestmark = pytest.mark.browser


def test_a_runs_items_are_reported(page: Page, service: Any, store: SqlStore, tmp_path: Path) -> None:
    registry = make_registry(tmp_path)
    shutil.copy(tmp_path / "registry.yaml", service.data_dir / "registry.yaml")
    run = store.create_run(
        run_spec(
            name="items", budget={"candidates": 16}, verify={"top": 6},
            subset={"elites": 4, "elites_share": 10.0, "policy": "informed"},
        ),
        "items",
    )[0].id  # fmt: skip
    assert drive(store, registry, tmp_path / "cache", run) == "succeeded"

    page.goto(f"/runs/{run}")
    page.get_by_role("link", name="what its items say").click()
    items = page.get_by_test_id("items")

    answered = re.compile(r"\d+ subjects answered everything; a candidate answers 8 items")
    expect(items.get_by_text(answered)).to_be_visible(timeout=60_000)  # cross-validation on a busy machine
    expect(items.get_by_test_id("recommended")).to_contain_text("items")
    expect(items.get_by_test_id("methods").first.get_by_role("row")).not_to_have_count(1)
    expect(items.get_by_role("img", name=re.compile("observed by predicted chance"))).to_be_visible()
    assert page.title() == "items of items · evomerge"
    items.get_by_role("link", name="back to the run").click()
    expect(page.get_by_test_id("result")).to_be_visible()


def test_a_predicted_front_is_drawn_where_it_is_asked_for(
    page: Page, service: Any, store: SqlStore, tmp_path: Path
) -> None:
    registry = make_registry(tmp_path)
    shutil.copy(tmp_path / "registry.yaml", service.data_dir / "registry.yaml")
    objectives = [
        {"name": name, "eval_sets": [name], "metric": "log_likelihood", "items": 8} for name in ("sums", "threes")
    ]
    space = {"kind": "parameter", "method": "task_arithmetic"}
    run = store.create_run(
        run_spec(name="predicted", objectives=objectives, space=space, budget={"candidates": 16}, verify={"top": 1}),
        "predicted",
    )[0].id
    assert drive(store, registry, tmp_path / "cache", run) == "succeeded"

    page.goto(f"/runs/{run}")
    expect(page.get_by_test_id("prediction")).to_have_count(0)
    page.get_by_role("checkbox", name="predicted front").check()

    expect(page.get_by_test_id("prediction")).to_contain_text("fitted to 16 candidates", timeout=60_000)
    page.get_by_role("checkbox", name="predicted front").uncheck()
    expect(page.get_by_test_id("prediction")).to_have_count(0)


def test_elites_lead_to_their_candidates(page: Page, store: SqlStore) -> None:
    run = ScriptedRun(store, spec("ja", "math", name="watched"))
    run.enter("starting")
    run.baselines({"base": (0.2, 0.3), "average": (0.4, 0.5)})
    run.enter("running")
    for means in ((0.5, 0.5), (0.6, 0.4), (0.4, 0.4), (0.7, 0.7)):
        run.score(run.propose(), means)

    page.goto(f"/runs/{run.id}")
    page.get_by_role("link", name="elites").click()
    best = page.get_by_role("group", name="best ja by math")

    best.get_by_role("link", name="candidate 5: ja 0.700").click()
    expect(page.get_by_test_id("candidate")).to_contain_text("0.700")
