"""Answers serve again: within a run, in later runs, and only where they are answers to the same question."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import Connection
from sqlalchemy import event as database
from sqlalchemy.engine import ExceptionContext

from evomerge.recipe.align import AlignByNames
from evomerge.recipe.schema import Merge, ModelRef, Recipe
from evomerge.run.spec import RunSpec
from evomerge.storage.sql import SqlStore
from evomerge.storage.store import CandidateRow, Store
from fitness.fingerprint import Evaluator
from tests.workers import tiny_run
from tests.workers.tiny_run import events_of, run_spec
from workers.job import WorkerSpec
from workers.memory import evaluator_of, subject_of
from workers.registry import Registry
from workers.setup import baseline_recipes, pinned_models


def drive(store: Store, registry: Registry, folder: Path, **changes: object) -> str:
    run = store.create_run(run_spec(**changes), "tiny")[0].id
    assert tiny_run.drive(store, registry, folder / "cache", run) == "succeeded"
    return run


def asked(store: Store, run: str) -> dict[str, int]:
    """Answers that workers gave, by what was asked for: baselines, candidates, all search items, the holdout."""
    counts: dict[str, int] = {}
    for event in events_of(store, run):
        if event.type in ("candidate.scored", "candidate.verified"):
            task = event.data.get("split", event.data["kind"])
            counts[task] = counts.get(task, 0) + event.data["items"]
    return counts


def rows(store: Store, run: str) -> list[CandidateRow]:
    return store.candidates(run)[0]


def test_a_run_keeps_all_answers_that_its_candidates_name(store: Store, registry: Registry, tmp_path: Path) -> None:
    run = drive(store, registry, tmp_path)
    (bank,) = store.banks()
    blocks = store.answers(bank.fingerprint)

    assert kept(store) == named(store, run)
    assert {block.run for block in blocks} == {run}
    assert (bank.eval_set, bank.items, bank.settings["dtype"]) == ("sums", 48, "float32")
    assert set(bank.metrics) >= {"accuracy", "choice_probability", "log_likelihood"}
    for row in rows(store, run):
        for task in row.answers:
            held = row.responses[task]["sums"]
            assert len(held["item_ids"]) == len(held["values"]["accuracy"]) > 0


def test_what_was_answered_on_a_subset_is_not_asked_again(store: Store, registry: Registry, tmp_path: Path) -> None:
    run = drive(store, registry, tmp_path, subset={"elites": None})
    verified = [e.data for e in events_of(store, run) if e.type == "candidate.verified" and e.data["split"] == "search"]
    answered = {row.number: len(row.responses["subset"]["sums"]["item_ids"]) for row in rows(store, run)}

    assert verified
    assert all(data["items"] == 24 - answered[data["number"]] for data in verified)
    assert all(data["scores"]["skill"]["n"] == 24 for data in verified)


def test_the_second_run_asks_baselines_nothing(store: Store, registry: Registry, tmp_path: Path) -> None:
    first = drive(store, registry, tmp_path)
    places = {"b": registry.models["base"], "m": registry.models["math"], "j": registry.models["ja"]}
    renamed = Registry(places, registry.eval_sets)
    models = {"base": "b", "sources": {"other": "m", "names": "j"}}
    second = drive(store, renamed, tmp_path, models=models)
    labels = {row.label: row.number for row in rows(store, second)}
    items = {e.data["number"]: e.data["items"] for e in events_of(store, second) if e.type == "candidate.scored"}
    holdout = {e.data["number"]: e.data["items"] for e in events_of(store, second) if e.type == "candidate.verified"}
    alone = [labels["base"], labels["source:other"], labels["source:names"]]

    assert asked(store, first)["baseline"] > 0
    assert [holdout[number] for number in alone] == [0, 0, 0]
    assert [items[number] for number in alone] == [0, 0, 0]
    before = {row.label: row for row in rows(store, first)}
    after = {row.label: row for row in rows(store, second)}
    assert after["base"].verified == before["base"].verified
    assert after["source:other"].verified == before["source:math"].verified
    assert after["source:other"].digest != before["source:math"].digest


def test_the_same_search_again_asks_nothing_and_finds_the_same(
    store: Store, registry: Registry, tmp_path: Path
) -> None:
    alike = {"policy": "random", "screening": "unbiased"}  # else the second run learns from the first one's answers
    first, second = (drive(store, registry, tmp_path, subset=alike) for _ in range(2))
    blocks = len(store.answers(store.banks()[0].fingerprint))

    assert set(asked(store, second).values()) == {0}
    assert [(r.scores, r.verified, r.answers) for r in rows(store, second)] == [
        (r.scores, r.verified, r.answers) for r in rows(store, first)
    ]
    assert blocks == store.banks()[0].blocks
    assert all("materialize" in row.seconds and row.seconds["materialize"] < 0.01 for row in rows(store, second)[4:])


def test_a_run_can_ask_everything_anew(store: Store, registry: Registry, tmp_path: Path) -> None:
    first = drive(store, registry, tmp_path)
    second = drive(store, registry, tmp_path, subset={"bank": False})

    assert asked(store, second)["baseline"] == asked(store, first)["baseline"]
    assert asked(store, second)["holdout"] == asked(store, first)["holdout"]


def test_an_item_that_changed_is_asked_again_and_one_that_came_new_is_asked(
    store: Store, registry: Registry, tmp_path: Path
) -> None:
    first = drive(store, registry, tmp_path)
    lines = Path(registry.eval_set("sums")).read_text().splitlines()
    changed = json.loads(lines[0]) | {"context": "another question ="}
    grown = tmp_path / "sums.jsonl"
    new = {"id": "new", "context": "1 + 1 =", "choices": [" 2", " 3"], "label": 0, "split": "holdout"}
    grown.write_text("\n".join([json.dumps(changed), *lines[1:], json.dumps(new)]))
    second = drive(store, Registry(registry.models, {"sums": grown}), tmp_path)
    holdout = [
        e.data["items"] for e in events_of(store, second)
        if e.type == "candidate.verified" and e.data["split"] == "holdout" and e.data["kind"] == "baseline"
    ]  # fmt: skip

    assert len(store.banks()) == 1
    assert holdout
    assert set(holdout) == {2}
    assert rows(store, first)[0].responses["holdout"]["sums"]["item_ids"].count("new") == 0


def test_answers_of_other_evaluators_or_without_a_wanted_metric_serve_nobody(
    store: Store, registry: Registry, tmp_path: Path
) -> None:
    first = drive(store, registry, tmp_path)
    second = drive(store, registry, tmp_path, dtype="bfloat16")

    assert len({bank.fingerprint for bank in store.banks()}) == 2
    assert asked(store, second)["baseline"] == asked(store, first)["baseline"]


def test_a_disk_that_is_full_for_a_while_leaves_neither_answers_nor_scores_alone(
    registry: Registry, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'store.sqlite3'}"
    store, reader = SqlStore(url), SqlStore(url)
    begun, pages, found = [0], [0], list[tuple[set[str], set[str]]]()

    @database.listens_for(store._engine, "begin")
    def _fill(connection: Connection) -> None:
        begun[0] += 1
        if begun[0] == 20:  # some candidates are scored
            pages[0] = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        if pages[0]:
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages[0]}")

    @database.listens_for(store._engine, "handle_error")
    def _mend(context: ExceptionContext) -> None:
        assert "full" in str(context.original_exception)
        found.append((kept(reader), named(reader, run)))
        pages[0] = 1_000_000

    run = store.create_run(run_spec(), "tiny")[0].id
    ended = tiny_run.drive(store, registry, tmp_path / "cache", run)
    found.append((kept(reader), named(reader, run)))
    whole = tiny_run.counted_once(events_of(reader, run))
    for one in (store, reader):
        one.close()

    assert (ended, whole, len(found)) == ("succeeded", True, 2)
    assert all(blocks == names for blocks, names in found)
    assert 0 < len(found[0][0]) < len(found[1][0])


def kept(store: Store) -> set[str]:
    return {block.key for bank in store.banks() for block in store.answers(bank.fingerprint)}


def named(store: Store, run: str) -> set[str]:
    return {key for row in rows(store, run) for sets in row.answers.values() for keys in sets.values() for key in keys}


def model(name: str, **more: object) -> Recipe:
    ref = ModelRef(location=f"/{name}", sha256=f"{len(name):064x}")
    base = ModelRef(location="/base", sha256="f" * 64)
    return Recipe(base=base, sources={name: ref}, merge=Merge(method="passthrough"), **more)  # type: ignore[arg-type]


def test_a_model_is_the_same_subject_under_any_name_and_seed() -> None:
    alone = model("math")
    renamed = alone.model_copy(update={"sources": {"x": alone.sources["math"].model_copy(update={"location": "/y"})}})

    assert subject_of(alone) == subject_of(renamed) == subject_of(renamed.model_copy(update={"seed": 7}))
    aligned = {"math": AlignByNames(method="names")}
    others = [
        model("mathematics"),
        model("math", dtype="float16"),
        model("math", align=aligned),
        alone.model_copy(update={"base": ModelRef(location="/b", sha256="0" * 64)}),
    ]
    assert len({subject_of(alone), *map(subject_of, others)}) == 1 + len(others)


def test_random_merges_are_other_subjects_under_other_seeds() -> None:
    ref = {n: ModelRef(location=f"/{n}", sha256=f"{len(n):064x}") for n in ("a", "bb")}

    def merged(method: str, seed: int) -> Recipe:
        return Recipe(base=ref["a"], sources=ref, merge=Merge(method=method), seed=seed)

    assert subject_of(merged("linear", 1)) == subject_of(merged("linear", 2))
    assert subject_of(merged("dare_ties", 1)) != subject_of(merged("dare_ties", 2))


@pytest.mark.parametrize("file", ["tokenizer.json", "config.json", "chat_template.jinja"])
def test_the_fingerprint_tells_how_models_are_asked(registry: Registry, tmp_path: Path, file: str) -> None:
    spec = RunSpec.model_validate(run_spec())
    recipe = pinned_models(spec, registry, check_hashes=False)
    worker = WorkerSpec(recipe, {})
    copy = tmp_path / "base"
    copy.mkdir()
    for one in Path(recipe.base.location).iterdir():
        (copy / one.name).write_bytes(one.read_bytes())
    there = WorkerSpec(recipe.model_copy(update={"base": ModelRef(location=str(copy))}), {}, threads=2, batch_tokens=64)
    same = evaluator_of(worker, "cpu", ["accuracy"]).fingerprint
    assert evaluator_of(there, "cpu", ["margin"]).fingerprint == same
    (copy / file).write_text("{}")

    others = [
        evaluator_of(there, "cpu", ["accuracy"]), evaluator_of(worker, "cuda:1", ["accuracy"]),
        evaluator_of(WorkerSpec(recipe.model_copy(update={"dtype": "float16"}), {}), "cpu", ["accuracy"]),
        evaluator_of(worker, "cpu", ["expert_kl"]),
    ]  # fmt: skip
    assert len({same, *(other.fingerprint for other in others)}) == 1 + len(others)
    assert set(baseline_recipes(spec, recipe)) == set(tiny_run.BASELINES)


def test_every_setting_is_part_of_the_fingerprint() -> None:
    plain = Evaluator("t", "float32", "cpu")
    others = [
        Evaluator("u", "float32", "cpu"), Evaluator("t", "bfloat16", "cpu"), Evaluator("t", "float32", "cuda"),
        Evaluator("t", "float32", "cpu", decoding="sampled"), Evaluator("t", "float32", "cpu", (("judge", "m"),)),
        Evaluator("t", "float32", "cpu", scorer=10**6), Evaluator("t", "float32", "cpu", engine="vllm 1.0"),
    ]  # fmt: skip

    assert len({plain.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)
    assert Evaluator("t", "float32", "cpu").fingerprint == plain.fingerprint
    orders = [(("a", "1"), ("b", "2")), (("b", "2"), ("a", "1"))]
    two = [Evaluator("t", "float32", "cpu", settings=pairs) for pairs in orders]
    assert two[0].fingerprint == two[1].fingerprint
