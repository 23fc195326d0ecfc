from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from evomerge.recipe.schema import Merge, ModelRef, Recipe, role_matches
from evomerge.recipe.text import recipe_data
from evomerge.testing.recipes import recipes

HASH = "0123456789abcdef" * 4


def shuffled(value: Any, order: random.Random) -> Any:
    """The same JSON value with its keys in another order and whole floats as ints."""
    if isinstance(value, dict):
        items = list(value.items())
        order.shuffle(items)
        return {key: shuffled(v, order) for key, v in items}
    if isinstance(value, list):
        return [shuffled(v, order) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@settings(deadline=None, max_examples=40)
@given(recipes(), st.randoms(use_true_random=False))
def test_the_digest_does_not_depend_on_spelling(recipe: Recipe, order: random.Random) -> None:
    respelled = Recipe.model_validate(json.loads(json.dumps(shuffled(recipe_data(recipe), order))))

    assert respelled.digest == recipe.digest


@settings(deadline=None, max_examples=20)
@given(recipes())
def test_the_digest_ignores_what_does_not_change_the_weights(recipe: Recipe) -> None:
    same = recipe.model_copy(update={"provenance": {"run": "x"}, "shard_bytes": 7})

    assert same.digest == recipe.digest


@settings(deadline=None, max_examples=20)
@given(recipes(), st.integers(0, 2**63 - 1))
def test_the_digest_changes_with_the_seed(recipe: Recipe, seed: int) -> None:
    assert (recipe.model_copy(update={"seed": seed}).digest == recipe.digest) == (seed == recipe.seed)


def test_the_digest_is_pinned() -> None:
    """Stored recipes are found by their digest: it must not change between versions."""
    recipe = Recipe(
        base=ModelRef(location="b", sha256=HASH),
        sources={"x": ModelRef(location="s")},
        merge=Merge(method="linear", parameters={"weight": (0.5, 1.0)}),
    )

    assert recipe.digest == PINNED


PINNED = "c10692d8d3a7580eafc52dd921853d885f1339b27a5278d2e2b0e8ec4b123a0d"


def test_a_place_counts_only_where_no_hash_does() -> None:
    def digest(place: str, sha256: str | None) -> str:
        ref = ModelRef(location=place, sha256=sha256)
        return Recipe(base=ref, sources={"x": ref}, merge=Merge(method="linear")).digest

    assert digest("a", HASH) == digest("b", HASH)
    assert digest("a", None) != digest("b", None)


def test_the_order_of_sources_is_that_of_their_names() -> None:
    ref = ModelRef(location="x")
    one = Recipe(base=ref, sources={"b": ref, "a": ref}, merge=Merge(method="slerp"))

    assert list(one.sources) == ["a", "b"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), {1: 2}, {"a": object()}, ["\ud800"]])
def test_provenance_holds_only_what_json_can(bad: Any) -> None:
    ref = ModelRef(location="x")

    with pytest.raises(ValidationError):
        Recipe(base=ref, sources={"a": ref}, merge=Merge(method="linear"), provenance={"x": bad})


@pytest.mark.parametrize("bad", [float("nan"), float("-inf"), (0.5, float("nan")), ()])
def test_parameters_are_finite(bad: Any) -> None:
    with pytest.raises(ValidationError):
        Merge(method="linear", parameters={"weight": bad})


def test_a_role_covers_those_below_it() -> None:
    assert role_matches("norm.attention.post", ("norm.attention",))
    assert not role_matches("norms", ("norm",))
