"""Spherical interpolation of two models.

With one source the two are the base and the source; with two they are the sources in the order of their names (a
recipe's digest does not depend on the order in which sources are written, so its weights must not either).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge.method import Block, Blocks, Method, Parameter, Values
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.aggregate import affine, slerp_weights, weighted_sum
from evomerge.merge.primitives.measure import inner

Position = Callable[[Values, Mapping[str, Values]], float]


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


def _merge_at(position: Position) -> Callable[[Block], Tensor]:
    def merge(block: Block) -> Tensor:
        a, b = _ends(block)
        t = position(block.shared, block.per_source)
        pair = slerp_weights(t, block.measured["aa"], block.measured["bb"], block.measured["ab"])
        if pair is None or a is b:
            return affine({"a": a, "b": b}, {"a": 1 - t, "b": t})
        return weighted_sum({"a": a, "b": b}, {"a": pair[0], "b": pair[1]}, like=block.base)

    return merge


def _from_t(shared: Values, per_source: Mapping[str, Values]) -> float:
    return weights.number(shared, "t")


def _from_weights(shared: Values, per_source: Mapping[str, Values]) -> float:
    """w itself from the base to one source; wb / (wa + wb) between two."""
    w = list(weights.of_sources(per_source).values())
    return w[0] if len(w) == 1 else list(weights.normalised({"a": w[0], "b": w[1]}).values())[1]


def _check_weights(shared: Values, per_source: Mapping[str, Values]) -> None:
    w = weights.of_sources(per_source)
    if len(w) == 2:
        weights.check_sum(w)
    if not 0 <= (t := _from_weights(shared, per_source)) <= 1:
        raise InvalidInputError("weight", w, f"weights that give a position in [0, 1] on the arc, not {t:.6g}")


SLERP = Method(
    name="slerp",
    title="SLERP",
    paper="Shoemake 1985, Animating Rotation with Quaternion Curves, doi:10.1145/325165.325242",
    merge=_merge_at(_from_t),
    parameters=(
        Parameter(
            "t", 0.5, low=0.0, high=1.0, legal=(0.0, 1.0), text="position on the arc from the first to the second"
        ),
    ),
    domain="weights",
    num_sources=(1, 2),
    baseless=lambda num_sources: num_sources == 2,
    measure=_measure,
    measures=lambda shared: "tensor",
)

NUSLERP = Method(
    name="nuslerp",
    title="SLERP by weights",
    paper="Shoemake 1985, Animating Rotation with Quaternion Curves, doi:10.1145/325165.325242; weights as in mergekit",
    merge=_merge_at(_from_weights),
    parameters=(
        Parameter("weight", 0.5, low=0.0, high=1.0, per_source=True, legal=(0.0, float("inf")), text="pull on the arc"),
    ),
    domain="weights",
    num_sources=(1, 2),
    baseless=lambda num_sources: num_sources == 2,
    measure=_measure,
    measures=lambda shared: "tensor",
    check=_check_weights,
)

METHODS = (SLERP, NUSLERP)
