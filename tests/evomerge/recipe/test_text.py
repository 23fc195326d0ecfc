from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from evomerge.errors import InvalidInputError
from evomerge.recipe.document import parse_json, parse_yaml
from evomerge.recipe.schema import Recipe
from evomerge.recipe.text import (
    dump_data,
    dump_json,
    dump_yaml,
    load_as,
    load_recipe,
    load_yaml,
    validate,
    validate_document,
)
from evomerge.run.spec import RunSpec
from evomerge.testing.recipes import recipes

YAML = """\
base: {location: base}
sources:
  math: {location: math}
  ja: {location: ja}
merge:
  method: ties
  parameters: {lambda: 1e-5, density: [0.1, 1]}
  rules:
  - layers: [1, 2]
    source: ja
    parameters: {weight: 0.5}
"""


@settings(deadline=None, max_examples=40)
@given(recipes())
def test_loading_what_was_dumped_gives_the_same_recipe(recipe: Recipe) -> None:
    from_yaml = validate_document(Recipe, parse_yaml(dump_yaml(recipe)))
    from_json = validate_document(Recipe, parse_json(dump_json(recipe)))

    assert from_yaml == from_json == recipe
    assert from_yaml.digest == from_json.digest == recipe.digest


def test_a_recipe_is_loaded_from_either_format(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(YAML)
    recipe = load_recipe(tmp_path / "r.yaml")
    (tmp_path / "r.json").write_text(dump_json(recipe))

    assert load_recipe(tmp_path / "r.json") == recipe
    assert recipe.merge.parameters == {"lambda": 1e-5, "density": (0.1, 1.0)}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "  method: ties",
            "  methd: ties",
            "6 merge.methd: got 'ties'; expected one of the fields ['method', 'pipeline', 'parameters'",
        ),
        ("  method: ties\n", "", "6 merge.method: got None; expected a value: it is required"),
        ("lambda: 1e-5", "lambda: .nan", "7 merge.parameters.lambda: got nan; expected true or false or a finite"),
        ("lambda: 1e-5", "lambda: ", "7 merge.parameters.lambda: got None; expected true or false or a number or text"),
        ("[0.1, 1]", "[]", "7 merge.parameters.density: got []; expected"),
        ("[1, 2]", "[2, 1]", "9 merge.rules[0].layers: got [2, 1]; expected [first, last] with 0 <= first"),
        ("layers: [1, 2]", "layer: 1", "9 merge.rules[0].layer: got 1; expected one of the fields ['layers', 'roles'"),
        ("source: ja", "source: fr", "10 merge.rules[0].source: got 'fr'; expected one of the recipe's sources: ja"),
        ("method: ties", "method: pipeline", "merge.pipeline: got None; expected stages with method 'pipeline'"),
        ("ja: {location: ja}", "union: {location: ja}", "4 sources.union: got 'union'; expected another name: base, "),
        (
            "base: {location: base}",
            "base: {location: base, revision: v1}",
            "1 base.revision: got 'v1'; expected none: only",
        ),
        (
            "base: {location: base}",
            "base: base",
            "1 base: got 'base'; expected a mapping with the fields ['location', ",
        ),
        ("[1, 2]", "[1, 2, 3]", "9 merge.rules[0].layers: got [1, 2, 3]; expected at most 2 entries"),
        (
            "ja: {location: ja}",
            "ja: {location: ja, sha: 1}",
            "4 sources.ja.sha: got 1; expected one of the fields ['loc",
        ),
        ("ja: {location: ja}", "ja: x", "4 sources.ja: got 'x'; expected a mapping"),
        ("ja: {location: ja}", "j a: {location: ja}", "4 sources.j a: got 'j a'; expected text like"),
        (
            "base: {location: base}",
            "base: {location: base}\nseed: -1",
            "seed: got -1; expected greater than or equal to 0",
        ),
        ("base: {location: base}", "base: {location: base}\ndtype: int8", "2 dtype: got 'int8'; expected 'float32', '"),
        ("base: {location: base}", "- 1", "valid YAML"),
    ],
)
def test_errors_name_file_line_and_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(YAML.replace(old, new))

    with pytest.raises(InvalidInputError) as caught:
        load_recipe(tmp_path / "r.yaml")

    assert str(caught.value).startswith(f"{tmp_path / 'r.yaml'}")
    assert message in str(caught.value)


def test_a_document_that_is_no_mapping_says_what_it_should_hold(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("")

    with pytest.raises(InvalidInputError, match="a mapping with the fields \\['schema', 'base', 'sources'"):
        load_recipe(tmp_path / "r.yaml")


def test_other_specifications_are_read_the_same_way(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("models: {base: b, sources: {a: a}}\nspace: {}\nobjectives:\n- {name: x}\n")

    with pytest.raises(InvalidInputError, match=r"run.yaml:4 objectives\[0\].eval_sets: got \[\]"):
        load_as(RunSpec, tmp_path / "run.yaml")


def test_errors_without_a_file_name_the_field_alone() -> None:
    with pytest.raises(InvalidInputError) as caught:
        validate(RunSpec, {"models": {"base": "b", "sources": {}}})

    assert caught.value.field == "models.sources"
    assert "2 more wrong fields" in caught.value.allowed


@settings(deadline=None, max_examples=20)
@given(recipes())
def test_json_and_yaml_hold_the_same_data(recipe: Recipe) -> None:
    data: Any = load_yaml(dump_yaml(recipe))

    assert data == json.loads(dump_json(recipe))
    assert load_yaml(dump_data(data)) == data


def test_a_written_recipe_is_short(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(YAML)
    merge = dump_yaml(load_recipe(tmp_path / "r.yaml")).partition("merge:\n")[2].partition("tokenizer")[0]

    assert merge == (
        "  method: ties\n  parameters: {lambda: 1.0e-05, density: [0.1, 1.0]}\n"
        "  rules:\n  - layers: [1, 2]\n    source: ja\n    parameters: {weight: 0.5}\n"
    )
