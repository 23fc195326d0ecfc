"""Spherical interpolation of two models.

With one source the two are the base and the source; with two they are the sources in the order of their names (a
recipe's digest does not depend on the order in which sources are written, so its weights must not either).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from evomerge.merge.method import Block, Blocks, Method, Parameter
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.aggregate import affine, slerp_weights, weighted_sum
from evomerge.merge.primitives.measure import inner


def _ends(block: Block) -> tuple[Tensor, Tensor]:
    """The models a and b between which to interpolate."""
    models = [block.base if model is None else model for model in block.models.values()]
    return (block.base, models[0]) if len(models) == 1 else (models[0], models[1])


def _measure(blocks: Blocks) -> Mapping[str, float]:
    """The inner products of the flattened tensors, summed block by block."""
    products = {"aa": 0.0, "bb": 0.0, "ab": 0.0}
    for block in blocks():
        a, b = _ends(block)
        products["aa"] += inner(a, a)
        products["bb"] += inner(b, b)
        products["ab"] += inner(a, b)
    return products


def _merge(block: Block) -> Tensor:
    a, b = _ends(block)
    t = weights.number(block.shared, "t")
    pair = slerp_weights(t, block.measured["aa"], block.measured["bb"], block.measured["ab"])
    if pair is None or a is b:
        return affine({"a": a, "b": b}, {"a": 1 - t, "b": t})
    return weighted_sum({"a": a, "b": b}, {"a": pair[0], "b": pair[1]}, like=block.base)


SLERP = Method(
    name="slerp",
    title="SLERP",
    paper="Shoemake 1985, Animating Rotation with Quaternion Curves, doi:10.1145/325165.325242",
    merge=_merge,
    parameters=(
        Parameter(
            "t", 0.5, low=0.0, high=1.0, legal=(0.0, 1.0), text="position on the arc from the first to the second"
        ),
    ),
    domain="weights",
    num_sources=(1, 2),
    baseless=lambda num_sources, shared: num_sources == 2,
    measure=_measure,
    measures=lambda shared: "tensor",
)

METHODS = (SLERP,)
