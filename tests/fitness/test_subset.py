"""Draws: deterministic, rotating, proportional, and without regard to the order of the items."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.errors import InvalidInputError
from evomerge.seeds import generator
from fitness.estimate import estimate_mean
from fitness.items import Item
from fitness.subset import Policy, Subset, allocate, deck_order, draw, random_order


def population(*sizes: int) -> list[Item]:
    return [
        Item(f"{group}-{i}", f"{group} {i}", (" a", " b"), 0, group=f"g{group}")
        for group, size in enumerate(sizes)
        for i in range(size)
    ]


sizes = st.lists(st.integers(1, 30), min_size=1, max_size=6)
policies: st.SearchStrategy[Policy] = st.sampled_from(["random", "stratified"])


@given(sizes, st.integers(1, 100), policies, st.integers(0, 2**31), st.randoms(use_true_random=False))
def test_the_same_items_whatever_their_order(
    counts: list[int], n: int, policy: Policy, seed: int, shuffle: random.Random
) -> None:
    items = population(*counts)
    first = draw(items, n, policy=policy, seed=seed, generation=3)
    shuffle.shuffle(items)

    assert draw(items, n, policy=policy, seed=seed, generation=3) == first
    assert len(first.ids) == len(set(first.ids)) == min(n, len(items))
    assert list(first.ids) == sorted(first.ids)


@given(sizes, st.integers(1, 100), st.integers(0, 1000))
def test_strata_get_their_share_and_at_least_one_each(counts: list[int], n: int, seed: int) -> None:
    items = population(*counts)
    subset = draw(items, n, policy="stratified", seed=seed, generation=0)
    drawn, n = Counter(subset.strata), len(subset.ids)

    if n < len(counts):
        assert set(subset.strata) == {""}
        return
    assert all(i.split("-")[0] == s[1:] for i, s in zip(subset.ids, subset.strata, strict=True))
    for group, size in enumerate(counts):
        assert 1 <= drawn[f"g{group}"] <= size
    if n >= 5 * len(counts) and min(counts) * n >= sum(counts):  # nobody needs the guaranteed one
        assert all(abs(drawn[f"g{g}"] - n * size / sum(counts)) < 1.5 for g, size in enumerate(counts))


@given(sizes, st.data())
def test_a_larger_subset_never_takes_from_a_stratum(counts: list[int], data: st.DataObject) -> None:
    strata = {f"g{i}": c for i, c in enumerate(counts)}
    n = data.draw(st.integers(len(strata), sum(counts)))
    small, large = allocate(strata, n), allocate(strata, min(n + 1, sum(counts)))

    assert sum(small.values()) == n
    assert all(large[s] >= small[s] for s in strata)


def test_generations_and_eval_sets_have_items_of_their_own() -> None:
    items = population(100, 100)
    drawn = {
        draw(items, 20, policy="stratified", seed=0, generation=g, eval_set=name).ids
        for g in range(10)
        for name in ("ja", "math")
    }

    assert len(drawn) == 20


def test_every_item_has_the_same_chance() -> None:
    items = population(10, 30)
    counts: Counter[str] = Counter()
    for generation in range(2000):
        counts.update(draw(items, 8, policy="stratified", seed=7, generation=generation).ids)

    # 2000 draws with chance 1/5: mean 400, standard deviation 18.
    assert all(abs(counts[i.id] - 400) < 5 * 18 for i in items)


@pytest.mark.parametrize("n", [None, 40, 41, 10_000])
def test_asking_for_all_or_more_gives_everything(n: int | None) -> None:
    items = population(10, 30)

    assert set(draw(items, n, policy="stratified", seed=0, generation=0).ids) == {i.id for i in items}


@pytest.mark.parametrize(
    ("items", "n", "policy"), [([], 3, "random"), (population(3), 0, "random"), (population(3), 2, "x")]
)
def test_impossible_requests_are_errors(items: list[Item], n: int, policy: Policy) -> None:
    with pytest.raises(InvalidInputError):
        draw(items, n, policy=policy, seed=0, generation=0)


@given(sizes, st.integers(1, 40), policies, st.integers(0, 50), st.lists(st.floats(1, 6), min_size=2, max_size=4))
def test_subsets_of_higher_fidelity_hold_those_of_lower_fidelity(
    counts: list[int], n: int, policy: Policy, seed: int, fidelities: list[float]
) -> None:
    items = population(*counts)
    plain = draw(items, n, policy=policy, seed=seed, generation=1)
    grown = [draw(items, n, policy=policy, seed=seed, generation=1, fidelity=f) for f in sorted(fidelities)]

    assert draw(items, n, policy=policy, seed=seed, generation=1, fidelity=1.0) == plain
    for smaller, larger in pairwise([plain, *grown]):
        assert set(smaller.ids) <= set(larger.ids)
        assert (smaller.strata[0] == "") == (larger.strata[0] == "")
    for subset, fidelity in zip(grown, sorted(fidelities), strict=True):
        assert len(subset.ids) == min(len(items), round(min(n, len(items)) * fidelity))


@pytest.mark.parametrize("fidelity", [0.5, float("nan"), float("inf")])
def test_a_fidelity_below_one_is_refused(fidelity: float) -> None:
    with pytest.raises(InvalidInputError, match="fidelity"):
        draw(population(5), 2, policy="random", seed=0, generation=0, fidelity=fidelity)


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 2**31))
def test_a_deck_is_used_up_before_anything_comes_again(size: int, hand: int, seed: int) -> None:
    counts: Counter[int] = Counter()
    for generation in range(8):
        order = deck_order(size, hand, generation, partial(generator, seed))
        counts.update(order[:hand].tolist())

        assert sorted(order.tolist()) == list(range(size))
        assert max(counts.values()) - min(counts[i] for i in range(size)) <= 1


def test_each_hand_of_a_deck_is_a_simple_random_sample() -> None:
    """Ten pairs out of five places, also where a hand spans two decks."""
    for generation in (0, 2, 3):
        pairs = Counter(
            tuple(sorted(deck_order(5, 2, generation, partial(generator, seed))[:2].tolist())) for seed in range(4000)
        )

        # 4000 draws with chance 1/10: mean 400, standard deviation 19.
        assert len(pairs) == 10
        assert all(abs(count - 400) < 4.5 * 19 for count in pairs.values())


@given(st.integers(1, 20), st.data())
def test_a_random_order_holds_everything(size: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, size))

    assert sorted(random_order(size, generator(1), first=first).tolist()) == list(range(size))


@given(sizes, policies, st.integers(0, 2**31))
def test_generations_of_a_deck_share_the_items_among_them(counts: list[int], policy: Policy, seed: int) -> None:
    items = population(*counts)
    n = max(1, len(items) // 3)
    drawn = [set(draw(items, n, policy=policy, seed=seed, generation=g, deck=True).ids) for g in range(3)]

    assert all(len(ids) == n for ids in drawn)
    if policy == "random":
        assert len(set.union(*drawn)) == min(3 * n, len(items))


def test_weights_share_like_sizes_and_everybody_gets_the_least() -> None:
    assert allocate({0: 50, 1: 30, 2: 20}, 20, weights={0: 15.0, 1: 15.0, 2: 4.4}, least=2) == {0: 9, 1: 9, 2: 2}
    assert allocate({0: 50, 1: 1}, 5, least=2) == {0: 4, 1: 1}


def test_chosen_items_stand_for_themselves_and_leave_the_mean_unbiased() -> None:
    items = [Item(f"i{n}", f"c{n}", (" a", " b"), 0) for n in range(8)]
    values = dict(zip((item.id for item in items), (0.9, 0.1, 0.4, 0.8, 0.3, 0.2, 1.0, 0.5), strict=True))
    chosen, rest = ("i0", "i6"), [item for item in items if item.id not in ("i0", "i6")]
    means = []
    for pair in combinations([item.id for item in rest], 2):
        subset = Subset(pair, ("", "")).beside(chosen)
        means.append(estimate_mean([values[i] for i in subset.ids], subset, items).mean)
        assert subset.certain == {"i0", "i6"}

    assert np.mean(means) == pytest.approx(np.mean(list(values.values())))
    assert estimate_mean(list(values.values()), Subset(tuple(values), ("",) * 8), items).se == 0


@given(sizes, st.integers(1, 100), st.integers(0, 1000), st.sampled_from([1.0, 1.5, 3.0]))
def test_neymans_shares_hold_two_of_each_group_and_larger_ones_hold_smaller_ones(
    counts: list[int], n: int, seed: int, fidelity: float
) -> None:
    items = population(*counts)
    deviations = {f"g{g}": 1.0 / (1 + g) for g in range(len(counts))}
    neyman = partial(draw, items, n, policy="stratified", seed=seed, generation=0, deviations=deviations)
    small, large = neyman(), neyman(fidelity=fidelity)
    drawn = Counter(small.strata)

    assert set(small.ids) <= set(large.ids)
    if len(small.ids) >= 2 * len(counts):
        assert all(drawn[f"g{g}"] >= min(2, size) for g, size in enumerate(counts))


def test_neymans_shares_are_proportional_to_size_times_deviation() -> None:
    items = population(100, 50, 50)
    drawn = draw(
        items, 40, policy="stratified", seed=0, generation=0, deviations={"g0": 0.1, "g1": 0.1, "g2": 0.5}
    )  # fmt: skip

    assert Counter(drawn.strata) == {"g0": 10, "g1": 5, "g2": 25}
