"""Whole searches over generated answers: code, a judge, languages, lengths; and what is refused before they begin."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import InvalidInputError
from evomerge.run.spec import RunSpec
from evomerge.storage.sql import open_store
from fitness.sandbox import unsupported
from tests.workers.tiny_run import events_of, make_registry, run_spec, whole_run
from workers.controller import Controller
from workers.drive import ControllerSettings
from workers.memory import evaluator_of
from workers.pools import make_pool
from workers.registry import Registry
from workers.setup import prepare

TEMPLATE = "{question}{answer} Right?"


def registry_of(folder: Path) -> Registry:
    """The tiny models and an eval set that asks for text."""
    registry = make_registry(folder)
    answering = {"extract": "continuation", "max_new_tokens": 4, "tests": "pass", "language": "en"}
    lines = [
        {
            "id": f"say-{n}",
            "context": f"x{n} = {n}\n",
            "split": "search" if n % 2 else "holdout",
            "answering": answering,
        }
        for n in range(12)
    ]
    (folder / "say.jsonl").write_text("\n".join(map(json.dumps, lines)))
    models = {alias: str(place) for alias, place in registry.models.items()}
    return Registry.of(models, {"say": str(folder / "say.jsonl")}, folder)


def asked(*metrics: str, **changes: Any) -> dict[str, Any]:
    objectives = [
        {"name": name.replace(":", "-"), "eval_sets": ["say"], "metric": name,
         "direction": "minimize" if name == "answer_tokens" else "maximize"}
        for name in metrics
    ]  # fmt: skip
    optimizer = (
        {"name": "nsga2", "options": {}} if len(metrics) > 1 else {"name": "cma_es", "options": {"population": 4}}
    )
    return run_spec(objectives=objectives, optimizer=optimizer, budget={"candidates": 4}, verify={"top": 1}) | changes


@pytest.mark.skipif(bool(unsupported()), reason="needs Linux on x86-64 with Landlock and seccomp")
def test_a_search_over_code_judgement_language_and_length(tmp_path: Path) -> None:
    registry = registry_of(tmp_path)
    spec = asked("code_passes", "judge", "language_match", "answer_tokens")
    spec |= {"judge": {"model": "math", "template": TEMPLATE, "dtype": "float32"}}
    store = open_store(f"sqlite:///{tmp_path / 'run.sqlite3'}")
    run = store.create_run(spec, "answers")[0].id
    settings = ControllerSettings(cache=tmp_path / "cache", lease_s=5.0, poll_s=0.05, allow_code=True)
    controller = Controller(store, registry, make_pool, settings)
    lease = store.acquire(controller.owner, 5.0, run)
    assert lease is not None
    controller.drive(lease, threading.Event())
    row = store.run(run)
    assert row is not None
    scored = [event.data["scores"] for event in events_of(store, run) if event.type == "candidate.scored"]

    assert row.state == "succeeded"
    assert scored
    for scores in scored:
        assert set(scores) == {"code_passes", "judge", "language_match", "answer_tokens"}
        assert 0 < scores["judge"]["mean"] < 1
        assert 0 < scores["answer_tokens"]["mean"] <= 4


def test_two_judges_of_one_search_say_different_things_and_are_told_apart(tmp_path: Path) -> None:
    registry = registry_of(tmp_path)
    judges = {
        "kind": {"model": "math", "template": TEMPLATE, "dtype": "float32"},
        "short": {"model": "math", "template": "{answer} Enough?", "dtype": "float32"},
    }
    spec = asked("judge:kind", "judge:short", judges=judges)
    store, run = whole_run(tmp_path, registry, spec)
    row = store.run(run)
    scored = [event.data["scores"] for event in events_of(store, run) if event.type == "candidate.scored"]
    search = prepare(RunSpec.model_validate(spec), registry, tmp_path / "cache")
    other = replace(search.worker.judges["judge:short"], template="{answer} Short?")
    again = replace(search.worker, judges=search.worker.judges | {"judge:short": other})
    prints = [
        evaluator_of(worker, "cpu", metrics).fingerprint
        for metrics in (["judge:kind", "judge:short"], ["judge:kind"])
        for worker in (search.worker, again)
    ]

    assert row is not None
    assert row.state == "succeeded"
    assert scored
    for scores in scored:
        assert 0 < scores["judge-kind"]["mean"] != scores["judge-short"]["mean"] > 0
    assert prints[0] != prints[1]
    assert prints[2] == prints[3] != prints[0], "a judge that nobody asks changes no answer"
    store.close()


@pytest.mark.parametrize(
    ("metrics", "changes", "field", "allowed"),
    [
        (("code_passes",), {}, r"objectives\.0\.metric", "EVOMERGE_ALLOW_CODE=true"),
        (("finished",), {"verify": {"metrics": ["code_passes"]}}, r"verify\.metrics\.0", "EVOMERGE_ALLOW_CODE=true"),
        (("judge",), {}, r"objectives\.0\.metric", "under `judge`"),
        (("judge",), {"judge": {"model": "nobody", "template": TEMPLATE}}, r"judge\.model", "math"),
        (("judge:kind",), {"judge": {"model": "math", "template": TEMPLATE}}, r"objectives\.0\.metric", "judges.kind"),
        (("judge:",), {}, r"objectives\.0\.metric", "accuracy"),
        (
            ("judge:kind",),
            {"judges": {"kind": {"model": "nobody", "template": TEMPLATE}}},
            r"judges\.kind\.model",
            "math",
        ),
        (("exact_match",), {}, r"objectives\.0\.metric", "references, which 12 items"),
    ],
)
def test_what_is_refused_before_the_search(
    tmp_path: Path, metrics: tuple[str, ...], changes: dict[str, Any], field: str, allowed: str
) -> None:
    registry, spec = registry_of(tmp_path), RunSpec.model_validate(asked(*metrics, **changes))

    with pytest.raises(InvalidInputError, match=rf"(?s){field}.*{allowed}"):
        prepare(spec, registry, tmp_path / "cache")


@pytest.mark.parametrize(
    "judge", [{"model": "math", "template": "Right?"}, {"model": "m", "template": "{answer}", "no": " yes"}]
)
def test_a_judge_that_cannot_judge_is_refused(judge: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="judge"):
        RunSpec.model_validate(asked("judge", judge={"model": "math"} | judge))
