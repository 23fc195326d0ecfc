"""The merges that are combinations of whole tensors: measured and merged block by block, as their declaration says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from evomerge.merge.method import Asked, Block, Blocks, Combination, Scope, Values
from evomerge.merge.primitives.aggregate import affine, combination, weighted_sum
from evomerge.merge.primitives.gram import Floats, Gram, row_products
from evomerge.merge.primitives.rows import row_slices


def measuring(of: Combination) -> Callable[[Blocks], Mapping[str, float]]:
    """A method's `measure`: the coefficients."""

    def measure(blocks: Blocks) -> Mapping[str, float]:
        first = next(iter(blocks()))
        gram = Gram(len(of.vectors(first)))
        for block in blocks():
            gram.add([x.reshape(-1) for x in vectors(of, block).values()])
        return of.coefficients(first, gram.products)

    return measure


def merging(of: Combination) -> Callable[[Block], Tensor]:
    """A method's `merge`."""

    def merge(block: Block) -> Tensor:
        return combined(of, block, block.measured or unmeasured(of, block))

    return merge


def scope(of: Combination) -> Callable[[Values], Scope]:
    """A method's `measures`."""
    return lambda shared: "tensor" if of.holds(shared) and of.measured(shared) else "nothing"


def combined(of: Combination, block: Block, coefficients: Mapping[str, float]) -> Tensor:
    """Σ c·x, or θ0 + Σ c·x; new memory."""
    found, how, from_base = vectors(of, block), of.how(block.shared), of.origin(block.shared) == "base"
    if how == "weighted_sum":
        left_out = {name: 0.0 for name in found if from_base and _unchanged(block, name)}
        result = weighted_sum(found, {**coefficients, **left_out}, like=block.base)
    else:
        result = (affine if how == "affine" else combination)(found, coefficients)
    return result.add_(block.base) if from_base else result


def combined_rows(of: Combination, block: Block) -> Tensor:
    """As `combined`, with coefficients of its own for every row; new memory."""
    assert of.rows is not None, "asked of combinations that have such a form"
    if block.base.dim() < 2 or not block.base.numel():
        return combined(of, block, measuring(of)(lambda: [block]))
    columns = block.base.shape[-1]
    result = torch.empty_like(block.base.reshape(-1, columns))
    for part in row_slices(result):
        some = _some(block, columns, part)
        found = list(vectors(of, some).values())
        coefficients = of.rows.coefficients(block, row_products(found))
        weights, whole = (torch.from_numpy(c).float().to(result.device) for c in (coefficients, whole_of(coefficients)))
        anchor = of.rows.anchor(block)
        merged = torch.mul(found[anchor], whole.unsqueeze(1), out=result[part])
        for k, x in enumerate(found):
            if k != anchor:
                merged.add_((x - found[anchor]).mul_(weights[:, k : k + 1]))
        if of.origin(block.shared) == "base":
            merged.add_(some.base)
    return result.view(block.base.shape)


def whole_of(coefficients: Floats) -> Floats:
    """Σ c of every row, in order: [rows, n] → [rows]."""
    total: Floats = coefficients[:, 0].copy()
    for k in range(1, coefficients.shape[1]):
        total += coefficients[:, k]
    return total


def _some(block: Block, columns: int, part: slice) -> Block:
    """Some rows of a block."""

    def rows(tensors: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
        return {name: None if x is None else x.reshape(-1, columns)[part] for name, x in tensors.items()}

    base = block.base.reshape(-1, columns)[part]
    return replace(block, base=base, deltas=rows(block.deltas), models=rows(block.models))


def _unchanged(block: Block, name: str) -> bool:
    return block.models.get(name) is None and block.deltas.get(name) is None


def unmeasured(of: Combination, asked: Asked) -> Mapping[str, float]:
    """The coefficients, where they follow from the parameters alone."""
    number = len(of.vectors(asked))
    return of.coefficients(asked, np.zeros((number, number)))


def vectors(of: Combination, block: Block) -> dict[str, Tensor]:
    """Name → x. Those that are θ0, or 0, are one object."""
    from_base = of.origin(block.shared) == "base"
    unchanged: Tensor | None = None
    found: dict[str, Tensor] = {}
    for name in of.vectors(block):
        model, delta = block.models.get(name), block.deltas.get(name)
        if delta is not None:
            found[name] = delta
        elif model is not None:
            found[name] = model - block.base if from_base else model
        else:
            if unchanged is None:
                unchanged = torch.zeros_like(block.base) if from_base else block.base
            found[name] = unchanged
    return found
