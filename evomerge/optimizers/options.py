"""An optimizer's own options, read once at the edge into a frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from evomerge.errors import InvalidInputError

Option = float | int | bool | str
"""What an option's value may be, as it comes from YAML or JSON."""


class Options(BaseModel):
    """The options of an optimizer; a subclass declares each with type, range, default and a line of description."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


Kind = TypeVar("Kind", bound=Options)


def read(kind: type[Kind], options: Mapping[str, Option]) -> Kind:
    """Options as a value that cannot be wrong.

    Raises:
        InvalidInputError: an unknown name, or a value of the wrong type or out of range; names the option.
    """
    try:
        return kind.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        allowed = first["msg"] if name in kind.model_fields else f"one of {', '.join(sorted(kind.model_fields))}"
        raise InvalidInputError(f"optimizer.options.{name}", options[name], allowed) from error
