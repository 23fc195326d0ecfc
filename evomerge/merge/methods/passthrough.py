"""One model as it is."""

from __future__ import annotations

from collections.abc import Mapping

from evomerge.merge.combined import merging
from evomerge.merge.method import Asked, Combination, Method, Parameter
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.gram import Floats


def _scale(asked: Asked, products: Floats) -> Mapping[str, float]:
    return dict.fromkeys(asked.per_source, weights.number(asked.shared, "scale"))


_SCALED = Combination(
    _scale, measured=lambda shared: False, origin=lambda shared: "zero", how=lambda shared: "combination"
)
PASSTHROUGH = Method(
    name="passthrough",
    title="Passthrough",
    paper="none: the source itself, as a baseline",
    merge=merging(_SCALED),
    parameters=(
        Parameter("scale", 1.0, low=0.0, high=2.0, text="multiplies the tensor: 0 for a layer's outputs takes it out"),
    ),
    domain="weights",
    num_sources=(1, 1),
    keeps_base=lambda shared: shared["scale"] == 1,
    baseless=lambda num_sources, shared: True,
    combination=_SCALED,
)

METHODS = (PASSTHROUGH,)
