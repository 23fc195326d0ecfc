"""Costs as objectives and limits: counted without a worker, shown wherever scores are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import InvalidInputError
from evomerge.merge.flow.cost import cost_of
from evomerge.models.weights import read_json
from evomerge.recipe.schema import Recipe
from evomerge.recipe.text import validate
from evomerge.run.spec import COSTS, RunSpec
from fitness.metrics import METRICS
from tests.workers.tiny_run import events_of, make_registry, run_spec, whole_run
from workers.costs import Costs
from workers.setup import prepare

SKILL = {"name": "skill", "eval_sets": ["sums"], "metric": "choice_probability", "items": 8}
FLOPS = {"name": "cost", "metric": "flops_per_token", "direction": "minimize"}
SPACE = {"kind": "data_flow", "repeats": 2, "max_hops": 5}


def test_a_cost_is_objective_and_limit_from_the_first_candidate_to_the_report(tmp_path: Path) -> None:
    spec = run_spec(
        space=SPACE,
        objectives=[SKILL, FLOPS],
        constraints=[{"name": "small", "metric": "layers", "max": 3}],
        optimizer={"name": "random"},
        budget={"candidates": 14},
    )
    store, run = whole_run(tmp_path, make_registry(tmp_path), spec)
    config = read_json(tmp_path / "base" / "config.json")
    row = store.run(run)
    assert row is not None
    assert row.state == "succeeded"
    layers = set()

    for event in [e.data for e in events_of(store, run) if e.type == "candidate.scored"]:
        candidate = store.candidate(run, event["number"])
        assert candidate is not None
        cost = cost_of(Recipe.model_validate(candidate.recipe), config)
        layers.add(cost.layers)
        assert event["scores"]["cost"] == {"mean": cost.flops_per_token, "se": 0.0, "n": 0}
        assert event["violation"] == pytest.approx(max(0.0, cost.layers / 3 - 1))
    assert max(layers) > 3
    front = [store.candidate(run, number) for number in row.summary["front"]]
    assert front
    assert all(one is not None and one.violation == 0 for one in front)
    result = row.summary["result"]
    for line in result["table"]:
        kept = store.candidate(run, line["number"])
        assert kept is not None
        for split in ("search", "holdout"):
            if line[split] is not None:
                mean = kept.scores["cost"]["mean"]
                assert line[split]["cost"] == {"mean": mean, "se": 0.0, "n": 0, "low": mean, "high": mean}
    assert {pair["objective"] for pair in result["paired"]} == {"skill"}
    assert result["inflation"]["cost"]["difference"] == 0


def test_limits_are_missed_by_a_share_of_themselves(tmp_path: Path) -> None:
    registry = make_registry(tmp_path)
    limits = [{"name": "small", "metric": "layers", "max": 1}, {"name": "light", "metric": "parameters", "max": 1e9}]
    search = prepare(RunSpec.model_validate(run_spec(constraints=limits)), registry, tmp_path / "cache")

    scores = search.costs.scores(search.baselines["base"].model_dump())

    assert {name: score.n for name, score in scores.items()} == {"small": 0, "light": 0}
    assert search.costs.violation(scores) == 1.0  # two layers where one is allowed


def test_a_run_without_costs_counts_none() -> None:
    assert Costs(RunSpec.model_validate(run_spec()), {}).scores({}) == {}


def test_costs_and_metrics_have_different_names() -> None:
    assert not set(COSTS) & set(METRICS)


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"objectives": [{"name": "a"}]}, "objectives[0].eval_sets", "which accuracy is measured on"),
        ({"objectives": [SKILL, FLOPS | {"eval_sets": ["sums"]}]}, "objectives[1].eval_sets", "needs no items"),
        ({"objectives": [SKILL, FLOPS | {"items": 8}]}, "objectives[1].items", "needs no items"),
        ({"objectives": [SKILL, {"name": "n", "metric": "layers"}]}, "objectives[1].direction", "minimize"),
        ({"objectives": [FLOPS]}, "objectives", "measured on items, besides costs"),
        ({"constraints": [{"name": "n", "metric": "layers"}]}, "constraints[0].max", "limited by a number"),
        ({"constraints": [{"name": "n", "metric": "layers", "max": 0}]}, "constraints[0].max", "greater than 0"),
        (
            {"constraints": [{"name": "n", "metric": "layers", "max": 3, "max_drop": 0.1}]},
            "constraints[0].max_drop",
            "needs no items",
        ),
        ({"constraints": [{"name": "n", "eval_set": "sums", "max": 3}]}, "constraints[0].max", "only costs have it"),
        ({"constraints": [{"name": "n", "eval_set": "sums"}]}, "constraints[0].max_drop", "compares answers"),
        ({"constraints": [{"name": "n", "max_drop": 0.1}]}, "constraints[0].eval_set", "compares answers"),
    ],
)
def test_what_does_not_go_together_is_refused_by_field(changes: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        validate(RunSpec, run_spec(**changes))

    assert caught.value.field == field
    assert says in caught.value.allowed


def test_a_cost_has_no_answers_that_an_optimizer_could_compare(tmp_path: Path) -> None:
    spec = run_spec(space={"kind": "lineage"}, optimizer={"name": "m2n2"}, objectives=[SKILL, FLOPS])

    with pytest.raises(InvalidInputError, match=r"objectives\.1\.metric.*item by item"):
        prepare(RunSpec.model_validate(spec), make_registry(tmp_path), tmp_path / "cache").optimizer()
