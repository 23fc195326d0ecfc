"""What a recipe says about depth: of which layers of which models the merged model's layers are made.

A recipe without slices merges layer by layer: layer l of the result is merged from layer l of the base and of every
source. With slices the merged model is a stack of them, from the first layer to the last; it may be deeper or
shallower than its models, and it may repeat their layers:

    slices:
    - {base: [0, 15], sources: {math: [0, 15], code: [0, 15]}}    # 16 layers, merged as without slices
    - {base: [8, 15], sources: {math: [12, 19]}}                  # 8 layers, merged at shifted positions
    - {sources: {code: [16, 31]}}                                 # 16 layers of one model

A model that a slice does not name takes no part in its layers, not even with a weight of 0. Tensors before the layers
(the embedding) are merged from the models of the first slice, tensors after them (the final norm, a head of its own)
from those of the last one; a head that is tied to the embedding goes with it. Rules and knots of `merge` are about the
layers of the result.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

Layers = tuple[int, int]
"""First and last layer, both included, from 0."""
_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
MAX_LAYERS = 10_000
"""Layers of a merged model: what makes no sense is refused before it fills the memory."""


class Slice(BaseModel):
    """Consecutive layers of the merged model.

    Attributes:
        base: the base's layers that take part. None: the slice has no base; only methods that do not look at the base
            when they merge (linear, passthrough, …) can do without.
        sources: source name → the source's layers that take part; none: the base's layers as they are. All ranges have
            the same length.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: Layers | None = None
    sources: dict[_Name, Layers] = Field(default_factory=dict)

    @field_validator("base", "sources")
    @classmethod
    def _ordered(cls, value: Layers | dict[str, Layers] | None) -> Layers | dict[str, Layers] | None:
        ranges = list(value.values()) if isinstance(value, dict) else [value] if value is not None else []
        for first, last in ranges:
            if not 0 <= first <= last < MAX_LAYERS:
                raise ValueError(f"[first, last] with 0 <= first <= last < {MAX_LAYERS}, not {[first, last]}")
        return dict(sorted(value.items())) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _as_long_as_each_other(self) -> Slice:
        ranges = [*([self.base] if self.base is not None else []), *self.sources.values()]
        lengths = {last - first + 1 for first, last in ranges}
        if not lengths:
            raise ValueError("layers of the base, of a source, or of several")
        if len(lengths) > 1:
            raise ValueError(f"ranges of one length in a slice, not of {sorted(lengths)} layers")
        return self

    @property
    def num_layers(self) -> int:
        """How many layers of the result it makes."""
        first, last = self.base if self.base is not None else next(iter(self.sources.values()))
        return last - first + 1
