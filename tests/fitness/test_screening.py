"""Screening on simulated models of one dimension: closer than sampling, where a bank allows it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from evomerge.run.spec import RunSpec
from fitness.evaluator import Responses
from fitness.items import Item, make_eval_set
from fitness.objectives import ObjectivePlan
from fitness.screening import LEAST, Screening

N, ASKED = 200, 20
RNG = np.random.default_rng(5)
EASINESS, SHARPNESS = RNG.normal(0, 1.5, N), RNG.lognormal(0.3, 0.3, N)
SET = make_eval_set("s", [Item(f"i{n:03}", f"c{n}", (" a", " b"), 0, group="xy"[n % 2]) for n in range(N)])


def plan_of(policy: str = "auto") -> ObjectivePlan:
    spec = RunSpec.model_validate(
        {
            "models": {"base": "b", "sources": {"a": "a"}},
            "space": {"kind": "parameter"},
            "objectives": [{"name": "skill", "eval_sets": ["s"], "metric": "accuracy", "items": ASKED}],
            "subset": {"policy": policy},
            "verify": {"holdout": False},
            "seed": 4,
        }
    )
    return ObjectivePlan(spec, {"s": SET})


def subject(ability: float, rng: np.random.Generator) -> dict[str, float]:
    right = rng.random(N) < 1 / (1 + np.exp(-SHARPNESS * (ability + EASINESS)))
    return {item.id: float(r) for item, r in zip(SET.items, right, strict=True)}


def answers(of: Mapping[str, float], ids: tuple[str, ...]) -> dict[str, Responses]:
    return {"s": Responses(ids, {"accuracy": tuple(of[i] for i in ids)}, 0.0, 0)}


def learnt(plan: ObjectivePlan, number: int, policy: str = "auto") -> Screening:
    found, rng = Screening(plan, policy, 0.5), np.random.default_rng(9)
    for k in range(number):
        found.learn(f"m{k}", answers(subject(rng.normal(), rng), plan.search_items()["s"]))
    return found


def errors(plan: ObjectivePlan, screening: Screening, ability: float) -> tuple[list[float], list[float]]:
    """Of what is reported and of what is told, after candidates whose answers say how far the model is off."""
    reported, told, rng = list[float](), list[float](), np.random.default_rng(11)
    for k in range(120):
        of, generation = subject(ability + 0.3 * rng.normal(), rng), k // 4
        responses = answers(of, plan.items(generation)["s"])
        shown = plan.scores(responses, generation)["skill"]
        found = screening.told(responses, generation, 1.0, None)
        screening.note(generation, found.differences)
        if k >= 24:
            truth = float(np.mean(list(of.values())))
            reported.append(shown.mean - truth)
            told.append(found.scores["skill"].mean - truth)
    return reported, told


def test_few_subjects_say_nothing_and_optimizers_are_told_what_is_reported() -> None:
    plan = plan_of()
    screening = learnt(plan, 3)
    found = screening.told(answers(subject(0, RNG), plan.items(1)["s"]), 1, 1.0, None)

    assert found.scores == {}
    assert found.differences == {}
    assert not screening.verdict(("s", "accuracy"), ASKED, "random").open


@pytest.mark.parametrize("ability", [0.0, 2.5])
def test_with_a_bank_what_is_told_is_closer_also_for_candidates_better_than_it(ability: float) -> None:
    plan = plan_of("stratified")
    reported, told = errors(plan, learnt(plan, 40), ability)

    assert np.mean(np.square(told)) < 0.75 * np.mean(np.square(reported))
    assert abs(np.mean(told)) < 0.03


def test_until_a_models_bias_is_known_it_is_not_used() -> None:
    plan = plan_of("stratified")
    screening, rng = learnt(plan, 40), np.random.default_rng(2)
    for k in range(LEAST):
        responses = answers(subject(0.5, rng), plan.items(k)["s"])
        found = screening.told(responses, k, 1.0, None)
        assert found.scores["skill"] == plan.scores(responses, k)["skill"]
        screening.note(k, found.differences)

    responses = answers(subject(0.5, rng), plan.items(99)["s"])
    last = screening.told(responses, 99, 1.0, None).scores["skill"]
    assert last != plan.scores(responses, 99)["skill"]
    assert 0 < last.se <= plan.scores(responses, 99)["skill"].se


def test_who_answered_everything_is_told_exactly() -> None:
    plan = plan_of("stratified")
    screening, of = learnt(plan, 40), subject(0.2, RNG)
    responses = answers(of, plan.search_items()["s"])

    assert plan.scores(responses, 1)["skill"].se == 0
    assert screening.told(responses, 1, 1.0, None).scores == {}


def test_chosen_items_are_the_same_for_a_generation_and_do_not_come_for_ever() -> None:
    plan, twin = plan_of("hybrid"), plan_of("hybrid")
    one, other = learnt(plan, 40, "hybrid"), learnt(twin, 40, "hybrid")
    asked = [one.choose(g)["s"] for g in range(12)]

    assert asked == [other.choose(g)["s"] for g in range(12)]
    assert all(len(ids) == round(0.6 * ASKED) for ids in asked)
    times = {i: sum(i in ids for ids in asked[-10:]) for i in set().union(*asked)}
    assert max(times.values()) <= 5
    plan.draws.choose(3, {"s": asked[3]})
    assert set(asked[3]) <= set(plan.items(3)["s"])
    assert len(plan.items(3)["s"]) == ASKED


@pytest.mark.parametrize("policy", ["random", "stratified", "informed"])
def test_policies_that_draw_choose_nothing(policy: str) -> None:
    assert learnt(plan_of(policy), 40, policy).choose(1) == {}
