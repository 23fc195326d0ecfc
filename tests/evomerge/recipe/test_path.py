from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.errors import InvalidInputError
from evomerge.recipe.document import parse_yaml
from evomerge.recipe.path import Hop, LayerPath
from evomerge.recipe.schema import Recipe
from evomerge.recipe.text import dump_json, dump_yaml, load_yaml, validate

TEXT = """\
base: {location: b}
sources: {math: {location: m}, code: {location: c}}
path:
  layers:
  - {model: base, layer: 0}
  - {model: math, layer: 1, scale: -0.5}
  - {model: base, layer: 2, scale: 2.0}
"""
MERGE = "merge: {method: linear, sources: {math: {weight: 2.0}}}\n"


def recipe(text: str = TEXT) -> Recipe:
    document = parse_yaml(text, "r.yaml")
    return validate(Recipe, document.data, document.where, document.lines)


@st.composite
def paths(draw: st.DrawFn) -> LayerPath:
    names = st.sampled_from(["base", "math", "code"])
    scales = st.floats(0.9, 1.1) | st.floats(-1.1, -0.9) | st.just(1.0)
    hops = st.lists(st.builds(Hop, model=names, layer=st.integers(0, 40), scale=scales), min_size=1, max_size=12)
    semantics = draw(st.sampled_from(["stream", "delta"]))
    return LayerPath(host=draw(names), semantics=semantics, layers=tuple(draw(hops)))


@settings(deadline=None, max_examples=40)
@given(paths())
def test_a_path_written_and_read_is_the_same(path: LayerPath) -> None:
    wanted = recipe().model_copy(update={"path": path})

    assert validate(Recipe, load_yaml(dump_yaml(wanted))) == wanted
    assert validate(Recipe, load_yaml(dump_json(wanted))) == wanted


def test_scales_multiply_up_from_the_second_hop_on() -> None:
    assert recipe().path is not None
    assert recipe().path.cumulative == (1.0, -0.5, -1.0)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("old", "new", "where", "allowed"),
    [
        ("math, layer: 1", "phd, layer: 1", "r.yaml:6 path.layers[1].model", "one of the recipe's sources: code, math"),
        ("  layers:", "  host: phd\n  layers:", "r.yaml:4 path.host", "one of the recipe's sources"),
        ("-0.5", "0", "r.yaml:6 path.layers[1].scale", "product"),
        ("-0.5", ".inf", "r.yaml:6 path.layers[1].scale", "a finite number"),
        ("-0.5", "1e-3", "r.yaml:6 path.layers[1].scale", "here 0.001"),
        ("2.0", "201", "r.yaml:7 path.layers[2].scale", "from 0.01 to 100"),
        ("layer: 0", "layer: -1", "r.yaml:5 path.layers[0].layer", "greater than or equal to 0"),
        ("layer: 0", "layer: 0, scale: 0", "r.yaml:5 path.layers[0].scale", "from 0.01 to 100"),
        ("  layers:", "  semantics: sideways\n  layers:", "r.yaml:4 path.semantics", "'stream' or 'delta'"),
        ("base, layer: 2", "merged, layer: 2", "r.yaml:1 merge", "required"),
        ("{math:", "{merged: {location: x}, math:", "r.yaml:2 sources.merged", "another name"),
        ("path:", "slices: [{base: [0, 1]}]\npath:", "r.yaml:3 slices", "a path or slices"),
        ("path:", "output: {kind: adapter}\npath:", "r.yaml:3 output", "a path or output"),
        ("path:", "tokenizer: math\npath:", "r.yaml:3 tokenizer", "its host's vocabulary"),
        ("path:", "align: {math: {method: weights}}\npath:", "r.yaml:3 align.math", "stays as it is"),
        ("path:", "pad_to_multiple_of: 8\npath:", "r.yaml:3 pad_to_multiple_of", "its host's vocabulary"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(old: str, new: str, where: str, allowed: str) -> None:
    assert old in TEXT
    with pytest.raises(InvalidInputError) as error:
        recipe(TEXT.replace(old, new, 1))

    assert error.value.field == where
    assert allowed in error.value.allowed


def test_a_path_that_is_too_long_is_refused() -> None:
    hops: list[Any] = [{"model": "base", "layer": 0}] * 1025
    with pytest.raises(InvalidInputError, match="at most 1024 entries"):
        validate(Recipe, load_yaml(TEXT) | {"path": {"layers": hops}})


def test_delta_scales_stand_alone() -> None:
    """They do not multiply up: an MLP's output may be left out, and many may be halved."""
    text = TEXT.replace("  layers:", "  semantics: delta\n  layers:")

    assert recipe(text.replace("-0.5", "0")).path is not None
    with pytest.raises(InvalidInputError, match="at most 100"):
        recipe(text.replace("-0.5", "101"))


def test_what_the_path_does_not_visit_does_not_count() -> None:
    pinned = "48da4d65105f2582c30a0185e8a256400858b1f336f3adc98a7b0aa7aa278407"

    assert recipe().digest == pinned
    assert recipe(TEXT + MERGE).digest == pinned
    assert recipe(TEXT + "seed: 3\n").digest == pinned
    assert recipe(TEXT.replace("{location: c}", "{location: d}")).digest == pinned
    assert recipe(TEXT.replace("{location: m}", "{location: d}")).digest != pinned
    assert recipe(TEXT.replace("-0.5", "0.5")).digest != pinned


def test_all_of_the_recipe_counts_once_its_merge_is_visited() -> None:
    text = TEXT.replace("base, layer: 2", "merged, layer: 2")
    digest = recipe(text + MERGE).digest

    assert recipe(text + MERGE.replace("2.0", "3.0")).digest != digest
    assert recipe(text + MERGE + "seed: 3\n").digest != digest
    assert recipe(text.replace("{location: c}", "{location: d}") + MERGE).digest != digest


def test_semantics_count_only_where_something_is_scaled() -> None:
    def digest(text: str, semantics: str) -> str:
        return recipe(text.replace("  layers:", f"  semantics: {semantics}\n  layers:")).digest

    plain = TEXT.replace(", scale: -0.5", "").replace(", scale: 2.0", "")

    assert digest(plain, "stream") == digest(plain, "delta")
    assert digest(TEXT, "stream") != digest(TEXT, "delta")
