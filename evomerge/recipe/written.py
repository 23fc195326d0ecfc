"""A recipe as it is stored and sent: JSON text that is made once and read by whoever builds the model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.recipe.schema import Recipe

encode: Callable[[Any], str] = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
"""JSON as it is stored. NaN and infinity are refused (ValueError): no browser could read them."""


@dataclass(frozen=True, slots=True)
class Written:
    """A recipe that somebody made who need not look at it.

    Attributes:
        text: `encode` of its data.
    """

    text: str


def written(recipe: Recipe) -> Written:
    """A recipe as text."""
    return Written(encode(recipe.model_dump(mode="json", by_alias=True)))


def read(recipe: Recipe | Written | Mapping[str, Any]) -> Recipe:
    """A recipe from what is stored or sent of it.

    Raises:
        pydantic.ValidationError: a field makes no sense.
    """
    return Recipe.model_validate_json(recipe.text) if isinstance(recipe, Written) else Recipe.model_validate(recipe)
