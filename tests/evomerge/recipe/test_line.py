"""Lines of recipes: numbers go evenly from one end to the other, and nothing else moves."""

from __future__ import annotations

from typing import Any

import pytest

from evomerge.errors import InvalidInputError
from evomerge.recipe.line import line, places
from evomerge.recipe.schema import Merge, ModelRef, Recipe, Rule


def recipe(merge: Merge, **more: Any) -> Recipe:
    sources = {"ja": ModelRef(location="/ja", sha256="a" * 64), "math": ModelRef(location="/math", sha256="b" * 64)}
    return Recipe(base=ModelRef(location="/base"), sources=sources, merge=merge, **more)


def weighted(ja: float, math: float) -> Merge:
    return Merge(method="linear", sources={"ja": {"weight": ja}, "math": {"weight": math}})


def test_a_coefficient_goes_evenly_from_one_source_to_the_other() -> None:
    found = line(recipe(weighted(1.0, 0.0)), recipe(weighted(0.0, 1.0)), 5)

    assert [one.merge.sources["math"]["weight"] for one in found] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert [one.merge.sources["ja"]["weight"] for one in found] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert found[0].digest == recipe(weighted(1.0, 0.0)).digest
    assert found[-1].digest == recipe(weighted(0.0, 1.0)).digest
    assert places(5) == (0.0, 0.25, 0.5, 0.75, 1.0)


def test_knots_and_rules_move_number_by_number_and_layers_stay() -> None:
    def merge(low: float, high: float) -> Merge:
        rules = (Rule(layers=(2, 3), parameters={"density": high}),)
        return Merge(method="ties", parameters={"density": (low, high)}, rules=rules)

    middle = line(recipe(merge(0.2, 0.4)), recipe(merge(0.4, 1.0)), 3)[1]

    assert middle.merge.parameters["density"] == pytest.approx((0.3, 0.7))
    assert middle.merge.rules[0].layers == (2, 3)
    assert middle.merge.rules[0].parameters["density"] == pytest.approx(0.7)


def test_a_recipe_elsewhere_is_the_same_model() -> None:
    ends = recipe(weighted(1.0, 0.0)), recipe(weighted(0.0, 1.0))
    moved = ends[1].model_copy(
        update={"sources": {n: r.model_copy(update={"location": f"/x{n}"}) for n, r in ends[1].sources.items()}}
    )

    assert [one.digest for one in line(ends[0], moved, 3)] == [one.digest for one in line(*ends, 3)]


@pytest.mark.parametrize(
    ("last", "field"),
    [
        (recipe(weighted(1.0, 0.0)), "last.*another number"),
        (recipe(weighted(0.0, 1.0), seed=3), "seed.*got 3"),
        (recipe(Merge(method="slerp")), "merge.*linear"),
        (recipe(Merge(method="linear", sources={"ja": {"weight": 1.0}})), "merge.sources"),
    ],
)
def test_recipes_that_differ_in_more_than_numbers_are_refused(last: Recipe, field: str) -> None:
    with pytest.raises(InvalidInputError, match=f"(?s){field}"):
        line(recipe(weighted(1.0, 0.0)), last, 3)


def test_a_line_has_a_recipe_with_two_neighbours() -> None:
    with pytest.raises(InvalidInputError, match="at least 3"):
        line(recipe(weighted(1.0, 0.0)), recipe(weighted(0.0, 1.0)), 2)
