"""A recipe as it is stored and sent: its data beside their JSON text, so that neither is made twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from evomerge.recipe.schema import Recipe

encode: Callable[[Any], str] = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
"""JSON as it is stored. NaN and infinity are refused (ValueError): no browser could read them."""


class Written(dict[str, Any]):
    """A recipe's data, which nobody changes any more.

    Attributes:
        text: what `encode` gives of them.
    """

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        super().__init__(json.loads(text))
        self.text = text

    def __reduce__(self) -> tuple[type[Written], tuple[str]]:
        return Written, (self.text,)  # a string travels in a tenth of the time that a recipe needs


def written(recipe: Recipe) -> Written:
    """A recipe's data."""
    return Written(encode(recipe.model_dump(mode="json", by_alias=True)))
