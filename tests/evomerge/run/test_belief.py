"""What is believed of candidates: unbiased even of the best, where their scores are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from evomerge.run.belief import MOST, Believed, Scored, believe

Floats = NDArray[np.float64]
NOISE = 0.08


def scores_of(y: Floats, x: Floats, groups: NDArray[np.intp], *, se: float = NOISE) -> list[Scored]:
    return [
        Scored(f"r{k}", tuple(x[k]), int(groups[k]), float(y[k]), se, 20) for k in range(len(y))
    ]  # every recipe once


def luck(rng: np.random.Generator, groups: NDArray[np.intp], shared: float) -> Floats:
    of_group = rng.standard_normal(int(groups.max()) + 1)
    own = rng.standard_normal(len(groups))
    return np.asarray(NOISE * (np.sqrt(shared) * of_group[groups] + np.sqrt(1 - shared) * own))


def winners(seed: int, worth: str) -> tuple[float, float]:
    """By how much the best score and the best belief of one search lie above what their candidates are worth."""
    rng, n = np.random.default_rng(seed), 40
    groups = np.arange(n) // 8
    x = rng.random((n, 3))
    if worth == "unrelated":
        f = rng.normal(0.5, 0.05, n)
    else:  # a population that moves towards the peak and closes in on it
        peak = rng.uniform(0.3, 0.7, 3)
        left = (0.6**groups)[:, None]
        x = np.clip(peak + left * (x - 0.5), 0, 1)
        f = 0.7 - 0.5 * np.sqrt(((x - peak) ** 2).mean(axis=1))
    y = f + luck(rng, groups, 0.4)
    beliefs = believe(scores_of(y, x, groups))
    means = np.array([beliefs[f"r{k}"].mean for k in range(n)])
    raw, best = int(np.argmax(y)), int(np.argmax(means))
    return float(y[raw] - f[raw]), float(means[best] - f[best])


@pytest.mark.parametrize("worth", ["unrelated", "improving"])
def test_of_the_best_of_many_no_more_is_believed_than_is_true_though_its_score_is_too_good(worth: str) -> None:
    scores, beliefs = np.array([winners(seed, worth) for seed in range(60)]).T

    error = beliefs.std(ddof=1) / np.sqrt(len(beliefs))
    assert scores.mean() > 1.2 * NOISE
    assert abs(beliefs.mean()) < 3 * error + 0.1 * NOISE
    assert beliefs.mean() < 0.2 * scores.mean()


def test_a_recipe_that_came_again_is_one_recipe_with_two_scores() -> None:
    rng = np.random.default_rng(0)
    f = rng.normal(0.5, 0.1, 20)
    once = [Scored(f"r{k}", (), k % 4, f[k], NOISE, 20) for k in range(20)]
    again = [replace(once[0], group=7, mean=0.8), replace(once[1], group=7, mean=0.5)]

    found, alone = believe([*once, *again]), believe(once)
    assert found["r0"].se < 0.9 * found["r2"].se
    assert found["r0"].mean > alone["r0"].mean
    assert believe([*once, *once]) == alone  # the same answers do not count twice


def test_an_exact_score_is_believed_as_it_is_and_moves_its_neighbours() -> None:
    rng = np.random.default_rng(1)
    x = rng.random((20, 2))
    f = 0.5 + 0.3 * x[:, 0]
    scores = scores_of(f + luck(rng, np.zeros(20, dtype=int), 0.0), x, np.zeros(20, dtype=int))
    beside = Scored("known", (x[3, 0] + 0.01, x[3, 1]), None, 0.9, 0.0, 300)

    before, after = believe(scores), believe([*scores, beside])
    assert after["known"] == Believed(0.9, 0.0)
    assert after["r3"].mean > before["r3"].mean
    assert after["r3"].se < before["r3"].se


def test_exact_scores_and_equal_scores_are_believed() -> None:
    exact = [Scored(str(k), (0.1 * k,), None, 0.1 * k, 0.0, 9) for k in range(4)]
    equal = [Scored(str(k), (0.1 * k,), 0, 0.5, 0.1, 9) for k in range(4)]

    assert believe(exact) == {score.recipe: Believed(score.mean, 0.0) for score in exact}
    assert believe(equal) == {score.recipe: Believed(0.5, 0.1) for score in equal}
    assert believe(equal[:1]) == {"0": Believed(0.5, 0.1)}
    assert believe([]) == {}


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 100), st.floats(-10, 10), st.booleans())
def test_belief_moves_with_the_scale_of_scores_and_not_with_their_order(
    seed: int, scale: float, shift: float, placed: bool
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.random((9, 2)) if placed else np.zeros((9, 0))
    scores = scores_of(rng.normal(0.5, 0.1, 9), x, np.arange(9) // 3)
    changed = [replace(s, mean=shift + scale * s.mean, se=scale * s.se) for s in reversed(scores)]

    plain, found = believe(scores), believe(changed)
    for name, belief in plain.items():
        assert found[name].mean == pytest.approx(shift + scale * belief.mean, rel=1e-6, abs=1e-6 * scale)
        assert found[name].se == pytest.approx(scale * belief.se, rel=1e-5)


def test_belief_lies_between_a_score_and_all_others_where_nothing_lies_near() -> None:
    rng = np.random.default_rng(2)
    y = rng.normal(0.5, 0.1, 30)
    beliefs = believe([Scored(f"r{k}", (), None, y[k], NOISE, 20) for k in range(30)])

    best, worst = int(np.argmax(y)), int(np.argmin(y))
    assert y.mean() < beliefs[f"r{best}"].mean < y[best]
    assert y[worst] < beliefs[f"r{worst}"].mean < y.mean()
    assert all(0 < belief.se < NOISE for belief in beliefs.values())


def test_as_many_scores_as_are_looked_at_are_no_burden_for_numbers() -> None:
    rng = np.random.default_rng(3)
    x = np.repeat(rng.random((MOST // 4, 5)), 4, axis=0)  # places that coincide
    y = np.repeat(rng.random(MOST // 4), 4)
    scores = [
        Scored(f"r{k}", tuple(x[k]), None if k % 4 else k % 7, y[k], 0.0 if k % 4 else 1e-9, 20) for k in range(MOST)
    ]

    assert all(np.isfinite([belief.mean, belief.se]).all() for belief in believe(scores).values())
