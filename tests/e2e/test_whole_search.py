"""The main job as a user does it: the whole service, a real search on real models, a browser, the bytes compared."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, Page, expect
from safetensors.torch import load_file

from api.client import Client
from evomerge.merge.resident import Resident
from evomerge.recipe.schema import Recipe
from evomerge.recipe.text import load_recipe
from evomerge.storage.sql import open_store
from tests.served import Served
from tests.workers.tiny_run import make_registry, run_spec

pytestmark = [pytest.mark.browser]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    make_registry(folder / "models")
    served = Served(folder / "data", folder / "models" / "registry.yaml")
    served.start()
    yield served
    served.stop()


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    context = browser.new_context(base_url=served.url, accept_downloads=True, viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(60_000)
    yield page
    context.close()


def test_submit_watch_open_download_and_build(page: Page, served: Served, tmp_path: Path) -> None:
    page.goto("/new")
    page.get_by_test_id("spec").fill(json.dumps(run_spec(budget={"candidates": 40})))
    page.get_by_role("button", name="Start search").click()
    page.wait_for_url(re.compile("/runs/run_"))
    run = page.url.rsplit("/", 1)[1]
    page.evaluate("window.notReloaded = true")

    expect(page.get_by_test_id("progress")).to_contain_text(re.compile(r"[1-9]\d* scored of 40"), timeout=120_000)
    expect(page.get_by_test_id("run-state")).to_have_text("succeeded", timeout=240_000)
    assert page.evaluate("window.notReloaded") is True

    with Client(served.url) as client:
        winner = client.run(run)["summary"]["result"]["winner"]
    page.goto(f"/runs/{run}/candidates/{winner}")
    drawer = page.get_by_test_id("candidate")
    expect(drawer.get_by_test_id("scores")).to_contain_text("skill")
    with page.expect_download() as download:
        drawer.get_by_role("link", name="YAML").click()
    recipe = tmp_path / "winner.yaml"
    download.value.save_as(recipe)
    command = [sys.executable, "-m", "evomerge", "merge", str(recipe), str(tmp_path / "merged")]
    subprocess.run(command, check=True, capture_output=True)

    store = open_store(f"sqlite:///{served.data / 'evomerge.sqlite3'}")
    row = store.candidate(run, winner)
    store.close()
    assert row is not None
    scored = Recipe.model_validate(row.recipe)
    resident = Resident(scored, cache=tmp_path / "cache")
    resident.materialize(scored)
    built = load_file(tmp_path / "merged" / "model.safetensors")
    for name, weights in resident.model.state_dict().items():
        assert torch.equal(built[name], weights), name


def test_a_search_is_submitted_and_followed_from_the_command_line(served: Served, tmp_path: Path) -> None:
    (tmp_path / "search.yaml").write_text(json.dumps(run_spec(name="from the terminal")))
    arguments = [
        "search",
        str(tmp_path / "search.yaml"),
        "--server",
        served.url,
        "--recipe",
        str(tmp_path / "best.yaml"),
    ]
    command = [sys.executable, "-m", "evomerge", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)

    assert ran.returncode == 0, ran.stderr
    assert "run succeeded" in ran.stdout
    assert "average" in ran.stdout
    assert load_recipe(tmp_path / "best.yaml").merge.method == "task_arithmetic"
