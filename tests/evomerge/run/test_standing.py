"""Who leads, by what is known and by what is believed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from evomerge.archive.pareto import ParetoArchive
from evomerge.run.belief import MOST
from evomerge.run.spec import RunSpec
from evomerge.run.standing import Place, Standing


def standing_of(*directions: str) -> Standing:
    objectives = [
        {"name": f"skill{k}", "eval_sets": ["s"], "direction": direction} for k, direction in enumerate(directions)
    ]
    spec: dict[str, Any] = {
        "models": {"base": "b", "sources": {"a": "a"}},
        "space": {"kind": "parameter"},
        "objectives": objectives,
    }
    return Standing(RunSpec.model_validate(spec))


def score(standing: Standing, number: int, *means: float, recipe: str | None = None, violation: float = 0.0) -> None:
    place = Place(str(number) if recipe is None else recipe, (number % 10 / 10, number % 7 / 7), number // 8)
    standing.proposed(number, place)
    scores = {f"skill{k}": {"mean": mean, "se": 0.05, "n": 20} for k, mean in enumerate(means)}
    standing.scored(number, scores, scores, violation)


def complete(standing: Standing, number: int, mean: float) -> None:
    standing.completed(number, {"skill0": {"mean": mean, "se": 0.02, "n": 300}}, 0.0)


def test_a_recipe_that_came_again_is_shortlisted_once() -> None:
    standing = standing_of("maximize")
    for number in range(12):
        score(
            standing,
            number,
            0.9 if number % 3 == 0 else 0.5 + 0.01 * number,
            recipe="same" if number % 3 == 0 else None,
        )

    assert len([n for n in standing.shortlist(5) if n % 3 == 0]) == 1
    assert len(standing.shortlist(5)) == 5


def test_who_is_known_exactly_stands_for_equal_recipes_and_is_believed() -> None:
    standing = standing_of("maximize")
    for number in range(6):
        score(standing, number, 0.6 + 0.03 * number, recipe="same" if number in (1, 4) else None)
    complete(standing, 4, 0.9)

    assert standing.believed()[4] == {"skill0": {"mean": 0.9, "se": 0.0}}
    assert 1 not in standing.believed()
    assert not {1, 4} & set(standing.elites(6))


def test_less_is_believed_of_the_best_than_it_scored_whichever_way_is_better() -> None:
    rng = np.random.default_rng(0)
    up, down = standing_of("maximize"), standing_of("minimize")
    for number, luck in enumerate(rng.normal(0.5, 0.05, 30).tolist()):
        score(up, number, luck)
        score(down, number, 1 - luck)

    (best,), (least,) = up.best_believed().values(), down.best_believed().values()
    assert best["mean"] < up.best()["skill0"]["mean"] - 0.05
    assert least["mean"] > down.best()["skill0"]["mean"] + 0.05
    assert up.shortlist(5) == down.shortlist(5)


def test_the_infeasible_are_not_the_best_and_come_last() -> None:
    standing = standing_of("maximize", "maximize")
    score(standing, 0, 0.9, 0.9, violation=0.1)
    score(standing, 1, 0.5, 0.6)
    score(standing, 2, 0.6, 0.5)

    assert {one["number"] for one in standing.best_believed().values()} <= {1, 2}
    assert standing.shortlist(3)[-1] == 0


def test_of_very_many_candidates_the_latest_and_the_leading_ones_are_looked_at() -> None:
    standing = standing_of("maximize")
    rng = np.random.default_rng(1)
    for number in range(2 * MOST):
        score(standing, number, 0.95 if number == 3 else float(rng.normal(0.5, 0.05)))

    beliefs = standing.believed()
    assert len(beliefs) == MOST
    assert {3, *range(2 * MOST - MOST // 2, 2 * MOST)} <= beliefs.keys()
    assert standing.shortlist(1) == [3]


def test_who_is_best_and_on_the_front_after_exact_scores_is_as_if_all_were_offered_anew() -> None:
    standing, rng = standing_of("maximize", "minimize"), np.random.default_rng(2)
    known = {n: (round(float(rng.normal()), 1), round(float(rng.normal()), 1)) for n in range(200)}
    violations = {n: float(rng.random() < 0.2) for n in known}
    for n in rng.permutation(200).tolist():
        score(standing, n, *known[n], violation=violations[n])
    for n in rng.choice(200, 40, replace=False).tolist():
        known[n] = (known[n][0] - 0.3, known[n][1] + 0.1)
        scores = {f"skill{k}": {"mean": mean, "se": 0.0, "n": 300} for k, mean in enumerate(known[n])}
        standing.completed(n, scores, violations[n])

    anew = ParetoArchive(2)
    feasible = [n for n in known if not violations[n]]
    for n in feasible:
        anew.add(n, (known[n][0], -known[n][1]))
    assert standing.archive.members == anew.members
    assert standing.best()["skill0"]["number"] == max(feasible, key=lambda n: (known[n][0], -n))
    assert standing.best()["skill1"]["number"] == min(feasible, key=lambda n: (known[n][1], n))


def test_an_exact_score_takes_as_many_steps_however_many_candidates_there_are() -> None:
    counts = []
    for candidates in (1000, 4000):
        standing = standing_of("maximize")
        for n in range(candidates):
            score(standing, n, 0.5)  # nothing to learn: what belief costs does not depend on luck

        def work(standing: Standing = standing) -> None:
            complete(standing, 7, 0.5)
            standing.elites(4)

        counts.append(calls_of(work))

    assert abs(counts[1] - counts[0]) < 100


def calls_of(action: Callable[[], None]) -> int:
    """Functions of Python, and comprehensions and C functions that it calls, while `action` runs."""
    count = 0

    def note(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count
