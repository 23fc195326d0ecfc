"""Spherical interpolation by weights: of whole tensors, rows or columns, of models or of task vectors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge.combined import combined_rows, measuring, merging, scope
from evomerge.merge.method import Asked, Block, ByRows, Combination, Method, Parameter, Values
from evomerge.merge.methods.karcher import ORIGIN
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.aggregate import slerp_weights, slerp_weights_of
from evomerge.merge.primitives.gram import Floats
from evomerge.merge.primitives.measure import row_inner
from evomerge.merge.primitives.rows import row_slices

MAX_COSINE = 1 - 5e-13
"""Only what is parallel up to the rounding of float64 is interpolated linearly, as in mergekit's operator."""


def _on_the_arc(asked: Asked, products: Floats) -> Mapping[str, float]:
    """The angle is that of the flattened tensors."""
    t = _position(asked.per_source)
    pair = slerp_weights(t, products[0, 0], products[1, 1], products[0, 1], MAX_COSINE) or (1 - t, t)
    return dict(zip(_ARC.vectors(asked), pair, strict=True))


def _of_rows(asked: Asked, products: Floats) -> Floats:
    """An angle for every row: [rows, 2]."""
    return slerp_weights_of(_position(asked.per_source), products, MAX_COSINE)


def _rows_hold(shared: Values) -> bool:
    """mergekit's names: with row_wise vectors run along the first dimension (a matrix's columns), without along the
    last."""
    return not shared["nuslerp_flatten"] and not shared["nuslerp_row_wise"]


_ARC = Combination(
    _on_the_arc,
    measured=lambda shared: True,
    origin=lambda shared: "base" if shared["origin"] == "base" else "zero",
    how=lambda shared: "combination",
    two_ends=True,
    holds=lambda shared: bool(shared["nuslerp_flatten"]),
    rows=ByRows(_of_rows, anchor=lambda asked: int(_position(asked.per_source) > 0.5), holds=_rows_hold),
)


def _merge(block: Block) -> Tensor:
    if block.shared["nuslerp_flatten"]:
        return merging(_ARC)(block)
    if _rows_hold(block.shared) or block.base.dim() < 2 or not block.base.numel():
        return combined_rows(_ARC, block)
    return _by_columns(block, _position(block.per_source))


def _position(per_source: Mapping[str, Values]) -> float:
    """w itself from the base to one source; wb / (wa + wb) between two."""
    w = list(weights.of_sources(per_source).values())
    return w[0] if len(w) == 1 else list(weights.normalised({"a": w[0], "b": w[1]}).values())[1]


def _ends(block: Block, part: slice, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Rows of the vectors a and b between which to interpolate."""
    base = block.base.view(shape)[part]
    models = [base if model is None else model.view(shape)[part] for model in block.models.values()]
    if len(models) == 1:
        models = [base, *models]
    if block.shared["origin"] == "base":
        return models[0] - base, models[1] - base
    return models[0], models[1]


def _parts(block: Block, shape: tuple[int, int]) -> list[slice]:
    return list(row_slices(block.base.view(shape)))


def _finished(block: Block, part: slice, shape: tuple[int, int], merged: Tensor) -> Tensor:
    return merged.add_(block.base.view(shape)[part]) if block.shared["origin"] == "base" else merged


def _by_columns(block: Block, t: float) -> Tensor:
    """An angle for every vector along the first dimension."""
    matrix = block.base.reshape(len(block.base), -1)
    whole = (matrix.shape[0], matrix.shape[1])
    products = np.zeros((whole[1], 2, 2))
    for part in _parts(block, whole):
        a, b = _ends(block, part, whole)
        for i, j, x, y in ((0, 0, a, a), (1, 1, b, b), (0, 1, a, b)):
            products[:, i, j] += row_inner(x.t(), y.t()).cpu().numpy()
    of_a, of_b = torch.from_numpy(_of_rows(block, products).T).float().to(block.base.device)
    result = torch.empty_like(matrix)
    for part in _parts(block, whole):
        a, b = _ends(block, part, whole)
        result[part] = _finished(block, part, whole, _combined(a, b, of_a, of_b, near_b=t > 0.5))
    return result.view(block.base.shape)


def _combined(a: Tensor, b: Tensor, of_a: Tensor, of_b: Tensor, *, near_b: bool) -> Tensor:
    """wa·a + wb·b around the nearer end, so that equal vectors give exactly that vector."""
    if near_b:
        return (a - b).mul_(of_a).add_(b * (of_a + of_b))
    return (b - a).mul_(of_b).add_(a * (of_a + of_b))


def _check(shared: Values, per_source: Mapping[str, Values]) -> None:
    w = weights.of_sources(per_source)
    if len(w) == 2:
        weights.check_sum(w)
    if not 0 <= (t := _position(per_source)) <= 1:
        raise InvalidInputError("weight", w, f"weights that give a position in [0, 1] on the arc, not {t:.6g}")


NUSLERP = Method(
    name="nuslerp",
    title="SLERP by weights",
    paper="Shoemake 1985, Animating Rotation with Quaternion Curves, doi:10.1145/325165.325242; weights as in mergekit",
    merge=_merge,
    parameters=(
        Parameter("weight", 0.5, low=0.0, high=1.0, per_source=True, legal=(0.0, float("inf")), text="pull on the arc"),
        Parameter("nuslerp_flatten", True, text="one angle for the whole tensor"),
        Parameter(
            "nuslerp_row_wise",
            False,
            text="without nuslerp_flatten: vectors along the first dimension instead of the last, as mergekit has it",
        ),
        ORIGIN,
    ),
    domain="weights",
    num_sources=(1, 2),
    baseless=lambda num_sources, shared: num_sources == 2 and shared["origin"] == "zero",
    measure=measuring(_ARC),
    measures=scope(_ARC),
    check=_check,
    grain="tensor",
    combination=_ARC,
    rowwise=_rows_hold,
)

METHODS = (NUSLERP,)
