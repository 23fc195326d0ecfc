"""Items that training texts hold: long ones by runs of words, short ones as they stand."""

from __future__ import annotations

import pytest

from evomerge.errors import InvalidInputError
from fitness.items import Item
from fitness.overlap import crossing, overlap, without

LONG = "a long question about seventeen different animals that live in the green wood near the old mill"


def found(items: list[Item], *texts: str, **how: int) -> list[str]:
    return sorted(overlap(items, {"train": texts}, **how).ids)


def choice(name: str, context: str, *choices: str, split: str = "search") -> Item:
    return Item(name, context, choices or (" yes", " no"), 0, split=split)  # type: ignore[arg-type]


def test_thirteen_words_in_a_row_are_a_hit_and_twelve_are_none() -> None:
    words = LONG.split()

    assert found([choice("q", LONG)], f"before {' '.join(words[2:15])} after") == ["q"]
    assert found([choice("q", LONG)], f"before {' '.join(words[2:14])} after") == []
    assert found([choice("q", LONG)], f"before {' '.join(words[2:14])} after", gram=12) == ["q"]


def test_case_and_punctuation_hide_nothing() -> None:
    assert found([choice("q", LONG)], LONG.upper().replace(" ", ",  ")) == ["q"]


def test_a_short_question_counts_with_its_right_answer_only() -> None:
    sums = [choice("right", "Math: 37 + 15 =", " 52", " 42"), choice("other", "Math: 37 - 15 =", " 22", " 52")]

    assert found(sums, "Math: 37 + 15 = 52") == ["right"]
    assert found(sums, "Math: 37 + 15 = 53") == []
    assert found(sums, "Math: 37 + 15 =\n52") == ["right"]
    assert found(sums, "so Math: 37 + 15 = 52 it is") == []  # five words with the answer: too few to look for inside


def test_eight_words_are_looked_for_inside() -> None:
    item = choice("q", "Which city is the capital of France?", " Paris", " Rome")

    assert found([item], "Quiz night! Which city is the capital of France? Paris. Who won?") == ["q"]
    assert found([item], "Quiz night! Which city is the capital of France? Rome. Who won?") == []


def test_what_many_items_share_is_their_template() -> None:
    head = "The following are multiple choice questions with answers about the stars that we see at night. "
    items = [choice(str(n), f"{head} Number {n} shines {n * n} times a year, does it not?") for n in range(20)]

    assert found(items, head) == []
    assert found(items, head, common=20) == sorted(str(n) for n in range(20))
    assert found(items, f"{head} Number 7 shines 49 times a year, does it not?") == ["7"]


def test_examples_before_a_question_are_no_hits() -> None:
    item = Item("q", f"{LONG}\n\nWho?", (" a", " b"), 0, question="Who?")

    assert found([item], LONG) == []


def test_running_text_and_references_are_looked_for() -> None:
    items = [
        Item("text", "", text=LONG),
        Item("sum", "12 + 30", references=("42",)),
        Item("on", "To be or", text=" not"),
    ]

    assert found(items, LONG, "12 + 30\n42", "to be or not") == ["on", "sum", "text"]


def test_a_report_names_split_source_and_text() -> None:
    items = [choice("a", LONG), choice("b", "What is it?", split="holdout"), choice("c", "Who is it?", split="holdout")]
    report = overlap(items, {"one": ["nothing"], "two": ["nothing", LONG, "What is it? yes"]}).to_dict()

    assert report["texts"] == {"one": 1, "two": 3}
    assert {s: (r["items"], r["suspect"]) for s, r in report["splits"].items()} == {"search": (1, 1), "holdout": (2, 1)}
    (hit,) = report["splits"]["search"]["found"]
    assert (hit["item"], hit["source"], hit["text"]) == ("a", "two", 2)


def test_near_duplicates_across_the_split_are_named() -> None:
    items = [choice("a", LONG), choice("b", f"{LONG} pond", split="holdout"), choice("c", "Who?", split="holdout")]

    assert crossing(items) == [("a", "b")]
    assert crossing(items, 1.0) == []


def test_suspects_can_be_dropped_but_not_all() -> None:
    items = [choice("a", LONG), choice("b", "Who?")]

    assert [i.id for i in without(items, frozenset("a"))] == ["b"]
    with pytest.raises(InvalidInputError, match="all of them"):
        without(items, frozenset("ab"))
    with pytest.raises(InvalidInputError, match="gram"):
        overlap(items, {}, gram=7)
