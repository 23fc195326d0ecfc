"""Recipes on the line between two that differ in numbers of their merge: a coefficient on its way to another value."""

from __future__ import annotations

from typing import Any

import numpy as np

from evomerge.errors import InvalidInputError
from evomerge.recipe.schema import Recipe


def places(steps: int) -> tuple[float, ...]:
    """Where recipes of a line lie, from 0 to 1, evenly spaced.

    Raises:
        InvalidInputError: fewer than three: none would have two neighbours.
    """
    if steps < 3:
        raise InvalidInputError("steps", steps, "at least 3")
    return tuple(np.linspace(0.0, 1.0, steps).tolist())


def line(first: Recipe, last: Recipe, steps: int) -> tuple[Recipe, ...]:
    """Recipes from one to another; each number of `merge` that differs goes evenly from its value here to that there.

    Args:
        first, last: pinned, so that equal models are equal wherever they lie.
        steps: recipes, the two among them.

    Raises:
        InvalidInputError: fewer than three steps, or recipes that differ in nothing, or in more than such numbers;
            names the field.
    """
    at = places(steps)
    if first.digest == last.digest:
        raise InvalidInputError("last", "the same recipe as the first", "a recipe with another number in `merge`")
    if last.model_copy(update={"merge": first.merge}).digest != first.digest:
        here, there = first.canonical(), last.canonical()
        field = next((k for k in (*here, *there) if k != "merge" and here.get(k) != there.get(k)), "merge")
        raise InvalidInputError(field, there.get(field), f"{here.get(field)!r}, as in the first recipe")
    ours, theirs = (recipe.merge.model_dump(mode="json") for recipe in (first, last))
    data = first.model_dump(mode="json", by_alias=True) | {"provenance": {}}
    return tuple(Recipe.model_validate(data | {"merge": _between(ours, theirs, place, "merge")}) for place in at)


def _between(a: Any, b: Any, place: float, field: str) -> Any:
    if a == b:
        return a
    if isinstance(a, float) and isinstance(b, float):
        return (1 - place) * a + place * b
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return {key: _between(a[key], b[key], place, f"{field}.{key}") for key in a}
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [_between(x, y, place, f"{field}.{n}") for n, (x, y) in enumerate(zip(a, b, strict=True))]
    raise InvalidInputError(field, b, f"{a!r}, as in the first recipe; only numbers may differ, one for one")
