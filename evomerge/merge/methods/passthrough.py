"""One model as it is."""

from __future__ import annotations

from torch import Tensor

from evomerge.merge.method import Block, Method, Parameter
from evomerge.merge.primitives import weights


def _merge(block: Block) -> Tensor:
    (model,) = block.models.values()
    return (block.base if model is None else model) * weights.number(block.shared, "scale")


PASSTHROUGH = Method(
    name="passthrough",
    title="Passthrough",
    paper="none: the source itself, as a baseline",
    merge=_merge,
    parameters=(
        Parameter("scale", 1.0, low=0.0, high=2.0, text="multiplies the tensor: 0 for a layer's outputs takes it out"),
    ),
    domain="weights",
    num_sources=(1, 1),
    keeps_base=lambda shared: shared["scale"] == 1,
    baseless=lambda num_sources, shared: True,
)

METHODS = (PASSTHROUGH,)
