"""Whole searches that learn from answers to single items, on tiny real models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evomerge.storage.store import Event, Store
from tests.workers.tiny_run import BASELINES, drive, drive_until, events_of, run_spec, whole_run
from workers.registry import Registry
from workers.replay import replay


def spec(**changes: Any) -> dict[str, Any]:
    """Levels, so that `auto` takes `thompson`; four items of 24 a candidate."""
    return (
        run_spec(
            space={"kind": "parameter", "method": "task_arithmetic", "search": {"weight": [0.0, 0.3, 0.6, 0.9]}},
            objectives=[{"name": "skill", "eval_sets": ["sums"], "metric": "choice_probability", "items": 4}],
            optimizer={"name": "auto"},
            budget={"candidates": 24},
        )
        | changes
    )


@pytest.fixture(scope="module")
def by_items(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, str]]:
    store, run = whole_run(tmp_path_factory.mktemp("items"), registry, spec())
    yield store, run
    store.close()


def scored(events: list[Event]) -> list[dict[str, Any]]:
    """Of all candidates, without what a clock says."""
    timed = {"seconds", "elapsed_s", "worker"}
    return [{k: v for k, v in e.data.items() if k not in timed} for e in events if e.type == "candidate.scored"]


def test_answers_to_items_travel_and_beliefs_rest_on_all_of_them(by_items: tuple[Store, str]) -> None:
    store, run = by_items
    events = events_of(store, run)
    rows = {data["number"]: data for data in scored(events)}
    reviews = [e.data for e in events if e.type == "belief.updated"]
    (result,) = [e.data for e in events if e.type == "run.result"]
    told = {n: data["answers"][0] for n, data in rows.items() if "answers" in data}

    assert told.keys() == {BASELINES.index("average"), *range(len(BASELINES), len(BASELINES) + 24)}
    assert len(told[BASELINES.index("average")]["places"]) == 24
    assert all(len(told[n]["places"]) == 4 and told[n]["shares"] == [1 / 24] for n in told if n >= len(BASELINES))
    assert len({tuple(answers["places"]) for answers in told.values()}) > 10  # each its own items
    assert reviews[-1]["best"]["skill"]["se"] > 0
    assert result["inflation"]["skill"]["believed"] is not None
    assert not [e for e in events if e.type == "elites.chosen"]


def test_a_resumed_search_asks_and_believes_the_same_and_follows_from_its_answers(
    by_items: tuple[Store, str], store: Store, registry: Registry, tmp_path: Path
) -> None:
    run = store.create_run(spec(), "tiny")[0].id
    for enough in (30, 60, 80):
        drive_until(store, registry, tmp_path / "cache", run, enough)
    drive(store, registry, tmp_path / "cache", run)
    ours, theirs = events_of(store, run), events_of(*by_items)

    assert scored(ours) == scored(theirs)
    for kind in ("belief.updated", "verification.started", "run.result"):
        assert [e.data for e in ours if e.type == kind] == [e.data for e in theirs if e.type == kind]
    assert replay(store, run, registry).state == "succeeded"


def test_where_all_items_are_asked_there_is_nothing_to_pool(registry: Registry, tmp_path: Path) -> None:
    objectives = [{"name": "skill", "eval_sets": ["sums"], "metric": "choice_probability"}]
    store, run = whole_run(
        tmp_path, registry, spec(objectives=objectives, optimizer={"name": "thompson"}, budget={"candidates": 8})
    )

    assert all("answers" not in data for data in scored(events_of(store, run)))
    row = store.run(run)
    assert row is not None
    assert row.state == "succeeded"
    store.close()
