from __future__ import annotations

import json
from typing import Any

import pytest

from evomerge.errors import InvalidInputError
from evomerge.recipe.schema import Recipe
from evomerge.recipe.text import dump_json, dump_yaml, load_yaml, validate

HASH = "0123456789abcdef" * 4


def data(**more: Any) -> dict[str, Any]:
    return {
        "base": {"location": "b", "sha256": HASH},
        "sources": {"x": {"location": "x"}, "y": {"location": "y"}},
        "merge": {"method": "linear"},
        "segments": {
            "angle": "side",
            "chromosomes": [
                {"roles": ["attention"], "starts": [["q", 0]], "weights": {"y": [1.0], "x": [0.1]}, "noise": [[2.0]]},
                {"starts": [["e", 0], ["e", 7]], "weights": {"x": [0.25, 1.0], "y": [0.75, 0.0]}, "noise": [[0, 1]]},
            ],
            "noise": [{"seed": 3, "std": 0.01}],
        },
        **more,
    }


def test_a_recipe_with_segments_reads_back_from_yaml_and_json() -> None:
    recipe = Recipe.model_validate(data())

    for text, read in ((dump_yaml(recipe), load_yaml), (dump_json(recipe), json.loads)):
        again = validate(Recipe, read(text))
        assert again == recipe
        assert again.digest == recipe.digest
    assert "roles: [attention]" in dump_yaml(recipe)
    assert "- [e, 7]" in dump_yaml(recipe)


def test_the_digest_is_about_weights_and_not_about_how_they_came_to_be() -> None:
    recipe = Recipe.model_validate(data())
    other = data()
    other["segments"]["angle"] = "global"
    moved = data()
    moved["segments"]["chromosomes"][1]["starts"][1][1] = 8
    louder = data()
    louder["segments"]["noise"][0]["std"] = 0.02

    assert Recipe.model_validate(other).digest == recipe.digest
    assert Recipe.model_validate(moved).digest != recipe.digest
    assert Recipe.model_validate(louder).digest != recipe.digest


def wrong(at: tuple[Any, ...], value: Any) -> dict[str, Any]:
    found = data()
    inner: Any = found
    for part in at[:-1]:
        inner = inner[part]
    inner[at[-1]] = value
    return found


FIRST = ("segments", "chromosomes", 0)


@pytest.mark.parametrize(
    ("broken", "field", "allowed"),
    [
        (wrong(("merge",), {"method": "ties"}), "merge.method", "linear"),
        (wrong(("merge",), {"method": "linear", "parameters": {"weight": 1.0}}), "merge.parameters", "none"),
        (data(slices=[{"base": [0, 1]}]), "slices", "none with segments"),
        (data(tokenizer="union"), "tokenizer", "none with segments"),
        (
            wrong((*FIRST, "weights"), {"x": [1.0], "y": [0.0], "z": [0.0]}),
            "segments.chromosomes[0].weights.z",
            "one of",
        ),
        (wrong((*FIRST, "weights"), {"x": [1.0]}), "segments.chromosomes[0].weights", "also of 'y'"),
        (wrong((*FIRST, "weights", "x"), [1.0, 2.0]), "segments.chromosomes[0].weights.x", "one a segment: 1"),
        (wrong((*FIRST, "noise"), []), "segments.chromosomes[0].noise", "one a noise term of the recipe: 1"),
        (wrong((*FIRST, "noise"), [[1, 2]]), "segments.chromosomes[0].noise[0]", "one a segment: 1"),
        (wrong((*FIRST, "roles"), []), "segments.chromosomes[1].roles", "one chromosome at most"),
        (wrong((*FIRST, "starts"), []), "segments.chromosomes[0].starts", "at least 1 entry"),
        (wrong((*FIRST, "starts"), [["q", -1]]), "segments.chromosomes[0].starts[0][1]", "greater than"),
        (wrong(("segments", "order"), "files"), "segments.order", "layers/1"),
        (wrong(("segments", "angle"), "sides"), "segments.angle", "'global', 'side' or 'tensor'"),
    ],
)
def test_segments_that_cannot_be_are_refused_by_field(broken: dict[str, Any], field: str, allowed: str) -> None:
    with pytest.raises(InvalidInputError, match=allowed) as caught:
        validate(Recipe, broken)
    assert caught.value.field == field
