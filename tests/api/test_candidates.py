"""Candidates over REST: filters, order, pages, recipes."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient

from evomerge.recipe.schema import Recipe
from evomerge.testing.scripted import ScriptedRun


def _numbers(client: TestClient, run: ScriptedRun, query: str) -> list[int]:
    response = client.get(f"/api/v1/runs/{run.id}/candidates?{query}")
    assert response.status_code == 200, response.text
    return [one["number"] for one in response.json()["items"]]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("sort=-number&limit=3", [7, 6, 5]),
        ("kind=baseline", [0, 1]),
        ("state=failed", [7]),
        ("front=true", [5, 6]),
        ("kind=search&sort=-score:ja", [5, 3, 2, 4, 6, 7]),
        ("kind=search&state=scored&sort=score:math", [3, 4, 2, 5, 6]),
        ("min.ja=0.5", [2, 3, 5]),
        ("min.ja=0.5&min.math=0.5", [2, 5]),
    ],
)
def test_candidates_are_filtered_and_sorted(
    client: TestClient, run: ScriptedRun, query: str, expected: list[int]
) -> None:
    assert _numbers(client, run, query) == expected


@pytest.mark.parametrize("sort", ["number", "-number", "score:ja", "-score:math"])
def test_pages_hold_every_candidate_once_in_order(client: TestClient, run: ScriptedRun, sort: str) -> None:
    seen, url = [], f"/api/v1/runs/{run.id}/candidates?limit=3&sort={sort}"
    while url:
        response = client.get(url)
        seen += [one["number"] for one in response.json()["items"]]
        link = response.headers.get("link", "")
        url = link[1 : link.index(">")] if link else ""

    assert seen == _numbers(client, run, f"limit=100&sort={sort}")
    assert sorted(seen) == list(range(8))


def test_list_rows_are_light_and_one_candidate_is_whole(client: TestClient, run: ScriptedRun) -> None:
    row = client.get(f"/api/v1/runs/{run.id}/candidates?limit=1").json()["items"][0]
    whole = client.get(f"/api/v1/runs/{run.id}/candidates/5").json()

    assert not {"genome", "recipe", "responses"} & set(row)
    assert tuple(whole["genome"]) == run.rows[5].genome
    assert whole["scores"] == run.rows[5].scores


def test_a_failed_candidate_says_why(client: TestClient, run: ScriptedRun) -> None:
    failure = client.get(f"/api/v1/runs/{run.id}/candidates/7").json()["failure"]

    assert failure == {"reason": "non_finite", "message": "NaN in layer 3"}


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("sort=colour", "sort"),
        ("sort=score:nobody", "sort"),
        ("min.nobody=1", "min.nobody"),
        ("min.ja=much", "min.ja"),
        ("min.ja=nan", "min.ja"),
        ("stat=failed", "stat"),
        ("state=lost", "state"),
        ("limit=501", "limit"),
    ],
)
def test_bad_parameters_are_named(client: TestClient, problem: Any, run: ScriptedRun, query: str, named: str) -> None:
    body = problem(client.get(f"/api/v1/runs/{run.id}/candidates?{query}"), 422, "invalid")

    assert body["errors"][0]["parameter"] == named
    assert body["errors"][0]["allowed"]


def test_an_unknown_candidate_is_a_problem(client: TestClient, problem: Any, run: ScriptedRun) -> None:
    for path in ("99", "99/recipe"):
        problem(client.get(f"/api/v1/runs/{run.id}/candidates/{path}"), 404, "not-found")
    problem(client.get(f"/api/v1/runs/{run.id}/candidates/-1"), 422, "invalid")


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("*/*", "application/yaml"),
        ("application/json", "application/json"),
        ("application/yaml", "application/yaml"),
        ("text/html, application/json;q=0.5, */*;q=0.1", "application/json"),
    ],
)
def test_the_recipe_comes_in_the_accepted_format(
    client: TestClient, run: ScriptedRun, accept: str, media_type: str
) -> None:
    response = client.get(f"/api/v1/runs/{run.id}/candidates/5/recipe", headers={"accept": accept})

    assert response.headers["content-type"].startswith(media_type)
    recipe = Recipe.model_validate(yaml.safe_load(response.text))
    assert recipe.digest == run.rows[5].digest == response.headers["evomerge-digest"]
    assert recipe.provenance["candidate"] == 5
    assert recipe.provenance["scores"] == run.rows[5].scores


def test_the_recipe_is_a_file_with_a_harmless_name(client: TestClient, run: ScriptedRun) -> None:
    response = client.get(f"/api/v1/runs/{run.id}/candidates/5/recipe?format=json")

    assert response.headers["content-disposition"] == 'attachment; filename="scripted-5.json"'
    tag = response.headers["etag"]
    again = client.get(f"/api/v1/runs/{run.id}/candidates/5/recipe?format=json", headers={"if-none-match": tag})
    assert again.status_code == 304


def test_an_unwanted_format_is_not_acceptable(client: TestClient, problem: Any, run: ScriptedRun) -> None:
    path = f"/api/v1/runs/{run.id}/candidates/5/recipe"

    problem(client.get(path, headers={"accept": "image/png"}), 406, "not-acceptable")
    problem(client.get(f"{path}?format=pickle"), 422, "invalid")


def test_the_best_recipe_is_a_redirect_to_the_winner(client: TestClient, run: ScriptedRun) -> None:
    best = client.get(f"/api/v1/runs/{run.id}/best/recipe?objective=math", follow_redirects=False)
    run.finish()
    winner = client.get(f"/api/v1/runs/{run.id}/best/recipe?format=json", follow_redirects=False)

    assert (best.status_code, winner.status_code) == (307, 307)
    assert best.headers["location"].endswith("/candidates/6/recipe")
    assert winner.headers["location"].endswith("/candidates/5/recipe?format=json")


def test_the_front_has_its_members_and_hypervolume(client: TestClient, run: ScriptedRun) -> None:
    front = client.get(f"/api/v1/runs/{run.id}/front").json()

    assert [one["number"] for one in front["members"]] == [5, 6]
    assert front["hypervolume"] == pytest.approx(0.3 * 0.8 + 0.4 * 0.7)
    chances = {one["number"]: one["probability"] for one in front["chances"]}
    assert chances[5] > 0.9
    assert chances[6] > 0.5
    assert 4 not in chances, "0.4, 0.4 is behind 0.7, 0.7 by more than its errors"


def test_elites_are_the_best_at_each_objective_for_each_level_of_the_other(
    client: TestClient, run: ScriptedRun
) -> None:
    elites = client.get(f"/api/v1/runs/{run.id}/elites?bins=2").json()
    rows = {one: {name: score["mean"] for name, score in row.scores.items()} for one, row in run.rows.items()}
    ja, math = elites["grids"]

    assert (elites["bins"], ja["quality"], [axis["objective"] for axis in ja["axes"]]) == (2, "ja", ["math"])
    assert [cell["number"] for cell in ja["cells"]] == [3, 5]
    assert [cell["number"] for cell in math["cells"]] == [6, 5]
    for grid in (ja, math):
        assert grid["coverage"] == 1.0
        assert all(cell["quality"] == rows[cell["number"]][grid["quality"]] for cell in grid["cells"])
        (axis,) = grid["axes"]
        means = [row[axis["objective"]] for row in rows.values() if row]
        assert (axis["low"], axis["high"]) == (min(means), max(means))


@pytest.mark.parametrize("bins", ["0", "101", "many"])
def test_bins_that_make_no_grid_are_refused(client: TestClient, problem: Any, run: ScriptedRun, bins: str) -> None:
    problem(client.get(f"/api/v1/runs/{run.id}/elites?bins={bins}"), 422, "invalid")


def test_points_are_columns_of_one_length(client: TestClient, run: ScriptedRun) -> None:
    points = client.get(f"/api/v1/runs/{run.id}/points").json()

    assert points["number"] == list(range(8))
    assert points["label"][:2] == ["base", "average"]
    assert points["state"] == ["scored"] * 7 + ["failed"]
    assert [n for n, on in zip(points["number"], points["on_front"], strict=True) if on] == [5, 6]
    assert points["scores"]["ja"] == [0.2, 0.4, 0.5, 0.6, 0.4, 0.7, 0.3, None]
    assert {len(column) for column in (*points["scores"].values(), *points["se"].values())} == {8}


def test_points_follow_the_run_without_reading_it_anew(client: TestClient, run: ScriptedRun) -> None:
    before = client.get(f"/api/v1/runs/{run.id}/points").json()
    number = run.propose()
    run.start(number)
    running = client.get(f"/api/v1/runs/{run.id}/points").json()
    run.score(number, (0.95, 0.95))
    after = client.get(f"/api/v1/runs/{run.id}/points").json()

    assert before["number"] + [number] == after["number"]
    assert (running["state"][-1], after["state"][-1]) == ("running", "scored")
    assert after["on_front"] == [False] * 8 + [True]
    assert after["last_seq"] > running["last_seq"] > before["last_seq"]


def test_history_grows_with_the_front(client: TestClient, run: ScriptedRun) -> None:
    history = client.get(f"/api/v1/runs/{run.id}/history").json()

    assert history["scored"] == [1, 2, 4, 5]
    assert history["best"]["ja"] == [0.5, 0.6, 0.7, 0.7]
    assert history["hypervolume"] == sorted(history["hypervolume"])
    assert len(history["seq"]) == 4
