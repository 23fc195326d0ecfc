"""Stored answers become response matrices and come from them; files are read whole or refused with their line."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.errors import InvalidInputError
from evomerge.storage.blocks import AnswerBlock
from fitness.bank import blocks_of, matrix_of
from fitness.evaluator import Responses
from fitness.exchange import as_csv, read_answers, write_answers
from fitness.fingerprint import content_of, owned_content, tokenizer_hash
from fitness.items import Item, make_eval_set
from fitness.known import completed, known_answers, unknown
from fitness.matrix import ResponseMatrix, load_matrix, make_matrix

ITEMS = [Item(f"i{n}", f"{n} + 1 =", (f" {n + 1}", " 0"), 0, group="ab"[n % 2], weight=1.0 + n) for n in range(4)]
SET = make_eval_set("sums", ITEMS)
CONTENT = {item.id: content_of(item) for item in ITEMS}
WANTED = {"sums": {"accuracy"}}


def block(
    subject: str, said: dict[str, float], contents: dict[str, str] | None = CONTENT, **more: object
) -> AnswerBlock:
    hashes = () if contents is None else tuple(contents[item] for item in said)
    values = {"accuracy": tuple(said.values())} | more
    return AnswerBlock("f", "sums", subject, tuple(said), hashes, values)  # type: ignore[arg-type]


@st.composite
def matrices(draw: st.DrawFn) -> ResponseMatrix:
    """In [0, 1], with gaps; every subject answered something."""
    name = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=6)
    subjects = draw(st.lists(name, min_size=1, max_size=5, unique=True))
    items = draw(st.lists(name, min_size=1, max_size=6, unique=True))
    cell = st.one_of(st.just(float("nan")), st.floats(0, 1))
    values = [draw(st.lists(cell, min_size=len(items), max_size=len(items))) for _ in subjects]
    return make_matrix([[draw(st.floats(0, 1)), *row[1:]] for row in values], subjects, items)


def same(a: ResponseMatrix, b: ResponseMatrix) -> bool:
    rows = [a.subjects.index(name) for name in b.subjects]
    columns = [a.items.index(name) for name in b.items]
    there = a.values[np.ix_(rows, columns)]
    return sorted(a.subjects) == sorted(b.subjects) and np.array_equal(there, b.values, equal_nan=True)


@settings(deadline=None, max_examples=60)
@given(matrix=matrices())
def test_a_matrix_comes_back_from_its_blocks(matrix: ResponseMatrix) -> None:
    back = matrix_of(blocks_of({"accuracy": matrix}, "sums", "f"), "accuracy")

    assert same(matrix, back)


@settings(deadline=None, max_examples=40)
@given(matrix=matrices(), suffix=st.sampled_from([".csv", ".npz", ".jsonl"]))
def test_a_matrix_comes_back_from_its_file(
    tmp_path_factory: pytest.TempPathFactory, matrix: ResponseMatrix, suffix: str
) -> None:
    folder = tmp_path_factory.mktemp("files")
    write_answers(folder / f"m{suffix}", "accuracy", [matrix])
    back = read_answers(folder / f"m{suffix}", None if suffix == ".jsonl" else "accuracy")

    assert list(back) == ["accuracy"]
    assert same(matrix, back["accuracy"])
    assert [path.name for path in folder.iterdir()] == [f"m{suffix}"]


@settings(deadline=None, max_examples=20)
@given(matrix=matrices(), suffix=st.sampled_from([".csv", ".npz", ".jsonl"]))
def test_a_file_written_in_pages_is_the_file_written_at_once(
    tmp_path_factory: pytest.TempPathFactory, matrix: ResponseMatrix, suffix: str
) -> None:
    folder = tmp_path_factory.mktemp("files")
    write_answers(folder / f"once{suffix}", "accuracy", [matrix])
    write_answers(folder / f"pages{suffix}", "accuracy", (matrix.of([row]) for row in range(len(matrix.subjects))))

    assert (folder / f"once{suffix}").read_bytes() == (folder / f"pages{suffix}").read_bytes()


def test_pages_and_blocks_are_made_one_at_a_time_whatever_there_are_of_them(tmp_path: Path) -> None:
    rows, columns, page = 160, 4000, 4  # 5 MB, of which a page is 128 kB
    items = [f"item {n}" for n in range(columns)]
    row = np.arange(columns) % 3 / 2

    def pages() -> Iterator[ResponseMatrix]:
        for first in range(0, rows, page):
            yield make_matrix(np.tile(row, (page, 1)), [f"subject {first + n}" for n in range(page)], items)

    def peak(work: Callable[[], object]) -> int:
        tracemalloc.start()
        try:
            work()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    written = peak(lambda: write_answers(tmp_path / "m.npz", "accuracy", pages()))
    matrix = load_matrix(tmp_path / "m.npz")
    some = {"accuracy": matrix.of(range(16))}
    blocks = peak(lambda: sum(len(block.items) for block in blocks_of(some, "sums", "f")))
    together = peak(lambda: list(blocks_of(some, "sums", "f")))

    assert matrix.values.tolist() == [row.tolist()] * rows
    assert written < matrix.values.nbytes / 2
    assert blocks < together / 2


def test_the_newest_answer_counts() -> None:
    found = matrix_of(
        [block("a", {"i0": 0.0, "i1": 1.0}), block("b", {"i1": 0.0}), block("a", {"i0": 1.0})], "accuracy"
    )

    assert (found.subjects, found.items) == (("a", "b"), ("i0", "i1"))
    assert np.array_equal(found.values, [[1.0, 1.0], [np.nan, 0.0]], equal_nan=True)


def test_answers_to_what_an_item_said_before_do_not_count() -> None:
    before = CONTENT | {"i0": "another question"}
    blocks = [block("a", {"i0": 0.0, "i1": 1.0}, before), block("b", {"i0": 1.0}), block("c", {"i0": 0.5}, None)]
    latest, asked = matrix_of(blocks, "accuracy"), matrix_of(blocks, "accuracy", ITEMS)

    for found in (latest, asked):
        assert found.subjects == ("a", "b", "c")
        assert np.array_equal(found.values[:, :2], [[np.nan, 1.0], [1.0, np.nan], [0.5, np.nan]], equal_nan=True)
    assert (latest.items, asked.items) == (("i0", "i1"), ("i0", "i1", "i2", "i3"))
    assert asked.groups == ("a", "b", "a", "b")
    assert asked.weights.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_answers_beside_another_owner_do_not_count_and_others_do() -> None:
    owned = {owner: {"i0": owned_content(ITEMS[0], owner)} for owner in ("math", "ja")}
    blocks = [
        block(name, {"i0": value}, owned[owner], expert_kl=(value,))
        for name, value, owner in (("a", 0.25, "ja"), ("b", 0.5, "math"), ("c", 0.75, "math"))
    ]
    compared, plain = (matrix_of(blocks, name) for name in ("expert_kl", "accuracy"))
    chosen = matrix_of(blocks, "expert_kl", ITEMS[:1])

    assert (compared.subjects, compared.values[:, 0].tolist()) == (("b", "c"), [0.5, 0.75])
    assert (plain.subjects, plain.values[:, 0].tolist()) == (("a", "b", "c"), [0.25, 0.5, 0.75])
    assert chosen.subjects == ("a", "b", "c"), "whoever gives the items says which eval set is meant"


def test_a_metric_that_nobody_was_scored_by_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(InvalidInputError, match="accuracy"):
        matrix_of([block("a", {"i0": 0.0})], "margin")


@pytest.mark.parametrize(
    ("metric", "value", "message"),
    [("accuracy", 1.5, "a value from 0.0 to 1.0"), ("log_likelihood", 0.1, "to 0.0"), ("brilliance", 1.0, "metric")],
)
def test_values_that_a_metric_cannot_have_are_refused(metric: str, value: float, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        blocks_of({metric: make_matrix([[value]], ["m"], ["i0"])}, "sums", "f")


def test_items_that_an_eval_set_does_not_hold_are_refused_and_others_get_their_content() -> None:
    good = make_matrix([[1.0, np.nan, 0.0]], ["m"], ["i3", "i1", "i0"])
    (kept,) = blocks_of({"accuracy": good}, "sums", "f", SET)

    assert (kept.items, kept.contents) == (("i3", "i0"), (CONTENT["i3"], CONTENT["i0"]))
    with pytest.raises(InvalidInputError, match="'x'"):
        blocks_of({"accuracy": make_matrix([[1.0]], ["m"], ["x"])}, "sums", "f", SET)
    for eval_set, fingerprint in (("a b", "f"), ("sums", "../x"), ("", "f")):
        with pytest.raises(InvalidInputError, match="letters"):
            blocks_of({"accuracy": good}, eval_set, fingerprint)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", r"\.csv, \.npz, \.jsonl"),
        ("a.csv", "subject,x\n", "header"),
        ("a.csv", "subject,x,x\na,1,1\n", "unique"),
        ("a.csv", "subject,x\na,1\na,0\n", "unique"),
        ("a.csv", "subject,x\na,1\n\nb,right\n", "csv:4 b.*'right'"),
        ("a.csv", "subject,x\na,nan\n", "finite"),
        ("a.csv", "subject,x\na,1,0\n", "csv:2.*2 values"),
        ("a.csv", 'subject,x\n"a,1\n', "CSV"),
        ("a.npz", "PK", "npz"),
        ("a.jsonl", "", "a line for each"),
        ("a.jsonl", "{", "jsonl:1"),
        ("a.jsonl", '{"subject": "a", "item": "x", "value": 1}', "jsonl:1 metric"),
        ("a.jsonl", '{"subject": "a", "item": "x", "metric": "accuracy", "value": NaN}', "finite"),
        ("a.jsonl", '{"subject": "a", "item": "x", "metric": "accuracy", "value": 1, "x": 1}', "fields"),
        ("a.jsonl", '{"subject": "a", "item": "x", "metric": "accuracy", "value": 1}\n' * 2, "jsonl:2.*one answer"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_its_place(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)

    with pytest.raises(InvalidInputError, match=message):
        read_answers(tmp_path / name, None if name.endswith("jsonl") else "accuracy")


def test_a_file_that_is_missing_or_without_a_metric_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="exists"):
        read_answers(tmp_path / "no.csv", "accuracy")
    (tmp_path / "a.csv").write_text("subject,x\na,1\n")
    with pytest.raises(InvalidInputError, match="metric"):
        read_answers(tmp_path / "a.csv", None)
    with pytest.raises(InvalidInputError, match="csv"):
        write_answers(tmp_path / "a.xlsx", "accuracy", [make_matrix([[1.0]], ["a"], ["x"])])


def test_jsonl_holds_several_metrics_and_ids_of_any_kind(tmp_path: Path) -> None:
    rows = [
        {"subject": s, "item": i, "metric": m, "value": v}
        for s, i, m, v in (
            ("算数\u2028", "x,\"y\"", "accuracy", 1), ("算数\u2028", "z", "accuracy", 0), ("b", "z", "margin", -2.5),
        )
    ]  # fmt: skip
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    found = read_answers(tmp_path / "a.jsonl", None)
    blocks = blocks_of(found, "sums", "f")

    assert {(b.subject, b.items, tuple(b.values)) for b in blocks} == {
        ("算数\u2028", ('x,"y"', "z"), ("accuracy",)), ("b", ("z",), ("margin",)),
    }  # fmt: skip
    (tmp_path / "b.csv").write_text(as_csv(found["accuracy"]))
    assert same(read_answers(tmp_path / "b.csv", "accuracy")["accuracy"], found["accuracy"])


# What is known


def responses(said: dict[str, float]) -> Responses:
    return Responses(tuple(said), {"accuracy": tuple(said.values())}, 1.0, 10)


def test_known_answers_are_those_to_the_same_questions_whatever_they_were_called() -> None:
    renamed = Item("other", *(getattr(ITEMS[1], name) for name in ("context", "choices", "label")), split="holdout")
    here = make_eval_set("sums", [ITEMS[0], renamed, Item("i2", "changed", (" 1", " 0"), 0)])
    blocks = [block("a", {"i0": 0.0, "i1": 0.5, "i2": 1.0}), block("a", {"i0": 1.0})]
    found = known_answers(
        blocks, {"sums": ("i2", "other", "i0")}, {"sums": {i.id: content_of(i) for i in here.items}}, WANTED
    )

    assert found == {"sums": Responses(("other", "i0"), {"accuracy": (0.5, 1.0)}, 0.0, 0)}
    assert unknown(("i2", "other", "i0"), found["sums"]) == ("i2",)


def test_answers_without_a_wanted_metric_or_of_unknown_content_are_not_known() -> None:
    blocks = [block("a", {"i0": 1.0}, None), block("a", {"i1": 1.0})]

    assert known_answers(blocks, {"sums": ("i0",)}, {"sums": CONTENT}, WANTED) == {}
    assert known_answers(blocks, {"sums": ("i1",)}, {"sums": CONTENT}, {"sums": {"accuracy", "margin"}}) == {}


def test_known_answers_keep_the_metrics_that_all_have() -> None:
    blocks = [block("a", {"i0": 1.0}, margin=(0.3,), log_likelihood=(-1.0,)), block("a", {"i1": 0.0}, margin=(-0.3,))]
    found = known_answers(blocks, {"sums": ("i0", "i1")}, {"sums": CONTENT}, WANTED)

    assert found["sums"].values == {"accuracy": (1.0, 0.0), "margin": (0.3, -0.3)}


@given(known=st.sets(st.sampled_from("abcdef")), asked=st.permutations("abcdef"))
def test_known_and_new_answers_are_what_asking_everything_would_give(known: set[str], asked: list[str]) -> None:
    truth = {name: ord(name) / 200 for name in "abcdef"}
    before = responses({name: truth[name] for name in sorted(known)}) if known else None
    rest = unknown(asked, before)
    found = completed(tuple(asked), before, responses({name: truth[name] for name in rest}))

    assert set(rest) == set(asked) - known
    assert found.item_ids == tuple(asked)
    assert found.values == {"accuracy": tuple(truth[name] for name in asked)}


def test_the_content_of_an_item_is_what_is_asked_and_how_its_answer_is_read() -> None:
    plain = Item("a", "2 + 2 =", (" 4", " 5"), 0)
    alike = [Item("b", "2 + 2 =", (" 4", " 5"), 0, split="holdout", group="g", weight=2.0, question="sum")]
    other = [
        Item("a", "2 + 2 = ", (" 4", " 5"), 0), Item("a", "2 + 2 =", (" 5", " 4"), 0),
        Item("a", "2 + 2 =", (" 4", " 5"), 1), Item("a", "2 + 2 =", references=(" 4", " 5")),
        Item("a", "2 + 2 =", (" 4", " 5"), 0, unconditioned="A:"), Item("a", "2 + 2 =", (" 4", " 5"), 0, delimiter=" "),
    ]  # fmt: skip

    assert {content_of(item) for item in alike} == {content_of(plain)}
    assert len({content_of(plain), *map(content_of, other)}) == 1 + len(other)


def test_a_tokenizers_hash_is_of_its_files_alone(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    before = tokenizer_hash(tmp_path)
    (tmp_path / "model.safetensors").write_text("weights")
    (tmp_path / "README.md").write_text("x")
    same_still = tokenizer_hash(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")

    assert same_still == before != tokenizer_hash(tmp_path)
