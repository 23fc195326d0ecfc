"""The merges that are combinations of whole tensors: measured and merged block by block, as their declaration says."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from evomerge.merge.method import Asked, Block, Blocks, Combination, Scope, Values
from evomerge.merge.primitives.aggregate import affine, combination, weighted_sum
from evomerge.merge.primitives.gram import Gram


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
