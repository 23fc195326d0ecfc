"""Screening on simulated models of one dimension: closer than sampling, where a bank allows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import numpy as np
import pytest

from evomerge.errors import InvalidInputError
from evomerge.run.spec import Published, RunSpec
from fitness.evaluator import Responses
from fitness.irt.contracts import Rule, Selection
from fitness.irt.estimators import ESTIMATORS, make_estimator
from fitness.irt.fits import Fits
from fitness.irt.gate import ITERATIONS
from fitness.items import Item, make_eval_set
from fitness.objectives import ObjectivePlan
from fitness.screening import GROWTH, LEAST, MODELS, Screening

N, ASKED = 200, 20
RNG = np.random.default_rng(5)
EASINESS, SHARPNESS = RNG.normal(0, 1.5, N), RNG.lognormal(0.3, 0.3, N)
SET = make_eval_set("s", [Item(f"i{n:03}", f"c{n}", (" a", " b"), 0, group="xy"[n % 2]) for n in range(N)])


def plan_of(
    policy: str = "auto", metric: str = "accuracy", *, rotate: bool = True, screening: str = "auto"
) -> ObjectivePlan:
    spec = RunSpec.model_validate(
        {
            "models": {"base": "b", "sources": {"a": "a"}},
            "space": {"kind": "parameter"},
            "objectives": [{"name": "skill", "eval_sets": ["s"], "metric": metric, "items": ASKED}],
            "subset": {"policy": policy, "rotate": rotate, "screening": screening},
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


def test_models_are_judged_anew_a_few_times_only_while_a_bank_grows() -> None:
    plan = plan_of()
    screening, rng, judged = Screening(plan, "auto", 0.5), np.random.default_rng(9), list[int]()
    for k in range(60):
        screening.learn(f"m{k}", answers(subject(rng.normal(), rng), plan.search_items()["s"]))
        judged.append(screening.verdicts()[0].rows)

    assert judged[:8] == list(range(1, 9))
    assert len(set(judged)) == 17
    assert all(rows <= k + 1 < GROWTH * rows + 1 for k, rows in enumerate(judged))


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
    asked = [one.choose(g)["s"].ids for g in range(12)]

    assert asked == [other.choose(g)["s"].ids for g in range(12)]
    assert all(len(ids) == round(0.6 * ASKED) for ids in asked)
    times = {i: sum(i in ids for ids in asked[-10:]) for i in set().union(*asked)}
    assert max(times.values()) <= 5
    plan.draws.choose(3, {"s": asked[3]})
    assert set(asked[3]) <= set(plan.items(3)["s"])
    assert len(plan.items(3)["s"]) == ASKED


@pytest.mark.parametrize(("policy", "rule"), [("hybrid", "greedy"), ("adaptive", "adaptive")])
def test_models_count_by_their_errors_on_items_chosen_in_the_same_way(policy: str, rule: Rule) -> None:
    plan = plan_of(policy)
    screening, question = learnt(plan, 33, policy), ("s", "accuracy")  # models are fitted on all of these
    fits, verdict = Fits(screening.bank(question), iterations=ITERATIONS), screening.verdict(question, ASKED, policy)
    chosen = screening.choose(9)["s"]
    plan.draws.choose(9, {"s": chosen.ids})
    for k in range(LEAST):
        screening.note(k, {"skill": {"s": 0.0}})  # the model has no bias
    of, ids = subject(0.3, np.random.default_rng(1)), plan.items(9)["s"]
    unbiased = plan.scores(answers(of, ids), 9)["skill"]
    told = screening.told(answers(of, ids), 9, 1.0, None).scores["skill"]
    places = np.array([[item.id for item in plan.items_by_id("s")].index(i) for i in ids])
    drawn = np.array([i not in chosen.ids for i in ids])
    selection = Selection(places, np.zeros_like(places), {0: N}, drawn, rule=rule)
    model = MODELS[verdict.method](fits)
    mean = model.estimate(selection, np.array([[of[i] for i in ids]])).means[0]
    w = unbiased.se**2 / (unbiased.se**2 + float((model.residuals(selection) ** 2).mean()))
    other = Selection(places, np.zeros_like(places), {0: N}, drawn, rule="greedy" if rule == "adaptive" else "adaptive")

    assert chosen.policy == policy
    assert told.mean == pytest.approx((1 - w) * unbiased.mean + w * mean)
    assert not np.allclose(model.residuals(selection), model.residuals(other)), "the rule matters"


@pytest.mark.parametrize("policy", ["random", "stratified", "informed"])
def test_policies_that_draw_choose_nothing(policy: str) -> None:
    assert learnt(plan_of(policy), 40, policy).choose(1) == {}


# -- shares by how the parents answered -------------------------------------------------------------------------


def neyman(metric: str = "accuracy", *, rotate: bool = True) -> tuple[ObjectivePlan, Screening, dict[str, str]]:
    """A plan whose items two parents answered, and item → pattern: 100 items that both get right, 60 that both get
    wrong, 40 that divide them."""
    plan = plan_of("parent_neyman", metric, rotate=rotate)
    found = Screening(plan, "parent_neyman", 0.5)
    ids = [item.id for item in SET.items]
    pattern = {i: "right" if k < 100 else "wrong" if k < 160 else "divided" for k, i in enumerate(ids)}
    first = {i: float(pattern[i] == "right" or (pattern[i] == "divided" and k % 2)) for k, i in enumerate(ids)}
    second = {i: float(pattern[i] == "right" or (pattern[i] == "divided" and not k % 2)) for k, i in enumerate(ids)}
    for name, of in (("ja", first), ("math", second)):
        found.learn(name, everything(of, metric), "parent")
    found.learn("average", everything(first, metric), "control")
    return plan, found, pattern


def everything(of: Mapping[str, float], metric: str) -> dict[str, Responses]:
    ids = tuple(item.id for item in SET.items)
    return {"s": Responses(ids, {metric: tuple(of[i] for i in ids)}, 0.0, 0)}


def merged(pattern: Mapping[str, str], rng: np.random.Generator) -> dict[str, float]:
    """A candidate that agrees with parents that agree, but for a few items."""
    chance = {"right": 0.97, "wrong": 0.05, "divided": 0.5}
    return {i: float(rng.random() < chance[found]) for i, found in pattern.items()}


def asked_by_pattern(plan: ObjectivePlan, pattern: Mapping[str, str], generation: int) -> dict[str, int]:
    ids = plan.items(generation)["s"]
    return {name: sum(pattern[i] == name for i in ids) for name in ("wrong", "divided", "right")}


def test_neymans_shares_ask_most_where_the_parents_divide_and_two_everywhere() -> None:
    plan, screening, pattern = neyman()
    screening.stratify()

    # 60 · .3, 40 · .5 and 100 · .22 are 18, 20 and 22 of 60.
    assert asked_by_pattern(plan, pattern, 1) == {"wrong": 6, "divided": 7, "right": 7}
    plan.draws.share(2, {"s": {"wrong": 1e-6, "divided": 1.0, "right": 1e-6}})
    assert asked_by_pattern(plan, pattern, 2) == {"wrong": 2, "divided": 16, "right": 2}
    assert set(plan.items(2)["s"]) <= set(plan.items(2, fidelity=2.0)["s"])
    part = plan.draws.part("s", 2, 0.5)
    assert part is not None
    assert min(part.strata.count(stratum) for stratum in set(part.strata)) >= 2
    assert plan.draws.part("s", 2, 0.25) is None, "five items are not two in each of three strata"


def test_fixed_items_are_shared_out_when_the_parents_have_answered_and_stay() -> None:
    plan, screening, pattern = neyman(rotate=False)
    before = plan.items(0)["s"]
    screening.stratify()
    plan.draws.share(5, {"s": {"wrong": 0.3, "divided": 0.5, "right": 0.22}})
    asked = plan.items(0)["s"]

    assert asked_by_pattern(plan, pattern, 0) == {"wrong": 6, "divided": 7, "right": 7}
    assert asked != before
    assert all(plan.items(generation)["s"] == asked for generation in range(1, 9))
    fixed = plan_of("auto", rotate=False)
    assert not fixed.draws.fixed_by_answers, "baselines do not answer everything for it"


def test_shares_follow_the_differences_of_those_who_answered_everything() -> None:
    _, screening, pattern = neyman()
    before, rng = screening.deviations()["s"], np.random.default_rng(3)
    for k in range(12):
        screening.learn(f"merge {k}", everything(merged(pattern, rng), "accuracy"))
    after = screening.deviations()["s"]

    assert before == {"wrong": 0.3, "divided": 0.5, "right": 0.22}
    assert after["right"] < 0.2
    assert after["wrong"] < 0.25
    assert after["divided"] > 0.6, "of differences between right or wrong answers, where one in two differs"


def test_scores_by_neymans_shares_are_unbiased_and_their_errors_are_honest() -> None:
    plan, screening, pattern = neyman()
    rng = np.random.default_rng(8)
    average = merged(pattern, rng)
    screening.learn("average", everything(average, "accuracy"), "control")
    for k in range(12):
        screening.learn(f"merge {k}", everything(merged(pattern, rng), "accuracy"))
    screening.stratify()
    control = plan.control(everything(average, "accuracy"))
    simple = plan_of("random")
    found, errors, plain = list[float](), list[float](), list[float]()
    for generation in range(1, 201):
        of = merged(pattern, rng)
        truth = float(np.mean(list(of.values())))
        score = plan.scores(answers(of, plan.items(generation)["s"]), generation, control)["skill"]
        other = simple.scores(answers(of, simple.items(generation)["s"]), generation, control)["skill"]
        found.append(score.mean - truth)
        errors.append(score.se)
        plain.append(other.mean - truth)

    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))
    assert np.std(found) < 0.9 * np.std(plain)
    assert 0.95 < np.sqrt(np.mean(np.square(errors))) / np.std(found) < 1.2


def test_answers_that_are_not_right_or_wrong_are_stratified_by_how_hard_they_were() -> None:
    plan, screening, _ = neyman("log_likelihood")
    screening.stratify()

    assert screening.deviations() == {}
    assert len(set(plan.draws.subset("s", 1).strata)) > 3


def test_a_published_estimator_is_told_as_it_is_and_from_the_first_generation_on() -> None:
    plan, rng = plan_of("random"), np.random.default_rng(2)
    screening = Screening(plan, "random", 0.5, "gmp_irt")
    responses = answers(subject(0.2, rng), plan.items(1)["s"])
    before = screening.told(responses, 1, 1.0, None).scores["skill"]
    for name, ability in (("p0", -0.5), ("p1", 0.4), ("p2", 0.8)):
        screening.learn(name, answers(subject(ability, rng), plan.search_items()["s"]), "parent")
    told = screening.told(responses, 1, 1.0, None)
    bank = screening.bank(("s", "accuracy"))
    places = np.array([bank.matrix.items.index(i) for i in responses["s"].item_ids])
    everything = Selection(places, np.zeros_like(places), {0: N}, np.ones(ASKED, dtype=np.bool_))
    values = np.array([responses["s"].values["accuracy"]])
    expected = make_estimator("gmp_irt", Fits(bank, iterations=ITERATIONS)).estimate(everything, values).means[0]
    shown = plan.scores(responses, 1)["skill"]

    assert before == shown, "there is no parent yet"
    assert told.scores["skill"].mean == pytest.approx(expected)
    assert told.scores["skill"].mean != shown.mean
    assert told.scores["skill"].se == shown.se
    assert told.differences == {}


def test_a_published_estimator_is_not_asked_about_who_answered_everything() -> None:
    plan, rng = plan_of("random"), np.random.default_rng(2)
    screening, everything = Screening(plan, "random", 0.5, "p_irt"), plan.search_items()["s"]
    for k in range(3):
        screening.learn(f"p{k}", answers(subject(rng.normal(), rng), everything), "parent")
    of = subject(1.0, rng)

    assert screening.told(answers(of, everything), 1, 1.0, None).scores["skill"].mean == pytest.approx(
        np.mean(list(of.values()))
    )


def test_a_spec_names_every_published_estimator_and_no_other() -> None:
    assert set(get_args(Published)) == {name for name, info in ESTIMATORS.items() if info.published}


def test_a_published_estimator_of_right_and_wrong_answers_is_refused_for_others() -> None:
    with pytest.raises(
        InvalidInputError, match=r"subset.screening.*gmp_irt.*skill's log_likelihood is not in \[0, 1\]"
    ):
        plan_of("random", "log_likelihood", screening="gmp_irt")
    plan_of("random", "log_likelihood", screening="ridge")
