from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from api.cli import app
from evomerge.errors import InvalidInputError
from evomerge.recipe.text import load_recipe

MANY = """
name: one
merge_method: linear
models: [{model: me/a, parameters: {weight: 1}}]
dtype: float32
---
merge_method: linear
models: [{model: one, parameters: {weight: [0.0, 1.0]}}]
parameters: {normalize: false}
dtype: float32
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "merge.yaml"
    path.write_text(MANY.partition("---")[0])
    return path


def test_a_file_of_mergekit_becomes_a_recipe(file: Path) -> None:
    out = file.with_name("recipe.yaml")

    ran = CliRunner().invoke(app, ["import", str(file), "-o", str(out)], catch_exceptions=False)

    assert ran.exit_code == 0
    assert load_recipe(out).sources["a"].location == "hub:me/a"
    assert "wrote" in ran.stderr


def test_without_an_output_the_recipe_is_printed(file: Path) -> None:
    ran = CliRunner().invoke(app, ["import", str(file)], catch_exceptions=False)

    assert ran.stdout.startswith("schema: evomerge.recipe/1\n")


def test_merges_that_are_used_lie_beside_the_one_that_uses_them(file: Path) -> None:
    config = file.with_name("config.json")
    config.write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 3}))
    file.write_text(MANY)
    out = file.with_name("recipe.yaml")

    ran = CliRunner().invoke(
        app, ["import", str(file), "-o", str(out), "--config", str(config)], catch_exceptions=False
    )

    assert ran.exit_code == 0
    assert load_recipe(out).sources["one"].location == "one.yaml"
    assert load_recipe(out).merge.sources["one"] == {"weight": (0.0, 1.0)}
    assert load_recipe(file.with_name("one.yaml")).sources["a"].location == "hub:me/a"


@pytest.mark.parametrize("output", [None, "one.yaml"])
def test_merges_that_are_used_need_a_place(file: Path, output: str | None) -> None:
    file.write_text(MANY.replace("[0.0, 1.0]", "1.0"))
    asked = [] if output is None else ["-o", str(file.with_name(output))]

    with pytest.raises(InvalidInputError) as caught:
        CliRunner().invoke(app, ["import", str(file), *asked], catch_exceptions=False)

    assert caught.value.field == "--output"
    assert "one.yaml" in caught.value.allowed
