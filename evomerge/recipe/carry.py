"""What a recipe says about tensors that only one source has, such as the encoder of a multimodal model.

Such sources are paired with the base by the names of their tensors (`align`, method `names`): the language model that
all share is merged, and what is a source's own goes into the result as it is stored.

    carry:
      host: vision                                  # the result has its config.json and its names
      sources:
        vision: {}                                  # all that the base has no place for
        audio: {tensors: ["audio_tower.*", "audio_projector.*"]}

Source: Chen et al. 2024, Model Composition for Multimodal Large Language Models, arXiv:2402.12750, section 3.2.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

SPELLINGS = (
    (r"model\.language_model\.(.*)", r"model.\1"),
    (r"language_model\.(.*)", r"\1"),
)
"""How multimodal models of transformers spell the tensors of their language model, now and before; none of the
patterns matters to names without such a prefix."""

_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class Carried(BaseModel):
    """Which of one source's own tensors go into the result.

    Attributes:
        tensors: patterns of whole names as the source spells them, with `*`, `?` and `[…]` as in a shell; empty: all
            that the base has no place for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tensors: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = ()


class Carry(BaseModel):
    """Tensors that only one source has.

    Attributes:
        host: the source whose config.json, tokenizer and names of tensors the result has; None: the base's.
        sources: source name → what is taken of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: _Name | None = None
    sources: dict[_Name, Carried] = Field(min_length=1)


def paired_by_names(data: dict[str, Any]) -> dict[str, Any]:
    """The raw data of a recipe, where every source that carries something has an entry in `align`."""
    try:
        carry = Carry.model_validate(data["carry"])
    except ValueError:
        return data  # what is wrong with it is found again, and said, where it stands
    align = data.get("align") or {}
    if not isinstance(align, dict):
        return data
    implied = {name: {"method": "names", "table": SPELLINGS} for name in carry.sources if name not in align}
    return {**data, "align": {**align, **implied}} if implied else data
