"""What all recipes of a search say alike beside models and merge: how sources are aligned, what is carried over from
them, and which vocabulary and chat template the result has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from evomerge.recipe.align import Align
from evomerge.recipe.carry import Carry
from evomerge.recipe.schema import Name, Recipe, WrongFieldError
from evomerge.recipe.tokens import TokenRule

VOCABULARY = ("tokenizer", "tokens", "pad_to_multiple_of")
"""Fields that say which rows embedding and head have."""


class Shared(BaseModel):
    """Fields of a recipe that a search takes over into every candidate's; what they mean stands in `Recipe`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    align: dict[Name, Align] | None = Field(default=None, min_length=1)
    carry: Carry | None = None
    tokenizer: str = "same"
    tokens: dict[Annotated[str, StringConstraints(min_length=1)], TokenRule] | None = Field(default=None, min_length=1)
    pad_to_multiple_of: int | None = Field(default=None, ge=1)
    chat_template: str | None = Field(default=None, min_length=1)


def check_shared(shared: Shared, sources: Iterable[str]) -> None:
    """Refuse what no recipe over these sources can say.

    Raises:
        WrongFieldError: as a recipe does; the field is that of the search.
    """
    refs = {name: {"location": name} for name in sources}
    try:
        Recipe(base={"location": "base"}, sources=refs, merge={"method": "linear"}, **shared_fields(shared))
    except ValidationError as error:
        for one in error.errors(include_url=False):
            if isinstance(raised := one.get("ctx", {}).get("error"), WrongFieldError):
                raise WrongFieldError(raised.path, raised.value, raised.allowed) from None
        raise


def shared_fields(said: Shared | Recipe) -> dict[str, Any]:
    """What a search or a recipe says of these, JSON-ready; nothing of fields at their defaults."""
    data = said.model_dump(mode="json", include=set(Shared.model_fields), exclude_none=True)
    return data if data["tokenizer"] != "same" else {k: v for k, v in data.items() if k != "tokenizer"}


def keeps_vocabulary(fields: Mapping[str, Any]) -> bool:
    """Whether the result has the base's rows of embedding and head, one by one."""
    return fields.get("tokenizer", "same") in ("same", "base") and not any(fields.get(n) for n in VOCABULARY[1:])
