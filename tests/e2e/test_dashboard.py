"""The dashboard in a real browser, over a run that a script writes while the page is open."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import Page, expect

from evomerge.recipe.schema import Recipe
from evomerge.storage.sql import SqlStore
from evomerge.testing.scripted import ScriptedRun, spec

pytestmark = pytest.mark.browser


@pytest.fixture
def run(store: SqlStore) -> ScriptedRun:
    """Two objectives, two baselines, three scored candidates, going on."""
    run = ScriptedRun(store, spec("ja", "math", name="watched"))
    run.enter("starting")
    run.baselines({"base": (0.2, 0.3), "average": (0.4, 0.5)})
    run.enter("running")
    for means in ((0.5, 0.5), (0.6, 0.4), (0.4, 0.4)):
        run.score(run.propose(), means)
    return run


def test_points_arrive_without_a_reload(page: Page, run: ScriptedRun) -> None:
    page.goto(f"/runs/{run.id}")
    expect(page.get_by_test_id("progress")).to_have_text("3 scored of 40")
    expect(page.get_by_test_id("connection")).to_have_text("live")
    page.evaluate("window.notReloaded = true")
    for means in ((0.7, 0.7), (0.3, 0.8)):
        run.score(run.propose(), means)
    run.start(run.propose())

    expect(page.get_by_test_id("progress")).to_have_text("5 scored of 40, 1 running")
    expect(page.get_by_test_id("best-ja")).to_contain_text("0.700")
    expect(page.get_by_test_id("scatter")).to_have_attribute(
        "aria-label", re.compile("^5 scored candidates, 2 on the front")
    )
    expect(page.get_by_test_id("candidates").get_by_role("link", name="6", exact=True)).to_be_visible()
    assert page.evaluate("window.notReloaded") is True


def test_the_end_of_a_run_shows_its_result(page: Page, run: ScriptedRun) -> None:
    page.goto(f"/runs/{run.id}")
    expect(page.get_by_test_id("run-state")).to_have_text("running")
    run.finish()

    expect(page.get_by_test_id("run-state")).to_have_text("succeeded")
    expect(page.get_by_test_id("result").get_by_text("winner", exact=True).first).to_be_visible()
    expect(page.get_by_test_id("download-best")).to_have_text("Download winner")
    expect(page.get_by_role("button", name="Pause")).to_have_count(0)


def test_a_candidate_opens_and_its_recipe_is_downloaded(page: Page, run: ScriptedRun, tmp_path: Path) -> None:
    page.goto(f"/runs/{run.id}")
    page.get_by_test_id("candidates").get_by_role("link", name="3", exact=True).click()
    drawer = page.get_by_test_id("candidate")

    expect(drawer.get_by_test_id("scores")).to_contain_text("0.600")
    expect(drawer.get_by_text("layers 0–9").first).to_be_visible()
    expect(drawer.get_by_test_id("recipe")).to_contain_text("evomerge.recipe/1")
    assert page.url.endswith(f"/runs/{run.id}/candidates/3")
    for name, suffix in (("YAML", "yaml"), ("JSON", "json")):
        with page.expect_download() as download:
            drawer.get_by_role("link", name=name).click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        assert path.name == f"watched-3.{suffix}"
        assert Recipe.model_validate(yaml.safe_load(path.read_text())).digest == run.rows[3].digest


def test_a_point_shows_its_numbers_and_opens_its_candidate(page: Page, run: ScriptedRun) -> None:
    page.goto(f"/runs/{run.id}")
    canvas = page.get_by_test_id("scatter").locator("canvas").first
    box = canvas.bounding_box()
    assert box is not None
    # The axes run from 0.2 to 0.7 and from 0.55 down to 0.25 (error bars included), in charts/scatter.ts's margins.
    x = 56 + (box["width"] - 56 - 28) * (0.5 - 0.2) / (0.7 - 0.2)
    y = 18 + (box["height"] - 18 - 48) * (0.55 - 0.5) / (0.55 - 0.25)
    canvas.hover(position={"x": x, "y": y})
    tip = page.locator(".tip")
    expect(tip).to_contain_text("candidate 2")
    expect(tip).to_contain_text("± 0.050")
    canvas.click(position={"x": x, "y": y})

    expect(page.get_by_role("dialog", name="candidate 2")).to_be_visible()


def test_a_failed_candidate_says_why(page: Page, run: ScriptedRun) -> None:
    number = run.propose()
    run.fail(number, "non_finite", "NaN in layer 3 of the merged model")
    page.goto(f"/runs/{run.id}/candidates/{number}")

    expect(page.get_by_test_id("candidate").get_by_role("alert")).to_contain_text("NaN in layer 3")
    expect(page.get_by_test_id("progress")).to_have_text("3 scored, 1 failed of 40")


def test_the_table_is_sorted_and_filtered_by_the_service_and_the_address_keeps_it(page: Page, run: ScriptedRun) -> None:
    page.goto(f"/runs/{run.id}")
    table = page.get_by_test_id("candidates")
    table.get_by_role("button", name="math").click()

    expect(table.locator("tbody tr").first).to_contain_text("0.500")
    expect(table.get_by_role("columnheader", name="math")).to_have_attribute("aria-sort", "descending")
    page.get_by_label("Kind").select_option("search")
    page.get_by_label("least ja").fill("0.55")
    expect(table.locator("tbody tr")).to_have_count(1)
    page.reload()
    expect(table.locator("tbody tr")).to_have_count(1)
    expect(page.get_by_label("least ja")).to_have_value("0.55")


def test_buttons_leave_commands_for_the_controller(page: Page, run: ScriptedRun) -> None:
    page.goto(f"/runs/{run.id}")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("asked to pause")).to_be_visible()
    assert [verb for _, verb in run.store.pending_commands(run.id)] == ["pause"]
    run.enter("paused", "asked for")

    expect(page.get_by_test_id("run-state")).to_have_text("paused")
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("asked to cancel")).to_be_visible()
    assert run.store.pending_commands(run.id)[-1][1] == "cancel"


def test_the_page_comes_back_when_the_service_does(page: Page, service: Any, run: ScriptedRun) -> None:
    page.goto(f"/runs/{run.id}")
    expect(page.get_by_test_id("connection")).to_have_text("live")
    page.get_by_test_id("hypervolume-course").locator("canvas").wait_for()  # the charts' code has come
    service.kill()
    expect(page.get_by_test_id("connection")).to_have_text("reconnecting…")
    run.score(run.propose(), (0.9, 0.9))
    service.start()

    expect(page.get_by_test_id("connection")).to_have_text("live")
    expect(page.get_by_test_id("progress")).to_have_text("4 scored of 40")
    expect(page.get_by_test_id("best-ja")).to_contain_text("0.900")


def test_runs_are_listed_with_their_progress(page: Page, run: ScriptedRun) -> None:
    page.goto("/")
    row = page.get_by_role("row").filter(has_text=run.id)

    expect(row).to_contain_text("3 of 40")
    run.score(run.propose(), (0.8, 0.8))
    expect(row).to_contain_text("4 of 40")
    row.get_by_role("link", name="watched").click()
    expect(page.get_by_test_id("run-state")).to_have_text("running")


def test_a_wrong_search_is_refused_with_the_place_of_each_mistake(page: Page) -> None:
    page.goto("/new")
    text = "models: {base: nobody, sources: {a: nobody}}\nspace: {}\nobjectives: []\nbuget: {}\n"
    page.get_by_test_id("spec").fill(text)
    page.get_by_role("button", name="Check").click()

    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("/objectives")
    expect(alert).to_contain_text("/buget")
    expect(alert).to_contain_text("known here are align, budget")


def test_everything_is_reached_by_the_keyboard(page: Page, run: ScriptedRun) -> None:
    page.goto(f"/runs/{run.id}/candidates/2")
    drawer = page.get_by_test_id("candidate")
    expect(drawer).to_be_focused()
    page.keyboard.press("j")
    expect(page.get_by_role("dialog", name="candidate 3")).to_be_visible()
    page.keyboard.press("Escape")

    expect(drawer).to_have_count(0)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") in ("A", "BUTTON", "SELECT", "INPUT")


def test_names_from_a_search_are_text_and_never_markup(page: Page, store: SqlStore) -> None:
    name = "<img src=x onerror=alert(1)>"
    run = ScriptedRun(store, spec("ja", name=name))
    run.enter("running")
    number = run.propose()
    run.fail(number, "bad_recipe", "<script>alert(2)</script>")
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    page.goto(f"/runs/{run.id}/candidates/{number}")

    expect(page.get_by_role("heading", name=name)).to_be_visible()
    expect(page.get_by_test_id("candidate").get_by_role("alert")).to_contain_text("<script>alert(2)</script>")
