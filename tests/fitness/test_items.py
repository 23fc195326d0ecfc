"""Eval sets from JSONL: what is read, what is refused, and where the message points."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import InvalidInputError
from fitness.items import Answering, Item, load_eval_set, make_eval_set, write_items
from fitness.metrics import kind_of

GOOD: dict[str, Any] = {"id": "a", "context": "1 + 1 =", "choices": [" 2", " 3"], "label": 0}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows), encoding="utf-8")
    return path


def test_items_are_read_in_file_order_with_their_defaults(tmp_path: Path) -> None:
    other = {"id": "b", "context": "名", "references": ["x"], "split": "holdout", "group": "g", "weight": 2}
    found = load_eval_set("s", write(tmp_path / "s.jsonl", GOOD, "", other))

    assert found.items == (
        Item("a", "1 + 1 =", (" 2", " 3"), 0),
        Item("b", "名", references=("x",), split="holdout", group="g", weight=2.0),
    )
    assert [i.id for i in found.split("holdout")] == ["b"]
    assert [i.id for i in found.pick(["b", "a"])] == ["b", "a"]


def test_every_kind_of_item_is_read(tmp_path: Path) -> None:
    rows = [
        {"id": "blank", "context": "", "contexts": ["a cat", "a dog"], "choices": [" sat.", " sat."], "label": 1},
        {"id": "unknown", "context": "q", "choices": [" 1", " 2"], "label": None, "unconditioned": "A:"},
        {"id": "text", "text": "It was a dark night."},
        {"id": "code", "context": "def f", "answering": {"extract": "code", "stop": ["\n\n"], "tests": "assert f()"}},
    ]
    blank, unknown, text, code = load_eval_set("s", write(tmp_path / "s.jsonl", *rows)).items

    assert blank == Item("blank", "", (" sat.", " sat."), 1, contexts=("a cat", "a dog"))
    assert (unknown.label, unknown.unconditioned) == (None, "A:")
    assert (text.text, kind_of(text)) == ("It was a dark night.", "text")
    assert code.answering == Answering("code", ("\n\n",), tests="assert f()")


def test_the_digest_knows_the_content_and_not_the_order() -> None:
    a, b = Item("a", "x", (" 1", " 2"), 0), Item("b", "y", (" 1", " 2"), 1)

    assert make_eval_set("s", [a, b]).digest == make_eval_set("t", [b, a]).digest
    assert make_eval_set("s", [a]).digest != make_eval_set("s", [Item("a", "x", (" 1", " 2"), 1)]).digest


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"id": ""}, ":1 id"),
        ({"context": None}, ":1 context"),
        ({"choices": [" 2"]}, ":1 choices"),
        ({"choices": [" 2", " 2"]}, ":1 choices"),
        ({"choices": [" 2", 3]}, ":1 choices"),
        ({"choices": []}, ":1 choices"),
        ({"label": 2}, ":1 label"),
        ({"label": True}, ":1 label"),
        ({"references": "x"}, ":1 references"),
        ({"split": "test"}, ":1 split"),
        ({"weight": 0}, ":1 weight"),
        ({"weight": "1"}, ":1 weight"),
        ({"group": 3}, ":1 group"),
        ({"colour": "red"}, ":1 colour"),
        ({"contexts": ["a"]}, ":1 contexts"),
        ({"contexts": ["a", "b"]}, ":1 contexts"),
        ({"text": "t"}, ":1 text"),
        ({"delimiter": "x"}, ":1 delimiter"),
        ({"delimiter": " 2"}, ":1 delimiter"),
        ({"doc": [1]}, ":1 doc"),
        ({"answering": 3}, ":1 answering"),
        ({"answering": {"tone": "kind"}}, ":1 answering tone"),
        ({"answering": {"max_new_tokens": 0}}, ":1 answering max_new_tokens"),
    ],
)
def test_a_bad_field_is_named_with_its_line(tmp_path: Path, change: dict[str, Any], where: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        load_eval_set("s", write(tmp_path / "s.jsonl", GOOD | change))

    assert caught.value.field == f"{tmp_path / 's.jsonl'}{where}"


@pytest.mark.parametrize("line", ["{", "[1]", "3"])
def test_a_line_that_is_no_object_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(InvalidInputError, match=r"s\.jsonl:2"):
        load_eval_set("s", write(tmp_path / "s.jsonl", GOOD, line))


def test_ids_are_unique_and_splits_share_no_context(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="unique ids"):
        load_eval_set("s", write(tmp_path / "s.jsonl", GOOD, GOOD | {"context": "other"}))
    with pytest.raises(InvalidInputError, match="one split only"):
        load_eval_set("s", write(tmp_path / "s.jsonl", GOOD, GOOD | {"id": "b", "split": "holdout"}))
    with pytest.raises(InvalidInputError, match="at least one item"):
        load_eval_set("s", write(tmp_path / "s.jsonl"))
    with pytest.raises(InvalidInputError, match="file that exists"):
        load_eval_set("s", tmp_path / "absent.jsonl")


ALL_FIELDS = [
    Item("blank", "", (" sat.", " ran."), 1, contexts=("a cat", "a dog"), delimiter=" ", question="Who?"),
    Item("sentences", "", ("He has left.", "He have left."), 0, split="holdout", weight=2.0, group="g"),
    Item("text", "It was", text=" a dark\u2028night.\x85", unconditioned=""),
    Item("judged", "def f", answering=Answering("code", ("\n\n",), 9, "assert f()", "en"), doc='{"gold": ["1", 2.5]}'),
]


def test_written_items_are_read_again_as_they_were(tmp_path: Path) -> None:
    write_items(ALL_FIELDS, tmp_path / "new" / "s.jsonl")
    found = load_eval_set("s", tmp_path / "new" / "s.jsonl")

    assert list(found.items) == ALL_FIELDS
    assert found.digest == make_eval_set("s", ALL_FIELDS).digest


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="two or more different"):
        write_items([*ALL_FIELDS, Item("twice", "q", (" 1", " 1"), 0)], tmp_path / "s.jsonl")

    assert list(tmp_path.iterdir()) == []


def test_a_question_tells_items_apart_where_their_contexts_hold_more() -> None:
    asked = [Item(name, f"{name} Q: x", (" 1", " 2"), 0, split=name, question="x") for name in ("search", "holdout")]

    with pytest.raises(InvalidInputError, match="one split only"):
        make_eval_set("s", asked)


@pytest.mark.parametrize(
    ("name", "digest"),
    [("geo", "073c97226616063f"), ("ja_math", "699fd414f78ee7a3")],
)
def test_files_written_before_keep_their_digest(name: str, digest: str) -> None:
    path = Path(__file__).parents[2] / "experiments" / "zoo" / "items" / f"{name}.jsonl"

    assert load_eval_set(name, path).digest.startswith(digest)
