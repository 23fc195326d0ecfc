"""Sides decided by a hash of what is asked; near duplicates lie on one of them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.errors import InvalidInputError
from fitness.items import Item, make_eval_set
from fitness.split import near_duplicates, split_by_hash
from fitness.words import words

LONG = "the quick brown fox jumps over the lazy dog while {} other animals of the wood look on and say nothing at all"


def item(name: str, context: str, **more: str) -> Item:
    return Item(name, context, (" a", " b"), 0, **more)


QUESTIONS = [item(str(n), f"What is {n} + {n * 7}?") for n in range(400)]


def sides(items: list[Item], **how: float) -> dict[str, str]:
    return {i.id: i.split for i in split_by_hash(items, 0.25, **how)}  # type: ignore[arg-type]


def test_the_share_is_about_the_one_asked_for() -> None:
    held = [side for side in sides(QUESTIONS).values() if side == "holdout"]

    assert 0.25 * 400 - 3 * 9 < len(held) < 0.25 * 400 + 3 * 9  # three standard deviations


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(50, 399))
def test_sides_depend_neither_on_the_order_nor_on_what_else_there_is(order: int, count: int) -> None:
    mixed = random.Random(order).sample(QUESTIONS, count)

    whole = sides(QUESTIONS)
    assert all(whole[name] == side for name, side in sides(mixed).items())


def test_another_seed_is_another_split() -> None:
    assert sides(QUESTIONS, seed=1) != sides(QUESTIONS)


def test_neither_label_nor_id_nor_examples_decide() -> None:
    plain = [item(str(n), f"What is {n} + {n * 7}?") for n in range(60)]
    behind = [item(f"x{n}", f"Example {n}.\n\nWhat is {n} + {n * 7}?", question=i.context) for n, i in enumerate(plain)]

    assert list(sides(plain).values()) == list(sides(behind).values())


def test_near_duplicates_lie_on_one_side_for_every_seed() -> None:
    twins = [item(f"t{n}", LONG.format(f"{n} " * 1)) for n in range(6)]
    rest = [item(f"r{n}", f"{n} bottles stand on wall number {n * n}") for n in range(30)]

    for seed in range(10):
        found = sides([*twins, *rest], seed=seed, near=0.5)
        assert len({found[i.id] for i in twins}) == 1
    assert len({sides([*twins, *rest], seed=s, near=0.5)["t0"] for s in range(10)}) == 2


def test_case_widths_and_punctuation_make_no_other_question() -> None:
    a, b = item("a", "Which CITY is the capital, of France?"), item("b", "which city is the capital of france")

    assert near_duplicates([a, b], 1.0) == [0, 0]
    assert near_duplicates([item("a", "37 + 15 ="), item("b", "37 - 15 =")], 1.0) == [0, 1]


def test_similarity_is_jaccard_s_at_its_bound() -> None:
    a = "one two three four five six seven eight nine ten"
    b = a + " eleven"  # 6 of 7 runs of five words are in both

    assert near_duplicates([item("a", a), item("b", b)], 6 / 7) == [0, 0]
    assert near_duplicates([item("a", a), item("b", b)], 6 / 7 + 1e-9) == [0, 1]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abc"), min_size=5, max_size=12), min_size=2, max_size=12), st.floats(0.3, 1.0)
)
def test_clusters_are_those_of_all_pairs_compared(texts: list[list[str]], near: float) -> None:
    items = [item(str(n), " ".join(text)) for n, text in enumerate(texts)]
    runs = [{tuple(text[i : i + 5]) for i in range(len(text) - 4)} for text in texts]
    found = list(range(len(texts)))
    for a in range(len(texts)):  # every pair, and chains of pairs
        for b in range(a):
            if len(runs[a] & runs[b]) >= near * len(runs[a] | runs[b]):
                low, high = sorted((found[a], found[b]))
                found = [low if root == high else root for root in found]

    assert near_duplicates(items, near) == found


def test_a_split_can_be_written() -> None:
    twins = [item(f"twin {n}", "the same question") for n in range(3)]

    make_eval_set("s", split_by_hash([*QUESTIONS, *twins[:1]], 0.2))
    with pytest.raises(InvalidInputError, match="3 of them near duplicates"):
        split_by_hash(twins, 0.2)
    for holdout in (1.0, -0.1):
        with pytest.raises(InvalidInputError, match="holdout"):
            split_by_hash(QUESTIONS, holdout)


def test_scripts_without_blanks_are_words_by_character() -> None:
    assert words("東京は Tokyo です") == ["東", "京", "は", "tokyo", "で", "す"]
