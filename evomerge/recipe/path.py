"""What a recipe says about data flow: the path that a token takes through layers of several models.

    path:
      host: base
      semantics: stream
      layers:
      - {model: base, layer: 0}
      - {model: math, layer: 1}
      - {model: math, layer: 1, scale: 0.9}     # a layer may be visited again
      - {model: merged, layer: 2, scale: 1.1}   # of the model that the recipe's `merge` gives
      - {model: base, layer: 3}

Hop t hands h_{t+1} = B_t(s_t · h_t) on, B_t being its layer and s_t its scale; what s_t scales, `semantics` says. The
host lends the embedding h_0, the final norm, the head, the tokenizer and the config.

Source: Akiba et al. 2024, Evolutionary Optimization of Model Merging Recipes, arXiv:2403.13187, section 3.2 (merging in
the data flow space). The paper's input scales are `stream`; the inference code released with it computes `delta`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from operator import mul
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MERGED = "merged"
"""In a path: the model that the recipe's own parameter-space part gives."""
MAX_HOPS = 1024
SCALES = (1e-2, 1e2)
"""Bounds of the magnitude of what scales have multiplied up to: beyond, weights divided by it lose their meaning in
bfloat16, and the epsilons of norms that were there to be forgotten begin to count."""
_BOUNDS = f"a magnitude from {SCALES[0]:g} to {SCALES[1]:g}"
_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class Hop(BaseModel):
    """One visit to a layer.

    Attributes:
        model: `base`, a source's name, or `merged`.
        layer: of that model, from 0.
        scale: s_t, of the hop's input; negative ones are allowed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: _Name
    layer: int = Field(ge=0, lt=10_000)
    scale: float = 1.0


class LayerPath(BaseModel):
    """The layers of a merged model, from the first that a token visits to the last.

    Attributes:
        host: `base`, a source's name, or `merged`: whose tensors stand before and after the layers.
        semantics: what a scale scales. `stream`: the residual stream, all that has been added up so far. `delta`: the
            output of the MLP before, which is about to be added; the first hop's scales the embedding in either case.
        layers: the hops.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: _Name = "base"
    semantics: Literal["stream", "delta"] = "stream"
    layers: tuple[Hop, ...] = Field(min_length=1, max_length=MAX_HOPS)

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that takes part, in the order of their names."""
        return tuple(sorted({self.host, *(hop.model for hop in self.layers)}))

    @property
    def uses_merged(self) -> bool:
        """Whether the recipe's parameter-space part has a part in it."""
        return MERGED in self.models

    @property
    def scaled(self) -> bool:
        """Whether a hop after the first has a scale other than 1; if not, both semantics are the same."""
        return any(hop.scale != 1 for hop in self.layers[1:])

    @property
    def cumulative(self) -> tuple[float, ...]:
        """C_t = s_1 · … · s_t for every hop t; C_0 = 1, since the first scale belongs to the embedding."""
        return tuple(accumulate((hop.scale for hop in self.layers[1:]), mul, initial=1.0))

    def wrong_scales(self) -> Iterator[tuple[int, float, str]]:
        """Hops whose scale cannot be: number, scale, what is allowed."""
        least, most = SCALES
        first = self.layers[0].scale
        if not least <= abs(first) <= most:
            yield 0, first, _BOUNDS
        for number, (hop, reached) in enumerate(zip(self.layers, self.cumulative, strict=True)):
            if self.semantics == "delta" and number and abs(hop.scale) > most:
                yield number, hop.scale, f"a magnitude of at most {most:g}"
            if self.semantics == "stream" and not least <= abs(reached) <= most:
                yield (
                    number,
                    hop.scale,
                    f"scales whose product from the second hop on, here {reached:.3g}, has {_BOUNDS}",
                )
