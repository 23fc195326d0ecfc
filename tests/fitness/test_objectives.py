"""The plan of a run: which items are asked, what the answers are worth, which guards are missed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from evomerge.errors import InvalidInputError
from evomerge.run.spec import RunSpec
from fitness.evaluator import Responses
from fitness.items import EvalSet, Item, make_eval_set
from fitness.objectives import ObjectivePlan


def eval_set(name: str, size: int = 60, holdout: int = 30, generation: bool = False) -> EvalSet:
    return make_eval_set(
        name,
        [
            Item(
                f"{name}-{i:03d}",
                f"{name} {i}",
                () if generation else (" a", " b"),
                None if generation else 0,
                references=("a",) if generation else (),
                split="search" if i < size else "holdout",
                group="ab"[i % 2],
            )
            for i in range(size + holdout)
        ],
    )


SETS = {
    "ja": eval_set("ja"),
    "math": eval_set("math"),
    "geo": eval_set("geo"),
    "talk": eval_set("talk", generation=True),
}


def spec(objectives: Sequence[dict[str, Any]], constraints: Sequence[dict[str, Any]] = (), **rest: Any) -> RunSpec:
    return RunSpec.model_validate(
        {
            "models": {"base": "b", "sources": {"s": "s"}}, "space": {"kind": "parameter"},
            "objectives": objectives, "constraints": constraints,
        }
        | rest
    )  # fmt: skip


def answer(
    ids: dict[str, tuple[str, ...]], value: Callable[[str], float], metric: str = "accuracy"
) -> dict[str, Responses]:
    return {name: Responses(i, {metric: tuple(map(value, i))}, 0.0, 0) for name, i in ids.items()}


JA = {"name": "ja", "eval_sets": ["ja"], "items": 20}
SKILLS = {"name": "skills", "eval_sets": ["math", "ja"], "items": 30, "metric": "choice_probability"}
GUARD = {"name": "geography", "eval_set": "geo", "max_drop": 0.1, "items": 10}


def test_an_eval_set_is_asked_once_with_the_largest_number_anybody_wants() -> None:
    plan = ObjectivePlan(spec([JA, SKILLS], [GUARD]), SETS)
    asked = plan.items(0)

    assert {name: len(ids) for name, ids in asked.items()} == {"ja": 30, "math": 30, "geo": 10}
    assert plan.names == ("ja", "skills", "geography")
    assert {len(ids) for ids in plan.search_items().values()} == {60}
    assert {len(ids) for ids in plan.split_items("holdout").values()} == {30}
    assert plan.guard_items() == {"geo": plan.search_items()["geo"]}


def test_search_and_holdout_items_never_mix() -> None:
    plan = ObjectivePlan(spec([JA], [GUARD]), SETS)

    for name, ids in plan.split_items("holdout").items():
        assert not set(ids) & set(plan.search_items()[name])
        assert all(not set(ids) & set(plan.items(g)[name]) for g in range(20))


def test_no_number_of_items_means_all_of_them() -> None:
    plan = ObjectivePlan(spec([JA | {"items": None}, SKILLS]), SETS)

    assert len(plan.items(0)["ja"]) == 60
    assert len(plan.items(0)["math"]) == 30


def test_items_rotate_with_the_generation_and_the_seed_unless_told_not_to() -> None:
    plan, same = ObjectivePlan(spec([JA]), SETS), ObjectivePlan(spec([JA]), SETS)
    other = ObjectivePlan(spec([JA], seed=1), SETS)
    fixed = ObjectivePlan(spec([JA], subset={"rotate": False}), SETS)

    assert plan.items(3) == same.items(3)
    assert len({plan.items(g)["ja"] for g in range(5)}) == 5
    assert plan.items(0) != other.items(0)
    assert fixed.items(0) == fixed.items(7)


def test_scores_ignore_the_order_of_the_answers_and_answers_to_other_items() -> None:
    plan = ObjectivePlan(spec([JA]), SETS)
    ids = plan.items(2)["ja"]
    some = answer({"ja": ids}, lambda i: float(int(i[-3:]) % 3 == 0))
    backwards = answer({"ja": tuple(reversed(ids))}, lambda i: float(int(i[-3:]) % 3 == 0))
    nearly_all = tuple(dict.fromkeys(ids + plan.search_items()["ja"]))[:59]
    more = answer({"ja": nearly_all}, lambda i: float(int(i[-3:]) % 3 == 0))

    assert plan.scores(some, 2) == plan.scores(backwards, 2) == plan.scores(more, 2)
    assert plan.scores(some, 2)["ja"].n == 20


def test_an_objective_over_several_eval_sets_is_the_mean_of_their_means() -> None:
    plan = ObjectivePlan(spec([SKILLS]), SETS)
    responses = answer(plan.items(0), lambda i: 0.25 if i.startswith("ja") else 0.75, "choice_probability")

    assert plan.scores(responses, 0)["skills"].mean == pytest.approx(0.5)
    assert plan.scores(responses, 0)["skills"].n == 60


def test_a_guard_counts_the_drop_beyond_what_is_allowed() -> None:
    plan = ObjectivePlan(spec([JA], [GUARD]), SETS)
    asked = plan.items(4)
    base = answer({"ja": asked["ja"], **plan.guard_items()}, lambda _: 1.0)
    missed = set(asked["geo"][:3])
    drops = answer(asked, lambda i: float(i not in missed))

    assert plan.violation(answer(asked, lambda _: 1.0), base, 4) == 0
    assert plan.violation(drops, base, 4) == pytest.approx(0.3 - 0.1)
    assert plan.violation(base | drops, base, 4) == pytest.approx(0.2)
    assert plan.full_violation(
        answer(plan.search_items(), lambda _: 0.0), answer(plan.search_items(), lambda _: 1.0)
    ) == (pytest.approx(0.9))


def test_a_candidate_that_beats_the_base_violates_nothing() -> None:
    plan = ObjectivePlan(spec([JA], [GUARD]), SETS)
    asked = plan.items(0)

    assert plan.violation(answer(asked, lambda _: 1.0), answer(asked, lambda _: 0.0), 0) == 0


@pytest.mark.parametrize("split", ["search", "holdout"])
def test_full_scores_speak_of_the_skill_behind_the_items(split: str) -> None:
    plan = ObjectivePlan(spec([JA]), SETS)
    ids = plan.split_items("search" if split == "search" else "holdout")
    found = plan.full_scores(answer(ids, lambda i: float(int(i[-3:]) % 2)))["ja"]
    low, high = plan.interval("ja", found)

    assert found.mean == pytest.approx(0.5)
    assert found.n == len(ids["ja"])
    assert found.se > 0
    assert 0 < low < 0.5 < high < 1


def test_candidates_are_compared_on_common_items() -> None:
    plan = ObjectivePlan(spec([JA, SKILLS | {"metric": "accuracy"}]), SETS)
    ids = plan.split_items("holdout")
    good, bad = answer(ids, lambda _: 1.0), answer({n: i[:20] for n, i in ids.items()}, lambda _: 0.0)

    assert plan.paired("ja", good, bad).wins == 20
    assert plan.paired("skills", good, bad).n == 40
    assert plan.paired("skills", good, bad).low > 0


def test_missing_answers_are_named() -> None:
    plan = ObjectivePlan(spec([JA], [GUARD]), SETS)
    asked = plan.items(0)
    short = answer(asked | {"ja": asked["ja"][1:]}, lambda _: 1.0)

    with pytest.raises(ValueError, match=asked["ja"][0]):
        plan.scores(short, 0)
    with pytest.raises(ValueError, match="'geo'"):
        plan.violation(answer(asked, lambda _: 1.0), answer({"ja": asked["ja"]}, lambda _: 1.0), 0)


@pytest.mark.parametrize(
    ("objective", "guard", "message"),
    [
        (JA | {"eval_sets": ["jp"]}, GUARD, r"objectives\.0\.eval_sets: got 'jp'.*ja"),
        (JA | {"metric": "acuracy"}, GUARD, r"objectives\.0\.metric: got 'acuracy'.*accuracy"),
        (JA | {"metric": "exact_match"}, GUARD, r"objectives\.0\.metric: got 'exact_match'.*choice"),
        (JA | {"eval_sets": ["talk"]}, GUARD, r"objectives\.0\.metric: got 'accuracy'.*generation"),
        (JA | {"eval_sets": ["ja", "ja"]}, GUARD, r"objectives\.0\.eval_sets.*once"),
        (JA, GUARD | {"eval_set": "earth"}, r"constraints\.0\.eval_set: got 'earth'"),
        (JA | {"eval_sets": ["unsplit"]}, GUARD, r"objectives\.0\.eval_sets: got 'unsplit'.*holdout"),
        (JA | {"eval_sets": ["secret"]}, GUARD, r"objectives\.0\.eval_sets: got 'secret'.*search"),
    ],
)
def test_a_spec_that_does_not_fit_the_eval_sets_is_an_error(
    objective: dict[str, Any], guard: dict[str, Any], message: str
) -> None:
    sets = SETS | {"unsplit": eval_set("unsplit", holdout=0), "secret": eval_set("secret", size=0)}
    with pytest.raises(InvalidInputError, match=message):
        ObjectivePlan(spec([objective], [guard]), sets)


def test_a_run_without_verification_needs_no_holdout_items() -> None:
    sets = SETS | {"unsplit": eval_set("unsplit", holdout=0)}
    plan = ObjectivePlan(spec([JA | {"eval_sets": ["unsplit"]}], verify={"holdout": False}), sets)

    assert plan.split_items("holdout") == {}


def hard(item: str) -> float:
    """Two items of three are right."""
    return float(int(item[-3:]) % 3 > 0)


def better(item: str) -> float:
    """Right where the control is, and on every sixth item besides."""
    return max(hard(item), float(int(item[-3:]) % 6 == 0))


def test_with_a_control_scores_do_not_depend_on_how_hard_a_generations_items_are() -> None:
    plan = ObjectivePlan(spec([JA]), SETS)
    control = plan.control(answer(plan.control_items(), hard))
    plain = [plan.scores(answer(plan.items(g), hard), g)["ja"].mean for g in range(12)]
    same = [plan.scores(answer(plan.items(g), hard), g, control)["ja"].mean for g in range(12)]
    scores = [plan.scores(answer(plan.items(g), better), g, control)["ja"].mean for g in range(12)]

    assert max(plain) > min(plain)
    assert same == pytest.approx([2 / 3] * 12)
    assert min(scores) >= 2 / 3
    assert sum(scores) / 12 == pytest.approx(5 / 6, abs=0.05)


def test_who_answered_everything_has_the_exact_mean() -> None:
    plan = ObjectivePlan(spec([JA]), SETS)
    found = plan.scores(answer(plan.search_items(), hard), 3)["ja"]

    assert (found.mean, found.se, found.n) == (pytest.approx(2 / 3), 0.0, 60)


def test_a_control_that_would_cost_more_than_half_of_the_budget_is_not_asked() -> None:
    few = ObjectivePlan(spec([JA], budget={"candidates": 5}), SETS)
    many = ObjectivePlan(spec([JA], budget={"candidates": 6}), SETS)

    assert few.control_items() == {}
    assert many.control_items() == {"ja": many.search_items()["ja"]}


def test_a_higher_fidelity_asks_and_scores_more_items() -> None:
    plan = ObjectivePlan(spec([JA], [GUARD]), SETS)
    usual, more = plan.items(4), plan.items(4, 1.5)
    graded = answer(more, lambda i: float(int(i[-3:]) % 3 == 0))

    assert {name: len(ids) for name, ids in more.items()} == {"ja": 30, "geo": 15}
    assert all(set(usual[name]) < set(more[name]) for name in usual)
    assert plan.scores(graded, 4, fidelity=1.5)["ja"].n == 30
    assert plan.scores(graded, 4)["ja"].n == 20
    assert plan.scores(graded, 4, fidelity=1.5)["ja"].se < plan.scores(graded, 4)["ja"].se
    assert plan.violation(graded, answer(plan.guard_items(), lambda _: 1.0), 4, 1.5) > 0
