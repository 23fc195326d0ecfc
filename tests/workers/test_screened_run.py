"""Searches that learn which items tell most, and tell their optimizer more than the items' mean: tiny real models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import InvalidInputError
from evomerge.run.spec import RunSpec
from evomerge.storage.store import Store
from tests.workers.tiny_run import drive, drive_until, events_of, run_spec, whole_run
from workers.item_reports import item_reports
from workers.judge import Judge
from workers.registry import Registry
from workers.replay import replay
from workers.setup import prepare


def spec(**subset: Any) -> dict[str, Any]:
    """So many elites that the bank soon allows a model."""
    return run_spec(
        space={"kind": "parameter", "method": "task_arithmetic", "weight": [-6.0, 6.0]},
        optimizer={"name": "cma_es", "options": {"population": 4}},
        budget={"candidates": 36},
        subset={"elites": 3, "elites_share": 10.0, "policy": "hybrid", "race": []} | subset,
    )


@pytest.fixture(scope="module")
def screened(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, str]]:
    store, run = whole_run(tmp_path_factory.mktemp("screened"), registry, spec())
    yield store, run
    store.close()


def told_of(store: Store, run: str) -> dict[int, Any]:
    return {e.data["number"]: e.data["told"] for e in events_of(store, run) if "told" in e.data}


def chosen_of(store: Store, run: str) -> dict[int, list[str]]:
    found = [e.data for e in events_of(store, run) if e.type == "subset.chosen"]
    return {data["generation"]: data["eval_sets"]["sums"] for data in found}


def test_optimizers_are_told_other_numbers_than_people_once_the_bank_is_large_enough(
    screened: tuple[Store, str], registry: Registry
) -> None:
    store, run = screened
    told = told_of(store, run)

    assert told
    for number, scores in told.items():
        row = store.candidate(run, number)
        assert row is not None
        assert scores["skill"]["mean"] != row.scores["skill"]["mean"]
        assert scores["skill"]["se"] <= row.scores["skill"]["se"]
    assert replay(store, run, registry).state == "succeeded"


def test_every_candidate_of_a_generation_answers_the_chosen_items(screened: tuple[Store, str]) -> None:
    store, run = screened
    chosen = chosen_of(store, run)
    rows = [store.candidate(run, e.data["number"]) for e in events_of(store, run) if e.type == "candidate.scored"]

    assert chosen
    assert all(len(ids) == 5 for ids in chosen.values())
    for row in rows:
        assert row is not None
        assert set(chosen.get(row.generation, ())) <= set(row.responses["subset"]["sums"]["item_ids"])
        assert row.kind == "baseline" or row.scores["skill"]["n"] in (8, 24)


def test_a_resumed_run_asks_and_tells_the_same(
    screened: tuple[Store, str], store: Store, registry: Registry, tmp_path: Path
) -> None:
    run = store.create_run(spec(), "tiny")[0].id
    for enough in (90, 130, 170):
        drive_until(store, registry, tmp_path / "cache", run, enough)
    drive(store, registry, tmp_path / "cache", run)

    assert chosen_of(store, run) == chosen_of(*screened)
    assert told_of(store, run) == told_of(*screened)


def test_unbiased_screening_tells_what_is_reported(registry: Registry, tmp_path: Path) -> None:
    store, run = whole_run(tmp_path, registry, spec(screening="unbiased", policy="stratified"))

    assert told_of(store, run) == {}
    assert chosen_of(store, run) == {}
    store.close()


def test_a_run_may_be_told_what_merge3_tells_and_still_reports_what_the_sample_says(
    registry: Registry, tmp_path: Path
) -> None:
    objective = {"name": "skill", "eval_sets": ["sums"], "metric": "accuracy", "items": 8}
    asked = spec(screening="gmp_irt", policy="random", rotate=False, bank=False, elites=None)
    asked |= {"objectives": [objective], "budget": {"candidates": 12}}
    store, run = whole_run(tmp_path, registry, asked)
    again = store.create_run(asked, "tiny")[0].id
    drive_until(store, registry, tmp_path / "cache", again, 50)
    drive(store, registry, tmp_path / "cache", again)
    told = told_of(store, run)
    rows = [store.candidate(run, number) for number in told]

    assert len(told) >= 10
    assert {row.kind for row in rows if row is not None} == {"search"}
    assert all(told[row.number]["skill"]["se"] == row.scores["skill"]["se"] for row in rows if row is not None)
    assert told_of(store, again) == told
    assert replay(store, run, registry).state == "succeeded"
    store.close()


def test_an_optimizer_that_reads_single_answers_has_no_use_for_a_published_score(
    registry: Registry, tmp_path: Path
) -> None:
    asked = spec(screening="gmp_irt", policy="random") | {
        "objectives": [{"name": "skill", "eval_sets": ["sums"], "metric": "accuracy", "items": 8}],
        "space": {"kind": "parameter", "method": "task_arithmetic", "search": {"weight": [0.0, 0.5, 1.0]}},
        "optimizer": {"name": "thompson"},
    }
    search = prepare(RunSpec.model_validate(asked), registry, tmp_path / "cache")

    with pytest.raises(InvalidInputError, match=r"subset.screening.*gmp_irt.*auto or unbiased: thompson"):
        search.optimizer()


def test_a_second_run_begins_with_the_bank_of_the_first(
    screened: tuple[Store, str], registry: Registry, tmp_path: Path
) -> None:
    store, _ = screened
    run = store.create_run(spec() | {"seed": 6}, "tiny")[0].id
    drive(store, registry, tmp_path / "cache", run)
    alone = store.create_run(spec(bank=False) | {"seed": 6}, "tiny")[0].id
    drive(store, registry, tmp_path / "cache", alone)

    assert min(chosen_of(store, run)) == 1
    assert min(chosen_of(store, alone)) > 1
    baselines = [e.data for e in events_of(store, run) if e.type == "candidate.scored" and e.data["kind"] == "baseline"]
    assert sum(data["items"] for data in baselines) == 0, "they have answered before"


def asked_of(store: Store, run: str) -> dict[int, list[str]]:
    """Number → what a candidate's generation asked it."""
    numbers = [e.data["number"] for e in events_of(store, run) if e.type == "candidate.scored"]
    rows = [store.candidate(run, number) for number in numbers]
    return {row.number: sorted(row.responses["subset"]["sums"]["item_ids"]) for row in rows if row is not None}


def test_items_shared_out_by_neymans_rule_follow_what_merges_answered_and_survive_a_restart(
    registry: Registry, tmp_path: Path
) -> None:
    objective = {"name": "skill", "eval_sets": ["sums"], "metric": "accuracy", "items": 8}
    asked = spec(policy="parent_neyman", bank=False) | {"objectives": [objective], "budget": {"candidates": 12}}
    store, run = whole_run(tmp_path, registry, asked)
    again = store.create_run(asked, "tiny")[0].id
    drive_until(store, registry, tmp_path / "cache", again, 50)
    drive(store, registry, tmp_path / "cache", again)
    shares = [
        [e.data["deviations"]["sums"] for e in events_of(store, one) if e.type == "subset.chosen"]
        for one in (run, again)
    ]
    scored = [store.candidate(run, number) for number in asked_of(store, run) if number > 3]

    assert shares[0] == shares[1]
    assert set(shares[0][0]) == {"wrong", "divided", "right"}
    assert shares[0][-1] != shares[0][0], "elites answered everything"
    assert asked_of(store, run) == asked_of(store, again)
    assert {row.scores["skill"]["n"] for row in scored if row is not None} == {8}
    assert replay(store, run, registry).state == "succeeded"
    store.close()


@pytest.mark.parametrize("policy", ["parent_neyman", "adaptive"])
def test_fixed_items_are_settled_by_the_baselines_and_survive_a_restart(
    screened: tuple[Store, str], registry: Registry, tmp_path: Path, policy: str
) -> None:
    store, _ = screened
    objective = {"name": "skill", "eval_sets": ["sums"], "metric": "accuracy", "items": 8}
    subset = {"policy": policy, "rotate": False, "elites": 4}
    asked = spec(**subset) | {"objectives": [objective], "budget": {"candidates": 12}, "seed": 9}
    whole, again = (store.create_run(asked, "tiny")[0].id for _ in range(2))
    drive(store, registry, tmp_path / "cache", whole)
    drive_until(store, registry, tmp_path / "cache", again, 60)
    drive(store, registry, tmp_path / "cache", again)
    found = asked_of(store, whole)
    chosen = [e.data for e in events_of(store, whole) if e.type == "subset.chosen"]

    assert len({tuple(ids) for number, ids in found.items() if number > 3}) == 1
    assert len(chosen) <= 1
    assert all(data["generation"] == 0 for data in chosen)
    assert policy == "adaptive" or chosen[0]["deviations"]["sums"].keys() == {"wrong", "divided", "right"}
    assert found == asked_of(store, again)
    assert replay(store, again, registry).state == "succeeded"


def test_old_events_that_name_no_policy_are_read(
    screened: tuple[Store, str], registry: Registry, tmp_path: Path
) -> None:
    store, run = screened
    events = events_of(store, run)
    search = prepare(RunSpec.model_validate(spec()), registry, tmp_path / "cache")
    old = [
        replace(e, data={k: v for k, v in e.data.items() if k != "policies"}) if e.type == "subset.chosen" else e
        for e in events
    ]
    Judge(search).recall(old)
    chosen = chosen_of(store, run)

    assert all(set(ids) <= set(search.plan.items(generation)["sums"]) for generation, ids in chosen.items())
    assert {e.data["policies"]["sums"] for e in events if e.type == "subset.chosen"} == {"hybrid"}


def test_chosen_items_say_whether_the_bank_still_fits_the_drawn_ones(registry: Registry, tmp_path: Path) -> None:
    objective = {"name": "skill", "eval_sets": ["sums"], "metric": "choice_probability", "items": 12}
    store, run = whole_run(tmp_path, registry, spec() | {"objectives": [objective]})
    row = store.run(run)
    assert row is not None
    (found,) = item_reports(store, row, registry)
    chosen = chosen_of(store, run)
    store.close()

    assert found.report is not None, found.why
    assert chosen
    assert {one.generation for one in found.report.drift} == set(chosen)
    assert {one.items for one in found.report.drift} == {5}


def test_a_resumed_run_draws_in_the_strata_of_the_bank_that_it_began_with(
    screened: tuple[Store, str], registry: Registry, tmp_path: Path
) -> None:
    store, _ = screened
    asked = spec(policy="informed", elites=None) | {"seed": 8, "budget": {"candidates": 12}, "verify": {"top": 1}}
    whole, again = (store.create_run(asked, "tiny")[0].id for _ in range(2))
    drive(store, registry, tmp_path / "cache", whole)
    drive_until(store, registry, tmp_path / "cache", again, 40)
    drive(store, registry, tmp_path / "cache", again)

    assert asked_of(store, again) == asked_of(store, whole)
