"""Whole searches on tiny real models: the controller with the local pool and a store in a file."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from evomerge.merge.execute import merge_to_directory
from evomerge.recipe.schema import Recipe
from evomerge.storage.store import CandidateQuery, Store
from tests.workers import tiny_run
from tests.workers.tiny_run import BASELINES, run_spec
from workers.controller import Controller
from workers.drive import ControllerSettings
from workers.job import Job, JobResult, WorkerSpec
from workers.local import LocalPool
from workers.registry import Registry


def ended(store: Store, registry: Registry, tmp_path: Path, **changes: Any) -> tuple[str, str | None]:
    """State and reason of a fresh run of a changed spec, driven to its end."""
    run = store.create_run(run_spec(**changes), "tiny")[0].id
    tiny_run.drive(store, registry, tmp_path / "cache", run)
    row = store.run(run)
    assert row is not None
    return row.state, row.reason


def test_a_search_ends_with_a_verified_winner_beside_every_baseline(whole: tuple[Store, str]) -> None:
    store, run = whole
    row = store.run(run)
    assert row is not None
    result = row.summary["result"]

    assert row.state == "succeeded"
    assert [r["label"] for r in result["table"]] == ["", *BASELINES]
    assert all(r["holdout"]["skill"]["n"] == 24 for r in result["table"])
    assert {p["against"] for p in result["paired"]} == set(BASELINES)
    assert result["winner"] >= len(BASELINES)


def test_what_the_search_believed_of_its_winner_is_compared_with_all_search_items(whole: tuple[Store, str]) -> None:
    store, run = whole
    events = [(event.type, event.data) for event in tiny_run.events_of(store, run)]
    (result,) = [data for kind, data in events if kind == "run.result"]
    asked = next(data for kind, data in events if kind == "verification.started" and data["task"] == "search")
    reviews = [data for kind, data in events if kind == "belief.updated"]

    believed, told = asked["believed"][str(result["winner"])]["skill"], result["inflation"]["skill"]
    assert (told["believed"], told["se"]) == (believed["mean"], believed["se"])
    assert told["difference"] == told["believed"] - told["verified"]
    row = store.run(run)
    assert row is not None
    assert row.summary["believed"] == reviews[-1]["best"]


def test_every_candidate_is_counted_once(whole: tuple[Store, str]) -> None:
    store, run = whole

    assert tiny_run.counted_once(tiny_run.events_of(store, run))
    rows, _ = store.candidates(run, CandidateQuery(kind="search"))
    assert len(rows) == 12


def test_the_stored_front_is_the_archives(whole: tuple[Store, str]) -> None:
    store, run = whole
    row = store.run(run)
    assert row is not None
    rows, _ = store.candidates(run, CandidateQuery(front=True))

    assert sorted(r.number for r in rows) == sorted(row.summary["front"])


def test_candidates_of_one_generation_answer_the_same_items_and_the_next_others(whole: tuple[Store, str]) -> None:
    store, run = whole
    rows = [store.candidate(run, n) for n in range(len(BASELINES), len(BASELINES) + 12)]
    asked: dict[int, set[tuple[str, ...]]] = {}
    for row in rows:
        assert row is not None
        asked.setdefault(row.generation, set()).add(tuple(row.responses["subset"]["sums"]["item_ids"]))

    assert all(len(items) == 1 for items in asked.values())
    assert len(set.union(*asked.values())) == len(asked) > 1


def test_the_winners_recipe_builds_the_model_that_was_scored(whole: tuple[Store, str], tmp_path: Path) -> None:
    from evomerge.merge.resident import Resident

    store, run = whole
    row = store.run(run)
    assert row is not None
    winner = store.candidate(run, row.summary["result"]["winner"])
    assert winner is not None
    recipe = Recipe.model_validate(winner.recipe)
    made = load_file(merge_to_directory(recipe, tmp_path / "merged", root=tmp_path) / "model.safetensors")
    resident = Resident(recipe, cache=tmp_path / "cache")
    resident.materialize(recipe)

    for name, weights in resident.model.state_dict().items():
        assert torch.equal(made[name], weights), name


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    whole: tuple[Store, str], store: Store, registry: Registry, tmp_path: Path
) -> None:
    run = store.create_run(run_spec(), "tiny")[0].id
    for enough in (6, 14, 31):
        tiny_run.drive_until(store, registry, tmp_path / "cache", run, enough)
    state = tiny_run.drive(store, registry, tmp_path / "cache", run)
    events, undisturbed = tiny_run.events_of(store, run), tiny_run.events_of(*whole)

    assert state == "succeeded"
    assert tiny_run.counted_once(events)
    assert tiny_run.genomes_of(events) == tiny_run.genomes_of(undisturbed)
    assert tiny_run.scores_of(events) == tiny_run.scores_of(undisturbed)


def test_a_paused_run_is_nobodys_until_it_is_resumed(store: Store, registry: Registry, tmp_path: Path) -> None:
    run = store.create_run(run_spec(), "tiny")[0].id
    thread = threading.Thread(target=_command_at, args=(store, run, 20, "pause"))
    thread.start()
    paused = tiny_run.drive(store, registry, tmp_path / "cache", run)
    thread.join()

    assert paused == "paused"
    assert store.acquire("another", 5.0) is None
    store.command(run, "resume")
    assert tiny_run.drive(store, registry, tmp_path / "cache", run) == "succeeded"


def test_cancel_ends_a_run_at_once(store: Store, registry: Registry, tmp_path: Path) -> None:
    run = store.create_run(run_spec(budget={"candidates": 1000}), "tiny")[0].id
    thread = threading.Thread(target=_command_at, args=(store, run, 20, "cancel"))
    thread.start()
    state = tiny_run.drive(store, registry, tmp_path / "cache", run)
    thread.join()

    assert state == "cancelled"
    rows, _ = store.candidates(run, CandidateQuery(limit=500))
    assert {r.state for r in rows} <= {"scored", "cancelled"}


def _command_at(store: Store, run: str, seq: int, verb: Any) -> None:
    while (row := store.run(run)) is not None and row.last_seq < seq:
        time.sleep(0.01)
    store.command(run, verb)


def test_a_guard_keeps_candidates_that_lose_too_much_off_the_front(
    store: Store, registry: Registry, tmp_path: Path
) -> None:
    guard = {"name": "keep", "eval_set": "threes", "metric": "choice_probability", "max_drop": 0.0, "items": 8}
    run = store.create_run(run_spec(constraints=[guard]), "tiny")[0].id
    tiny_run.drive(store, registry, tmp_path / "cache", run)
    rows, _ = store.candidates(run, CandidateQuery(kind="search"))

    assert any(r.violation > 0 for r in rows)
    assert all(r.violation == 0 for r in rows if r.on_front)
    assert all("keep" in r.scores for r in rows)


def test_two_objectives_end_with_a_verified_front(store: Store, registry: Registry, tmp_path: Path) -> None:
    objectives = [
        {"name": name, "eval_sets": sets, "metric": "choice_probability", "items": 8}
        for name, sets in (("sums", ["sums"]), ("both", ["sums", "threes"]))
    ]
    run = store.create_run(run_spec(objectives=objectives, budget={"candidates": 20}), "tiny")[0].id
    tiny_run.drive(store, registry, tmp_path / "cache", run)
    row = store.run(run)
    assert row is not None
    result = row.summary["result"]

    assert row.state == "succeeded"
    assert result["winner"] == result["winners"][0]
    assert len(result["table"]) == len(result["winners"]) + len(BASELINES)
    assert all(r["holdout"]["both"]["n"] == 48 for r in result["table"])
    assert {p["objective"] for p in result["paired"]} == {"sums", "both"}


class Backwards(LocalPool):
    """Four jobs at a time, the last one handed over answered first."""

    def __init__(self, spec: WorkerSpec) -> None:
        super().__init__(spec)
        self._held: list[Job] = []

    @property
    def size(self) -> int:
        return 4

    def submit(self, job: Job) -> None:
        self._held.append(job)

    def wait(self, timeout_s: float) -> list[JobResult]:
        if self._held:
            super().submit(self._held.pop())
        return super().wait(60.0 if timeout_s else 0.0)


def test_guards_and_estimates_hold_whatever_order_answers_come_in(
    store: Store, registry: Registry, tmp_path: Path
) -> None:
    guard = {"name": "keep", "eval_set": "threes", "metric": "choice_probability", "max_drop": 0.02, "items": 8}
    run = store.create_run(run_spec(constraints=[guard]), "tiny")[0].id
    settings = ControllerSettings(cache=tmp_path / "cache", lease_s=5.0)
    driver = Controller(store, registry, lambda worker, _: Backwards(worker), settings)
    lease = store.acquire(driver.owner, 5.0, run)
    assert lease is not None
    driver.drive(lease, threading.Event())
    row = store.run(run)
    assert row is not None

    assert (row.state, row.reason) == ("succeeded", None)
    assert tiny_run.counted_once(tiny_run.events_of(store, run))


def test_nan_weights_fail_the_run_and_name_the_source(store: Store, tmp_path: Path) -> None:
    registry = tiny_run.make_registry(tmp_path / "models")
    path = tmp_path / "models" / "math" / "model.safetensors"
    weights = load_file(path)
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    state, reason = ended(store, registry, tmp_path)

    assert state == "failed"
    assert "model.layers.0.mlp.up_proj.weight" in str(reason)
    assert "math" in str(reason)


def test_a_missing_directory_fails_the_run_with_its_path(store: Store, tmp_path: Path) -> None:
    registry = tiny_run.make_registry(tmp_path / "models")
    (tmp_path / "models" / "ja").rename(tmp_path / "models" / "gone")
    state, reason = ended(store, registry, tmp_path)

    assert state == "failed"
    assert "ja" in str(reason)
    assert "Traceback" not in str(reason)


def test_a_model_that_changed_under_a_run_pauses_it(store: Store, tmp_path: Path) -> None:
    registry = tiny_run.make_registry(tmp_path / "models")
    run = store.create_run(run_spec(), "tiny")[0].id
    tiny_run.drive_until(store, registry, tmp_path / "cache", run, 12)
    path = tmp_path / "models" / "math" / "model.safetensors"
    old = path.read_bytes()
    weights = load_file(path)
    weights["model.norm.weight"] += 1
    save_file(weights, path, metadata={"format": "pt"})
    changed = tiny_run.drive(store, registry, tmp_path / "cache", run)
    row = store.run(run)
    assert row is not None

    assert changed == "paused"
    assert "source:math is another model than when this run began" in str(row.reason)
    path.write_bytes(old)
    store.command(run, "resume")
    assert tiny_run.drive(store, registry, tmp_path / "cache", run) == "succeeded"
