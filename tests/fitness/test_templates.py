"""Rows of files become items by templates."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import InvalidInputError
from fitness.items import Answering, Item, load_eval_set, write_items
from fitness.rows import rows_of, texts_of
from fitness.templates import Template, items_of

ROWS: list[dict[str, Any]] = [
    {"q": "2 + 2?", "options": ["4", "5"], "right": "A", "level": "easy", "n": 1},
    {"q": "2 + 3?", "options": ["4", "5"], "right": "B", "level": "hard", "n": 2},
]
CHOICES = """
context: "Q: {{ q }}\\nA:"
choices: "{{ options }}"
delimiter: " "
label: "{{ right }}"
group: "{{ level }}"
question: "{{ q }}"
weight: "{{ n }}"
id: "{{ level }}-{{ n }}"
"""


def test_choices_from_a_list_with_a_letter_for_the_right_one() -> None:
    found = items_of(ROWS, Template.load(CHOICES))

    assert found == [
        Item("easy-1", "Q: 2 + 2?\nA:", (" 4", " 5"), 0, group="easy", delimiter=" ", question="2 + 2?"),
        Item("hard-2", "Q: 2 + 3?\nA:", (" 4", " 5"), 1, group="hard", weight=2.0, delimiter=" ", question="2 + 3?"),
    ]


@pytest.mark.parametrize("label", [1, "1", "{{ n }}", "B", "b", "{{ options[1] }}"])
def test_a_label_is_an_index_a_letter_or_a_choice(label: Any) -> None:
    template = Template.of({"context": "{{ q }}", "choices": ["{{ options[0] }}", "{{ options[1] }}"], "label": label})

    assert template.item(ROWS[0] | {"options": ["x", "y"]}, "row").label == 1


def test_generation_with_how_its_answer_is_read() -> None:
    template = Template.of(
        {
            "context": "{{ q }}", "references": ["{{ options[0] }}", "four"],
            "answering": {
                "extract": "last_number", "stop": ["{{ level }}"], "max_new_tokens": 9, "tests": "x = {{ n }}",
            },
        }
    )  # fmt: skip
    item = template.item(ROWS[0], "row")

    assert item.references == ("4", "four")
    assert item.answering == Answering("last_number", ("easy",), 9, "x = 1")


def test_ids_are_hashes_of_what_is_said_and_the_same_row_counts_once() -> None:
    template = Template.of({"context": "{{ q }}", "references": "{{ options }}"})
    found = items_of([*ROWS, ROWS[0]], template)

    assert len(found) == 2
    assert items_of(ROWS[::-1], template) == found[::-1]


@pytest.mark.parametrize(
    ("part", "value", "match"),
    [
        ("colour", "red", "template colour"),
        ("context", 3, "template context"),
        ("context", "{{ absent }}", "row 1 context.*'absent' is undefined"),
        ("context", "{{ q", "row 1 context"),
        ("context", "{{ q + n }}", "row 1 context"),
        ("context", "{{ ''.__class__.__mro__ }}", "row 1 context"),
        ("choices", "{{ n }}", "row 1 choices.*a list"),
        ("choices", [1], "template choices"),
        ("label", "C", "row 1 label"),
        ("label", "{{ q }}", "row 1 label"),
        ("weight", "{{ q }}", "row 1 weight"),
        ("answering", {"tone": "kind"}, "template answering"),
        ("answering", {"stop": "x"}, "template answering.stop"),
    ],
)
def test_a_wrong_part_is_named(part: str, value: Any, match: str) -> None:
    with pytest.raises(InvalidInputError, match=match):
        items_of(ROWS, Template.of({"context": "{{ q }}", "choices": "{{ options }}", "label": 0} | {part: value}))


def test_a_template_is_a_file_or_yaml(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(CHOICES, encoding="utf-8")

    assert Template.load(str(tmp_path / "t.yaml")) == Template.load(CHOICES)
    for wrong, match in ((str(tmp_path / "absent.yaml"), "exists"), ("{", "YAML"), ("[1]\n", "mapping")):
        with pytest.raises(InvalidInputError, match=match):
            Template.load(wrong)


def write(path: Path) -> Path:
    plain = [{"q": row["q"], "n": str(row["n"])} for row in ROWS]
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, ["q", "n"], dialect="excel-tab" if path.suffix == ".tsv" else "excel")
            writer.writeheader()
            writer.writerows(plain)
    elif path.suffix == ".json":
        path.write_text(json.dumps(plain), encoding="utf-8")
    elif path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(plain), path)
    else:
        path.write_text("\n".join(map(json.dumps, plain)) + "\n\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.tsv", "rows.json", "rows.parquet"])
def test_rows_of_every_format(tmp_path: Path, name: str) -> None:
    path = str(write(tmp_path / name))

    assert list(rows_of(path)) == [{"q": "2 + 2?", "n": "1"}, {"q": "2 + 3?", "n": "2"}]
    assert list(texts_of(path)) == ["2 + 2?\n1", "2 + 3?\n2"]


def test_texts_are_found_however_deep(tmp_path: Path) -> None:
    row = {"id": 3, "messages": [{"role": "user", "content": "Who?"}, {"content": "Me."}]}
    (tmp_path / "chat.jsonl").write_text(json.dumps(row), encoding="utf-8")
    (tmp_path / "plain.txt").write_text("one\n\ntwo\n", encoding="utf-8")

    assert list(texts_of(str(tmp_path / "chat.jsonl"))) == ["user\nWho?\nMe."]
    assert list(texts_of(str(tmp_path / "plain.txt"))) == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("a.jsonl", '{"a": 1}\n[1]', "a.jsonl:2"),
        ("a.json", "{", "JSON"),
        ("a.json", "{}", "list of objects"),
        ("a.csv", "a,b\n1", "a.csv row"),
        ("a.csv", "a,b\n1,2,3", "a.csv row"),
        ("a.parquet", "no", "a Parquet file"),
        ("a.xlsx", "no", "ends in"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, text: str, match: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")

    with pytest.raises(InvalidInputError, match=match):
        list(rows_of(str(tmp_path / name)))


def test_what_comes_out_is_an_eval_set(tmp_path: Path) -> None:
    items = items_of(
        rows_of(str(write(tmp_path / "rows.csv"))), Template.of({"context": "{{ q }}", "references": ["{{ n }}"]})
    )
    write_items(items, tmp_path / "s.jsonl")

    assert list(load_eval_set("s", tmp_path / "s.jsonl").items) == items


@pytest.mark.slow  # importing datasets takes seconds
@pytest.mark.filterwarnings("ignore")  # its dependencies' own
def test_folders_that_datasets_reads_or_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    (tmp_path / "plain").mkdir()
    for split, row in zip(("train", "test"), ROWS, strict=True):
        (tmp_path / "plain" / f"{split}.jsonl").write_text(json.dumps(row), encoding="utf-8")
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    parts = {split: datasets.Dataset.from_list([row]) for split, row in zip(("train", "test"), ROWS, strict=True)}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "parts"))

    assert list(rows_of(str(tmp_path / "saved"))) == ROWS
    for name in ("plain", "parts"):
        assert list(rows_of(str(tmp_path / name), split="test")) == ROWS[1:]
        assert sorted(texts_of(str(tmp_path / name))) == ["2 + 2?\n4\n5\nA\neasy", "2 + 3?\n4\n5\nB\nhard"]
        with pytest.raises(InvalidInputError, match="train"):
            rows_of(str(tmp_path / name), split="dev")
    with pytest.raises(InvalidInputError, match="can be reached"):
        rows_of("nobody/nothing-at-all")
