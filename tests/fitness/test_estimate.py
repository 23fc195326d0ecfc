"""Estimates: exact where everything was asked, unbiased and honest about their error where not."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import hypergeom

from evomerge.candidate import Estimate
from evomerge.errors import InvalidInputError
from fitness.estimate import Bounds, combine, combine_paired, estimate_difference, estimate_mean, interval, paired
from fitness.items import Item
from fitness.metrics import METRICS, metric
from fitness.subset import Policy, Subset, draw

UNIT: Bounds = (0.0, 1.0)


def make_items(groups: list[str], weights: list[float] | None = None) -> list[Item]:
    return [
        Item(f"i{n:04d}", f"c{n}", (" a", " b"), 0, group=g, weight=1.0 if weights is None else weights[n])
        for n, g in enumerate(groups)
    ]


def everything(items: list[Item]) -> Subset:
    return draw(items, None, policy="stratified", seed=0, generation=0)


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from("ab"), st.floats(0.1, 5)), min_size=1, max_size=40))
def test_all_items_give_the_exact_weighted_mean_without_an_error(rows: list[tuple[float, str, float]]) -> None:
    items = make_items([g for _, g, _ in rows], [w for _, _, w in rows])
    found = estimate_mean([y for y, _, _ in rows], everything(items), items, bounds=UNIT)

    expected = sum(y * w for y, _, w in rows) / sum(w for _, _, w in rows)
    assert found.mean == pytest.approx(expected)
    assert found.se == 0
    assert interval(found, bounds=UNIT) == (found.mean, found.mean)


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=60), st.data())
def test_a_subset_never_claims_certainty(values: list[float], data: st.DataObject) -> None:
    items = make_items(["a"] * len(values))
    n = data.draw(st.integers(1, len(values) - 1))
    found = estimate_mean([1.0] * n, draw(items, n, policy="random", seed=0, generation=0), items, bounds=UNIT)
    low, high = interval(found, bounds=UNIT)

    assert found.se > 0
    assert 0 <= low < high <= 1


@pytest.mark.parametrize("value", [0.0, 0.37, -12.5])
def test_equal_real_valued_responses_keep_an_error(value: float) -> None:
    items = make_items(["a"] * 20)
    found = estimate_mean([value] * 5, draw(items, 5, policy="random", seed=0, generation=0), items)

    assert found.se > 0


@pytest.mark.parametrize("policy", ["random", "stratified"])
def test_means_are_unbiased_and_the_error_is_the_spread(policy: Policy) -> None:
    rng = np.random.default_rng(0)
    groups = ["easy"] * 60 + ["hard"] * 30 + ["rare"] * 7
    truth = {"easy": 0.9, "hard": 0.2, "rare": 0.5}
    values = np.asarray([float(rng.random() < truth[g]) for g in groups])
    items = make_items(groups)
    means, errors = [], []
    for generation in range(1000):
        subset = draw(items, 25, policy=policy, seed=1, generation=generation)
        found = estimate_mean([values[int(i[1:])] for i in subset.ids], subset, items, bounds=UNIT)
        means.append(found.mean)
        errors.append(found.se)

    spread = float(np.std(means))
    assert fmean(means) == pytest.approx(values.mean(), abs=4 * spread / math.sqrt(1000))
    assert fmean(errors) == pytest.approx(spread, rel=0.15)


def coverage(
    values: np.ndarray,
    groups: list[str],
    n: int,
    policy: Policy,
    bounds: Bounds,
    finite: bool,
    truth: float,
    draws: int,
) -> float:
    items = make_items(groups)
    hits = 0
    for generation in range(draws):
        subset = draw(items, n, policy=policy, seed=2, generation=generation)
        answers = [float(values[int(i[1:])]) for i in subset.ids]
        low, high = interval(estimate_mean(answers, subset, items, bounds=bounds, finite=finite), 0.9, bounds=bounds)
        hits += low <= truth <= high
    return hits / draws


def right_or_wrong(rng: np.random.Generator, size: int, p: float) -> np.ndarray:
    return (rng.random(size) < p).astype(float)


def probabilities(rng: np.random.Generator, size: int, p: float) -> np.ndarray:
    return rng.beta(4 * p, 4 * (1 - p), size)


def log_likelihoods(rng: np.random.Generator, size: int, p: float) -> np.ndarray:
    return -rng.gamma(3.0, 2.0, size) * (1.5 - p)


@pytest.mark.parametrize("policy", ["random", "stratified"])
@pytest.mark.parametrize(
    ("make", "bounds"),
    [(right_or_wrong, UNIT), (probabilities, UNIT), (log_likelihoods, (None, 0.0))],
)
@pytest.mark.parametrize(("n", "p"), [(20, 0.5), (20, 0.85), (100, 0.75)])
def test_ninety_percent_intervals_hold_what_they_say(
    make: Callable[[np.random.Generator, int, float], np.ndarray],
    bounds: Bounds,
    policy: Policy,
    n: int,
    p: float,
) -> None:
    rng = np.random.default_rng(3)
    groups = ["a"] * 200 + ["b"] * 100
    values = np.concatenate([make(rng, 200, p), make(rng, 100, max(p - 0.2, 0.05))])

    covered = coverage(values, groups, n, policy, bounds, True, float(values.mean()), 600)
    assert 0.87 <= covered <= 0.96


@pytest.mark.parametrize("n", [20, 50, 100])
def test_intervals_of_right_and_wrong_hold_on_average_up_to_the_bounds(n: int) -> None:
    """Exact: every possible count of right answers, weighted with its hypergeometric probability."""
    items = make_items(["a"] * 300)
    subset = Subset(tuple(i.id for i in items[:n]), ("",) * n)
    intervals = [
        interval(estimate_mean([1.0] * x + [0.0] * (n - x), subset, items, bounds=UNIT), 0.9, bounds=UNIT)
        for x in range(n + 1)
    ]
    for low_p, high_p in ((0.5, 0.8), (0.8, 0.95), (0.95, 0.99)):
        right = np.arange(int(300 * low_p), int(300 * high_p))
        chances = hypergeom.pmf(np.arange(n + 1)[:, None], 300, right[None, :], n)
        held = np.array([[low <= k / 300 <= high for k in right] for low, high in intervals])
        covered = (chances * held).sum(axis=0)
        assert 0.87 <= covered.mean() <= 0.96


def test_the_interval_of_all_items_covers_the_skill_behind_them() -> None:
    rng, hits = np.random.default_rng(4), 0
    items = make_items(["a"] * 200)
    subset = everything(items)
    for _ in range(1000):
        found = estimate_mean(right_or_wrong(rng, 200, 0.7).tolist(), subset, items, bounds=UNIT, finite=False)
        low, high = interval(found, 0.9, bounds=UNIT)
        hits += low <= 0.7 <= high

    assert 0.87 <= hits / 1000 <= 0.96


@given(st.floats(0, 1), st.floats(1e-4, 0.3), st.integers(2, 500), st.floats(0.5, 0.99))
def test_intervals_hold_the_mean_and_stay_inside_the_bounds(mean: float, se: float, n: int, level: float) -> None:
    low, high = interval(Estimate(mean, se, n), level, bounds=UNIT)

    assert 0 <= low <= mean + 1e-9
    assert mean - 1e-9 <= high <= 1
    assert interval(Estimate(-mean, se, n), level, bounds=(None, 0.0))[1] <= 0


def test_combined_eval_sets_add_their_variances() -> None:
    found = combine([Estimate(0.2, 0.3, 10), Estimate(0.6, 0.4, 30)])

    assert found == Estimate(pytest.approx(0.4), pytest.approx(0.25), 40)


def test_wrong_calls_are_named() -> None:
    items = make_items(["a"] * 3)
    with pytest.raises(ValueError, match="2 values for 3 items"):
        estimate_mean([1.0, 0.0], everything(items), items)
    with pytest.raises(ValueError, match="'i0002' is not in the population"):
        estimate_mean([1.0] * 3, everything(items), items[:2])
    with pytest.raises(ValueError, match="no estimates"):
        combine([])
    with pytest.raises(ValueError, match="level"):
        interval(Estimate(0.5, 0.1, 10), 95)
    with pytest.raises(ValueError, match="equally long"):
        paired([1.0], [])


def test_paired_counts_wins_and_tests_their_sign() -> None:
    a, b = [1.0] * 43 + [0.0] * 12 + [1.0] * 200, [0.0] * 43 + [1.0] * 12 + [1.0] * 200
    found = paired(a, b)

    assert (found.wins, found.losses, found.n) == (43, 12, 255)
    assert found.difference == pytest.approx(31 / 255)
    assert found.p_sign == pytest.approx(2 * sum(math.comb(55, k) for k in range(43, 56)) / 2**55)
    assert found.low > 0


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=50))
def test_paired_is_antisymmetric(pairs: list[tuple[float, float]]) -> None:
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    there, back = paired(a, b), paired(b, a)

    assert there.difference == pytest.approx(-back.difference)
    assert (there.low, there.high) == (pytest.approx(-back.high), pytest.approx(-back.low))
    assert (there.wins, there.losses, there.p_sign) == (back.losses, back.wins, back.p_sign)


def test_equal_candidates_differ_by_nothing_within_an_error() -> None:
    found = paired([1.0, 0.0] * 10, [1.0, 0.0] * 10)

    assert found.difference == 0
    assert found.p_sign == 1
    assert found.low < 0 < found.high


def test_paired_intervals_hold_what_they_say() -> None:
    rng, hits = np.random.default_rng(5), 0
    for _ in range(600):
        kind = rng.choice(4, size=150, p=[0.5, 0.2, 0.2, 0.1])  # both right, a only, b only, neither
        found = paired(np.isin(kind, (0, 1)).astype(float), np.isin(kind, (0, 2)).astype(float), level=0.9)
        hits += found.low <= 0.0 <= found.high

    assert 0.87 <= hits / 600 <= 0.96


def test_paired_over_several_eval_sets_is_their_mean() -> None:
    one, two = paired([1.0] * 20, [0.0] * 20), paired([0.0, 1.0] * 10, [0.0, 1.0] * 10)
    both = combine_paired([one, two])

    assert combine_paired([one]) == one
    assert both.difference == pytest.approx(0.5)
    assert (both.wins, both.losses, both.n) == (20, 0, 40)
    assert both.low < both.difference < both.high + 0.05


def test_unknown_metrics_list_the_known_ones() -> None:
    assert metric("accuracy") is METRICS["accuracy"]
    with pytest.raises(InvalidInputError, match="accuracy_norm"):
        metric("acuracy")


def test_differences_to_a_control_are_unbiased_and_their_errors_smaller_and_true() -> None:
    """A control that agrees on nine items of ten; 4,000 subsets of 40 out of 300."""
    rng = np.random.default_rng(11)
    items = make_items(["a", "b"] * 150)
    x = dict(zip([i.id for i in items], rng.random(300) < 0.6, strict=True))
    y = {i: bool(v) if rng.random() < 0.9 else not v for i, v in x.items()}
    truth, known = fmean(y.values()), fmean(x.values())
    plain, found = [], []
    for generation in range(4000):
        subset = draw(items, 40, policy="stratified", seed=3, generation=generation)
        mine, beside = [float(y[i]) for i in subset.ids], [float(x[i]) for i in subset.ids]
        plain.append(estimate_mean(mine, subset, items, bounds=(0, 1)))
        found.append(estimate_difference(mine, beside, known, subset, items, bounds=(0, 1)))
    spread = np.std([e.mean for e in found])

    assert fmean(e.mean for e in found) == pytest.approx(truth, abs=0.003)
    assert spread < 0.75 * np.std([e.mean for e in plain])
    assert 0.9 < fmean(e.se for e in found) / spread < 1.25
    inside = fmean(abs(e.mean - truth) <= 1.645 * e.se for e in found)
    assert 0.87 <= inside <= 0.97


def test_a_model_that_answers_as_the_control_has_the_controls_mean_but_no_certainty() -> None:
    items = make_items(["a"] * 100)
    subset = draw(items, 20, policy="random", seed=0, generation=0)
    found = estimate_difference([1.0] * 20, [1.0] * 20, 0.7, subset, items, bounds=(0, 1))

    assert found.mean == pytest.approx(0.7)
    assert 0 < found.se < 0.1
    assert found.n == 20
