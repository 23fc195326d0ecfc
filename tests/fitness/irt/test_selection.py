"""Choosing items: deterministic, nested, rotating, bounded in exposure, and never what cannot tell subjects apart."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.errors import InvalidInputError
from fitness.irt.contracts import Bank, Selection
from fitness.irt.information import ask_each, information, population_order
from fitness.irt.item_quality import item_quality
from fitness.irt.selection import Policy, Rotation, Stream, select
from fitness.irt.strata import (
    BOTH_RIGHT,
    BOTH_WRONG,
    DEVIATIONS,
    DISAGREE,
    observed_deviations,
    parents_pattern,
    quantile_strata,
)
from fitness.irt.two_parameter import ItemParameters, fit_two_parameter
from fitness.items import Item
from fitness.matrix import make_matrix
from fitness.subset import draw

POLICIES: tuple[Policy, ...] = ("random", "stratified", "parent_neyman", "greedy", "hybrid", "adaptive")


def answers(num_subjects: int, num_items: int, seed: int = 0) -> np.ndarray:
    """Of a one-dimensional two-parameter model."""
    rng = np.random.default_rng(seed)
    theta, a, beta = rng.normal(size=num_subjects), rng.lognormal(0, 0.4, num_items), rng.normal(size=num_items)
    return (rng.random((num_subjects, num_items)) < 1 / (1 + np.exp(beta - np.outer(theta, a)))).astype(np.float64)


def bank_of(values: np.ndarray, parents: tuple[int, ...] = (0, 1)) -> Bank:
    names = [f"i{place:04d}" for place in range(values.shape[1])]
    return Bank(make_matrix(values, [f"m{row}" for row in range(len(values))], names), parents)


@pytest.fixture(scope="module")
def bank() -> Bank:
    values = answers(24, 120)
    values[:, 7] = 1.0
    values[:, 8] = 0.0
    order = np.argsort(values.sum(axis=1))
    values[order, 9] = np.arange(24) < 12  # right for the worse half only
    return bank_of(values)


@pytest.fixture(scope="module")
def curves(bank: Bank) -> ItemParameters:
    return fit_two_parameter(bank.matrix, iterations=8)


@settings(deadline=None, max_examples=60)
@given(policy=st.sampled_from(POLICIES), n=st.integers(1, 150), more=st.integers(0, 60), generation=st.integers(0, 9))
def test_equal_arguments_give_equal_items_and_larger_draws_hold_smaller_ones(
    bank: Bank, curves: ItemParameters, policy: Policy, n: int, more: int, generation: int
) -> None:
    stream = Stream(3, generation, "math")
    for rotation in (None, Rotation()):
        small = select(bank, n, policy, stream, rotation=rotation, curves=curves)
        large = select(bank, n + more, policy, stream, base=n, rotation=rotation, curves=curves)

        assert small.places.tolist() == sorted(set(small.places.tolist()))
        assert len(small.places) == min(n, 120)
        assert set(small.places) <= set(large.places)
        assert len(large.places) == min(n + more, 120)
        again = select(bank, n, policy, stream, rotation=rotation, curves=curves)
        assert again.places.tolist() == small.places.tolist()
        assert sum(small.sizes.values()) == 120


@pytest.mark.parametrize("policy", POLICIES)
def test_the_order_of_the_banks_items_does_not_matter(bank: Bank, curves: ItemParameters, policy: Policy) -> None:
    shuffle = np.random.default_rng(1).permutation(120)
    matrix = bank.matrix
    other = Bank(
        make_matrix(matrix.values[:, shuffle], matrix.subjects, [matrix.items[i] for i in shuffle]), bank.parents
    )
    moved = ItemParameters(curves.a[shuffle], curves.beta[shuffle])
    one = select(bank, 30, policy, Stream(0), curves=curves)
    two = select(other, 30, policy, Stream(0), curves=moved)

    assert {matrix.items[i] for i in one.places} == {other.matrix.items[i] for i in two.places}


@pytest.mark.parametrize("deck", [False, True])
def test_random_items_are_those_of_runs_without_a_bank(bank: Bank, deck: bool) -> None:
    items = [Item(i, "x", (" a", " b"), 0) for i in bank.matrix.items]
    plain = draw(items, 20, policy="random", seed=5, generation=4, eval_set="e", deck=deck)
    grown = draw(items, 20, policy="random", seed=5, generation=4, eval_set="e", deck=deck, fidelity=2)
    rotation = Rotation() if deck else None
    found = select(bank, 20, "random", Stream(5, 4, "e"), rotation=rotation)
    larger = select(bank, 40, "random", Stream(5, 4, "e"), base=20, rotation=rotation)

    assert tuple(bank.matrix.items[i] for i in found.places) == plain.ids
    assert tuple(bank.matrix.items[i] for i in larger.places) == grown.ids


def test_items_that_cannot_tell_subjects_apart_are_drawn_but_never_chosen(bank: Bank, curves: ItemParameters) -> None:
    quality = item_quality(bank)

    assert {7, 8} <= set(np.flatnonzero(quality.constant))
    assert quality.negative[9]
    bad = np.flatnonzero(~quality.sound)
    for policy in ("greedy", "adaptive"):
        some = select(bank, 120 - len(bad), policy, Stream(0), curves=curves)
        everything = select(bank, 120, policy, Stream(0), curves=curves)
        assert not set(some.places) & set(bad)
        assert not some.random.any()
        assert everything.places[everything.random].tolist() == bad.tolist()
    assert all(7 in select(bank, 120, policy, Stream(0), curves=curves).places for policy in POLICIES)


def test_greedy_items_predict_better_than_random_ones() -> None:
    from fitness.irt.linear import fit_linear

    values = answers(150, 200, seed=4)
    train, test = bank_of(values[:110], ()), values[110:]
    model, truth = fit_linear(train.matrix), test.mean(axis=1)
    errors = {}
    for policy in ("greedy", "random"):
        off = []
        for generation in range(1 if policy == "greedy" else 20):
            places = select(train, 12, policy, Stream(0, generation)).places
            off.append(np.abs(model.predict(places, test[:, places])[0] - truth).mean())
        errors[policy] = float(np.mean(off))

    assert errors["greedy"] < 0.85 * errors["random"]


def test_strata_hold_items_of_a_parents_pattern_and_of_like_easiness(bank: Bank) -> None:
    pattern, strata = parents_pattern(bank), quantile_strata(bank, 8)
    easiness = item_quality(bank).easiness

    assert len(set(strata)) == 8
    for stratum in set(strata):
        assert len(set(pattern[strata == stratum])) == 1
    for kind in set(pattern):
        own = sorted(set(strata[pattern == kind]))
        for lower, upper in pairwise(own):
            assert easiness[strata == lower].max() <= easiness[strata == upper].min()
        counts = [int((strata == stratum).sum()) for stratum in own]
        assert max(counts) - min(counts) <= 1


def test_every_stratum_gets_two_items_where_there_are_enough(bank: Bank) -> None:
    for n in (8, 20, 40):
        found = select(bank, n, "stratified", Stream(0))
        counts = Counter(found.strata.tolist())
        assert len(counts) == len(found.sizes) == min(n // 2, 10)
        assert min(counts.values()) >= 2
    assert select(bank, 3, "stratified", Stream(0)).sizes == {0: 120}


def test_neyman_asks_most_where_parents_disagree(bank: Bank) -> None:
    found = select(bank, 40, "parent_neyman", Stream(0))
    counts = Counter(found.strata.tolist())
    rates = {stratum: counts[stratum] / size for stratum, size in found.sizes.items()}

    assert found.sizes == dict(sorted(Counter(parents_pattern(bank).tolist()).items()))
    assert rates[DISAGREE] > rates[BOTH_WRONG] > rates[BOTH_RIGHT]


def test_deviations_follow_what_candidates_answered(bank: Bank) -> None:
    found = select(bank, 60, "parent_neyman", Stream(0))
    steady = np.tile(bank.matrix.values[0, found.places], (50, 1))
    steady[:, found.strata == DISAGREE] = 1.0
    learned = observed_deviations([(found, steady)])

    assert observed_deviations([]) == pytest.approx(DEVIATIONS)
    assert learned[DISAGREE] < 0.1
    after = select(bank, 60, "parent_neyman", Stream(0), deviations={**DEVIATIONS, DISAGREE: learned[DISAGREE]})
    assert (after.strata == DISAGREE).sum() < (found.strata == DISAGREE).sum()


def test_each_item_is_drawn_equally_often_within_its_stratum(bank: Bank) -> None:
    for rotation in (None, Rotation()):
        counts: Counter[int] = Counter()
        for seed in range(600):
            counts.update(select(bank, 24, "random", Stream(seed, 3), rotation=rotation).places.tolist())

        # 600 draws with chance 1/5: mean 120, standard deviation 9.8.
        assert all(abs(counts[place] - 120) < 4.5 * 9.8 for place in range(120))


@pytest.mark.parametrize(("policy", "rounds"), [("random", 6), ("stratified", 6), ("parent_neyman", 2)])
def test_a_deck_asks_no_item_twice_before_its_stratum_is_used_up(bank: Bank, policy: Policy, rounds: int) -> None:
    counts: Counter[int] = Counter()
    for generation in range(rounds):
        counts.update(select(bank, 20, policy, Stream(0, generation), rotation=Rotation()).places.tolist())

    if policy == "random":
        assert counts == dict.fromkeys(range(120), 1)
    else:
        assert max(counts.values()) <= 2


@pytest.mark.parametrize("policy", ["greedy", "adaptive", "hybrid"])
def test_chosen_items_are_asked_in_no_more_than_their_share_of_generations(
    bank: Bank, curves: ItemParameters, policy: Policy
) -> None:
    recent: tuple[Selection, ...] = ()
    for generation in range(12):
        rotation = Rotation(share=0.5, window=4, recent=recent)
        recent += (select(bank, 20, policy, Stream(0, generation), rotation=rotation, curves=curves),)

    for start in range(len(recent) - 3):
        counts = Counter(p for one in recent[start : start + 4] for p in one.places[~one.random].tolist())
        assert max(counts.values()) <= 2
    assert len({tuple(one.places[~one.random].tolist()) for one in recent}) > 1


def test_what_is_drawn_beside_chosen_items_is_a_simple_random_sample_of_the_others(bank: Bank) -> None:
    counts: Counter[int] = Counter()
    for seed in range(600):
        found = select(bank, 20, "hybrid", Stream(seed, 2), rotation=Rotation())
        counts.update(found.places[found.random].tolist())
    chosen = set(found.places[~found.random].tolist())

    assert len(chosen) == 12
    # 600 draws of 8 out of 108: mean 44, standard deviation 6.4.
    assert all(abs(counts[place] - 600 * 8 / 108) < 4.5 * 6.4 for place in set(range(120)) - chosen)


def test_adaptive_batches_follow_the_population(bank: Bank, curves: ItemParameters) -> None:
    first = select(bank, 12, "adaptive", Stream(0), curves=curves)
    strong = select(bank, 24, "adaptive", Stream(0), curves=curves, abilities=np.full(8, 2.0), asked=first.places)
    weak = select(bank, 24, "adaptive", Stream(0), curves=curves, abilities=np.full(8, -2.0), asked=first.places)
    hard, easy = (set(one.places) - set(first.places) for one in (strong, weak))
    easiness = item_quality(bank).easiness

    assert set(first.places) <= set(strong.places) & set(weak.places)
    assert np.mean(easiness[list(hard)]) < np.mean(easiness[list(easy)]) - 0.2


def test_information_is_that_of_the_logistic_curve() -> None:
    items = ItemParameters(np.array([[2.0], [1.0]]), np.array([1.0, 0.0]))

    # At θ = β / a half of the answers are right, and information is a² / 4.
    assert information(items, np.array([0.5]))[0, 0] == pytest.approx(1.0)
    assert information(items, np.array([0.0]))[0, 1] == pytest.approx(0.25)


def test_each_subject_is_asked_what_tells_most_about_it() -> None:
    levels = np.linspace(-2.5, 2.5, 51)
    items = ItemParameters(np.full((51, 1), 2.0), 2.0 * levels)
    able = np.array([levels < 1.5, levels < -1.5], dtype=np.float64)
    asked = ask_each(items, 12, np.ones(51, dtype=np.bool_), able)

    assert all(len(set(row)) == 12 for row in asked.tolist())
    assert asked[0, 0] == asked[1, 0] == 25  # nothing is known yet: the middle
    assert abs(levels[asked[0, 6:]].mean() - 1.5) < 0.5
    assert abs(levels[asked[1, 6:]].mean() + 1.5) < 0.5


def test_a_batch_is_spread_over_abilities() -> None:
    levels = np.linspace(-2.5, 2.5, 51)
    items = ItemParameters(np.full((51, 1), 2.0), 2.0 * levels)
    order = population_order(items, 8, np.ones(51, dtype=np.bool_), batch=8)

    assert np.std(levels[order]) > 0.7
    assert abs(levels[order].mean()) < 0.2


def test_impossible_requests_are_errors(bank: Bank) -> None:
    lonely = bank_of(answers(1, 10), ())
    for call in (
        lambda: select(bank, 0, "random", Stream(0)),
        lambda: select(bank, 5, "random", Stream(0), base=6),
        lambda: select(bank, 5, "best", Stream(0)),  # type: ignore[arg-type]
        lambda: select(bank, 5, "adaptive", Stream(0)),
        lambda: select(lonely, 5, "greedy", Stream(0)),
        lambda: select(lonely, 5, "parent_neyman", Stream(0)),
        lambda: Rotation(share=0.0),
        lambda: Rotation(window=0),
    ):
        with pytest.raises(InvalidInputError):
            call()


def test_an_empty_bank_draws_at_random() -> None:
    empty = bank_of(np.empty((0, 10)), ())

    assert len(select(empty, 4, "random", Stream(0)).places) == 4
    assert len(select(empty, 4, "stratified", Stream(0)).places) == 4
