"""Whole searches over paths, on tiny real models: found, replayed, exported, loaded by plain transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from api.cli import app
from evomerge.recipe.path import Hop, LayerPath
from evomerge.recipe.schema import NO_MERGE, ModelRef, Recipe
from evomerge.recipe.text import dump_yaml
from evomerge.storage.store import Store
from fitness.answers import normalise
from fitness.generation import GenerationScorer
from fitness.items import Item, load_eval_set
from fitness.scorer import make_scorer
from tests.workers.tiny_run import BASELINES, counted_once, events_of, make_registry, run_spec, whole_run
from workers.registry import Registry
from workers.replay import replay

SPACES: dict[str, dict[str, Any]] = {
    "indicator": {"kind": "data_flow", "repeats": 2, "max_hops": 6},
    "blocks": {"kind": "data_flow", "encoding": "blocks", "repeats": 3, "semantics": "delta", "scales": [0.0, 1.5]},
    "hybrid": {"kind": "hybrid", "merge": {"weight": [-0.5, 1.5]}, "path": {"repeats": 1, "scales": [-1.5, 1.5]}},
}


def searched(folder: Path, **changes: Any) -> tuple[Store, str, Registry]:
    registry = make_registry(folder)
    spec = run_spec(**{"optimizer": {"name": "auto"}, "budget": {"candidates": 16}, **changes})
    store, run = whole_run(folder, registry, spec)
    row = store.run(run)
    assert row is not None
    assert (row.state, row.summary["failed"]) == ("succeeded", 0), row.reason
    return store, run, registry


def holdout_answers(store: Store, run: str, number: int, eval_set: str, metric: str) -> dict[str, float]:
    row = store.candidate(run, number)
    assert row is not None
    found = row.responses["holdout"][eval_set]
    return dict(zip(found["item_ids"], found["values"][metric], strict=True))


def plain_answers(model: Path, items: Path, ids: list[str], metric: str) -> list[float]:
    """What transformers' own model class answers, with no code of ours in the model."""
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    outcome = make_scorer(loaded, tokenizer).score(load_eval_set("set", items).pick(tuple(ids)))
    return list(outcome.values[metric])  # type: ignore[union-attr]


def export(recipe: Recipe, out: Path) -> Path:
    """As a person does it."""
    file = out.with_suffix(".yaml")
    file.write_text(dump_yaml(recipe), encoding="utf-8")
    done = CliRunner().invoke(app, ["merge", str(file), str(out)])
    assert done.exit_code == 0, done.output
    return out


def winner(store: Store, run: str) -> tuple[int, Recipe]:
    row = store.run(run)
    assert row is not None
    number = row.summary["result"]["winner"]
    candidate = store.candidate(run, number)
    assert candidate is not None
    return number, Recipe.model_validate(candidate.recipe)


@pytest.mark.parametrize("name", SPACES)
def test_what_a_search_finds_is_an_ordinary_checkpoint_with_the_same_answers(name: str, tmp_path: Path) -> None:
    store, run, registry = searched(tmp_path, space=SPACES[name])

    assert counted_once(events_of(store, run))
    assert replay(store, run, registry).candidates == 16
    recipes = [store.candidate(run, number) for number in range(len(BASELINES), len(BASELINES) + 16)]
    assert len({row.digest for row in recipes if row is not None}) > 8
    number, recipe = winner(store, run)
    export(recipe, tmp_path / "out")
    answers = holdout_answers(store, run, number, "sums", "choice_probability")
    found = plain_answers(tmp_path / "out", tmp_path / "sums.jsonl", list(answers), "choice_probability")
    np.testing.assert_allclose(found, list(answers.values()), atol=1e-4)


def test_generated_answers_of_a_path_are_those_of_its_export(tmp_path: Path) -> None:
    """Token by token, with the cache of keys and values: a layer that is visited twice has two places in it."""
    registry = make_registry(tmp_path)
    models = {name: str(place) for name, place in registry.models.items()}
    hops = [("base", 0, 1.0), ("math", 1, 0.9), ("ja", 0, 1.0), ("math", 1, 1.2), ("base", 1, 0.8)]
    path = LayerPath(layers=tuple(Hop(model=m, layer=n, scale=s) for m, n, s in hops))
    sources = {name: ModelRef(location=models[name]) for name in ("ja", "math")}
    near = Recipe(
        base=ModelRef(location=models["base"]), sources=sources, merge=NO_MERGE, path=path, dtype="float32", seed=5
    )
    said = _said(export(near, tmp_path / "near"), [f"say {n}:" for n in range(16)])
    lines = [
        {"id": f"{n}", "context": context, "references": [answer if n % 2 else "something else"]}
        for n, (context, answer) in enumerate(said.items())
    ]  # fmt: skip
    (tmp_path / "say.jsonl").write_text("\n".join(map(json.dumps, lines)))
    objective = {"name": "skill", "eval_sets": ["say"], "metric": "exact_match"}
    spec = run_spec(
        space=SPACES["indicator"] | {"max_hops": 8},
        objectives=[objective],
        budget={"candidates": 2},
        verify={"top": 1, "holdout": False},
        optimizer={"name": "catcma"},
        seeds=[near.model_dump(mode="json", by_alias=True)],
    )

    store, run = whole_run(tmp_path, Registry.of(models, {"say": "say.jsonl"}, tmp_path), spec)

    row = store.candidate(run, len(BASELINES) + 1)  # after the start
    assert row is not None
    assert Recipe.model_validate(row.recipe).path == path
    answers = row.responses["subset"]["say"]
    assert len(answers["item_ids"]) >= 8
    assert answers["values"]["exact_match"] == [float(int(n) % 2) for n in answers["item_ids"]]


def _said(model: Path, contexts: list[str]) -> dict[str, str]:
    """Context → greedy answer of plain transformers; without those that say nothing."""
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    scorer = GenerationScorer(loaded, tokenizer)
    answers = scorer.answers([Item(context, context, references=("-",)) for context in contexts])
    assert isinstance(answers, list)
    return {context: answer for context, answer in zip(contexts, answers, strict=True) if normalise(answer)}


def test_what_one_search_found_is_a_model_of_the_next(tmp_path: Path) -> None:
    """Two stages: the parameter space's result, a recipe file, takes part in a search over paths."""
    first, run, registry = searched(tmp_path / "one", budget={"candidates": 6})
    _, merged = winner(first, run)
    (tmp_path / "merged.yaml").write_text(dump_yaml(merged), encoding="utf-8")
    registry = Registry({**registry.models, "merged-one": tmp_path / "merged.yaml"}, registry.eval_sets)
    spec = run_spec(
        models={"base": "base", "sources": {"math": "math", "mix": "merged-one"}},
        space={"kind": "data_flow", "models": ["base", "mix", "math"], "repeats": 1},
        optimizer={"name": "catcma"},
    )

    store, run = whole_run(tmp_path, registry, spec)

    row = store.run(run)
    assert row is not None
    assert (row.state, row.summary["failed"]) == ("succeeded", 0), row.reason
    replay(store, run, registry)
    visiting = [
        recipe
        for number in range(4, 16)
        if (candidate := store.candidate(run, number)) is not None
        and (recipe := Recipe.model_validate(candidate.recipe)).path is not None
        and "mix" in recipe.path.models
    ]
    assert visiting
    number, recipe = winner(store, run)
    export(recipe, tmp_path / "out")
    answers = holdout_answers(store, run, number, "sums", "choice_probability")
    found = plain_answers(tmp_path / "out", tmp_path / "one" / "sums.jsonl", list(answers), "choice_probability")
    np.testing.assert_allclose(found, list(answers.values()), atol=1e-4)
