"""Searches in which candidates run races and elites answer everything: tiny real models, the local pool."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evomerge.run.spec import RunSpec
from evomerge.storage.store import CandidateQuery, Event, Store
from tests.workers.tiny_run import BASELINES, counted_once, events_of, run_spec, whole_run
from workers.registry import Registry
from workers.replay import replay


def spec(**subset: Any) -> dict[str, Any]:
    """Merges that differ much, so that some have no chance."""
    return run_spec(
        objectives=[{"name": "skill", "eval_sets": ["sums"], "metric": "log_likelihood", "items": 12}],
        space={"kind": "parameter", "method": "task_arithmetic", "weight": [-6.0, 6.0]},
        optimizer={"name": "random"},
        budget={"candidates": 40},
        subset={"race": [0.4], "elites": 10, "elites_share": 0.5} | subset,
    )


@pytest.fixture(scope="module")
def raced(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, str]]:
    store, run = whole_run(tmp_path_factory.mktemp("raced"), registry, spec())
    yield store, run
    store.close()


def of_type(store: Store, run: str, kind: str) -> list[Event]:
    return [event for event in events_of(store, run) if event.type == kind]


def test_some_candidates_stop_and_their_errors_say_so(raced: tuple[Store, str]) -> None:
    store, run = raced
    rows = {row.number: row for row in store.candidates(run, CandidateQuery(kind="search"))[0]}
    stopped = {e.data["number"] for e in of_type(store, run, "candidate.scored") if "stopped" in e.data}
    row = store.run(run)
    assert row is not None

    assert stopped
    assert all(rows[n].scores["skill"]["n"] == 5 for n in stopped)
    assert all(rows[n].scores["skill"]["n"] == 12 for n in rows.keys() - stopped)
    assert not stopped & {*row.summary["winners"], *row.summary["front"]}
    asked = sum(e.data["items"] for e in of_type(store, run, "candidate.scored") if e.data["kind"] == "search")
    known = [e.data for e in of_type(store, run, "candidate.verified") if e.data["split"] == "search"]
    elites = sum(data["items"] for data in known if data["number"] in elite(raced))
    assert row.summary["items"] == asked + elites < 40 * 12 + elites


def elite(raced: tuple[Store, str]) -> set[int]:
    return {n for event in of_type(*raced, "elites.chosen") for n in event.data["numbers"]}


def test_elites_are_known_exactly_before_the_search_ends(raced: tuple[Store, str]) -> None:
    store, run = raced
    events = events_of(store, run)
    verifying = next(e.seq for e in events if e.type == "run.state" and e.data["state"] == "verifying")
    known = {e.data["number"] for e in events if e.type == "candidate.verified" and e.seq < verifying}
    again = next(e.data["numbers"] for e in events if e.type == "verification.started")

    assert known == elite(raced)
    assert known
    assert min(known) >= len(BASELINES)
    assert not known & set(again)
    for number in known:
        row = store.candidate(run, number)
        assert row is not None
        assert row.verified["search"]["skill"]["n"] == 24


def test_what_elites_cost_stays_within_their_share(raced: tuple[Store, str]) -> None:
    asked = sum(e.data["items"] for e in of_type(*raced, "candidate.scored") if e.data["kind"] == "search")

    assert 24 * len(elite(raced)) <= 0.5 * asked + 24


def test_the_run_follows_from_its_spec_and_counts_everybody_once(raced: tuple[Store, str], registry: Registry) -> None:
    store, run = raced

    assert counted_once(events_of(store, run))
    assert replay(store, run, registry).state == "succeeded"


def test_without_races_and_elites_everybody_answers_the_same_number(registry: Registry, tmp_path: Path) -> None:
    store, run = whole_run(tmp_path, registry, spec(race=[], elites=None))

    assert not of_type(store, run, "elites.chosen")
    assert {row.scores["skill"]["n"] for row in store.candidates(run, CandidateQuery(kind="search"))[0]} == {12}
    store.close()


@pytest.mark.parametrize("race", [[0.5, 0.25], [0.5, 0.5], [1.0], [0.0]])
def test_shares_that_make_no_race_are_refused(race: list[float]) -> None:
    with pytest.raises(ValueError, match="race"):
        RunSpec.model_validate(spec(race=race))
