from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.errors import InvalidInputError
from evomerge.recipe.document import MAX_BYTES, dump_json_data, dump_yaml_data, parse_json, parse_yaml, read_document
from evomerge.testing.recipes import json_values


@settings(deadline=None)
@given(json_values())
def test_yaml_reads_back_what_was_written(data: Any) -> None:
    read = parse_yaml(dump_yaml_data(data)).data

    assert json.dumps(read) == json.dumps(data)  # 1 and 1.0 and True apart


@settings(deadline=None)
@given(json_values())
def test_other_yaml_readers_read_the_same(data: Any) -> None:
    assert yaml.safe_load(dump_yaml_data(data)) == data


@settings(deadline=None)
@given(json_values())
def test_json_reads_back_what_was_written(data: Any) -> None:
    assert json.dumps(parse_json(dump_json_data(data)).data) == json.dumps(data)


@settings(deadline=None)
@given(st.text(max_size=60) | st.text("{}[]:,-&*!|>'\"#%@`? \n\tab1", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_yaml, parse_json):
        with contextlib.suppress(InvalidInputError):
            parse(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5), ("1.e3", 1000.0), (".5", 0.5), ("-3", -3), ("+1", 1), ("08", 8), ("true", True), ("~", None),
        ("no", "no"), ("on", "on"), ("0x1F", "0x1F"), ("1_000", "1_000"), ("12:30", "12:30"), ("2024-1-1", "2024-1-1"),
        ("'1e-5'", "1e-5"), ('"true"', "true"), ("", None), ("!!str 3", "3"), (".inf", float("inf")), ("1e", "1e"),
    ],
)  # fmt: skip
def test_scalars_follow_the_core_schema_of_yaml_1_2(text: str, value: Any) -> None:
    read = parse_yaml(f"key: {text}").data["key"]

    assert read == value
    assert type(read) is type(value)


def test_keys_are_always_text() -> None:
    assert parse_yaml("no: 1\n1: 2\n~: 3\n1e5: 4").data == {"no": 1, "1": 2, "~": 3, "1e5": 4}


def test_every_value_knows_its_line() -> None:
    document = parse_yaml("a:\n  b: 1\n  c:\n  - x\n  - {d: 2}\n")

    assert document.lines == {(): 1, ("a",): 2, ("a", "b"): 2, ("a", "c"): 4, ("a", "c", 0): 4, ("a", "c", 1): 5} | {
        ("a", "c", 1, "d"): 5
    }


def test_json_values_know_their_lines_too() -> None:
    assert parse_json('{\n "a": [1,\n 2]}').lines[("a", 1)] == 3


def test_aliases_stand_for_their_anchors_value() -> None:
    assert parse_yaml("a: &x [1, 2]\nb: *x").data == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: 1\nb: 2\na: 3", 3, "every key once"),
        ("a:\n  b: [1\nc: 2", 3, "valid YAML"),
        ("a: 1\n---\nb: 2", 2, "one document"),
        ("a: !!python/object/apply:os.system [ls]", 1, "no tag"),
        ("a: !x 1", 1, "no tag"),
        ("a: *missing", 1, "anchor defined above"),
        ("a: &a [*a]", 1, "anchor defined above"),
        ("? [1, 2]\n: 3", 1, "a string as a key"),
        ("a: [" + "[" * 100, 1, "levels"),
        ("a:\n\t- b", 2, "valid YAML"),
    ],
)
def test_a_bad_yaml_document_is_refused_with_its_line(text: str, line: int, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says) as caught:
        parse_yaml(text, "recipe.yaml")

    assert caught.value.field == f"recipe.yaml:{line}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": 1, "a": 2}', "'a' occurs twice"),
        ('{"a": NaN}', "NaN is not a number"),
        ('{"a": [1,]}', "valid JSON"),
        ("[" * 100_000, "too deeply"),
        ("", "valid JSON"),
    ],
)
def test_a_bad_json_document_is_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says) as caught:
        parse_json(text, "recipe.json")

    assert caught.value.field.startswith("recipe.json")


def test_a_billion_laughs_stop_at_the_limit() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]

    with pytest.raises(InvalidInputError, match="aliases expanded"):
        parse_yaml("\n".join(lines))


def test_files_are_read_by_their_ending(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": "\\ud83d\\ude00",\t"b": 1}', encoding="utf-8-sig")
    (tmp_path / "a.yaml").write_text("a: 😀\nb: 1", encoding="utf-8-sig")

    assert read_document(tmp_path / "a.json").data == read_document(tmp_path / "a.yaml").data == {"a": "😀", "b": 1}


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"a: \xff")
    (tmp_path / "large.yaml").write_bytes(b"#" * (MAX_BYTES + 1))

    for name, says in (("none.yaml", "No such file"), ("binary.yaml", "not UTF-8"), ("large.yaml", "bytes")):
        with pytest.raises(InvalidInputError, match=says) as caught:
            read_document(tmp_path / name)
        assert caught.value.field == str(tmp_path / name)


def test_json_has_no_form_for_nan() -> None:
    with pytest.raises(ValueError, match="NaN"):
        dump_json_data({"a": [float("nan")]})
