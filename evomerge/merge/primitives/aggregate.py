"""Aggregators: many tensors to one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from evomerge.merge.primitives.gram import Floats


def sum_of(tensors: Sequence[Tensor]) -> Tensor:
    """Σ of one or more tensors, in order; new memory."""
    if len(tensors) == 1:
        return tensors[0].clone()
    result = torch.add(tensors[0], tensors[1])
    for tensor in tensors[2:]:
        result.add_(tensor)
    return result


def weighted_sum(tensors: Mapping[str, Tensor | None], weights: Mapping[str, float], like: Tensor) -> Tensor:
    """Σ w·x over sources; None counts as 0. A weight of 0 leaves its source out, whatever it holds.

    Product and sum are rounded apart (no `addcmul`, no `alpha`): a fused multiply-add at some places only, as vector
    tails have it, would make the bytes depend on the block size.
    """
    result: Tensor | None = None
    scratch: Tensor | None = None
    for source, tensor in tensors.items():
        if tensor is None or weights[source] == 0:
            continue
        if result is None:
            result = torch.mul(tensor, weights[source])
        elif weights[source] == 1:
            result.add_(tensor)
        else:
            for into, part in _pieces(result, tensor):
                fits = scratch is not None and scratch.shape == part.shape
                scratch = torch.mul(part, weights[source], out=scratch if fits else None)
                into.add_(scratch)
    return torch.zeros_like(like) if result is None else result


_ENTRIES = 1 << 17
"""Entries of a whole tensor that are added at a time: they fit in a core's second-level cache."""


def _pieces(a: Tensor, b: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The same entries of two tensors, some at a time on a CPU: products of them need no memory for all."""
    if a.device.type == "cpu" and a.is_contiguous() and b.is_contiguous() and a.numel() > _ENTRIES:
        first, second = a.view(-1), b.view(-1)
        for begin in range(0, len(first), _ENTRIES):
            yield first[begin : begin + _ENTRIES], second[begin : begin + _ENTRIES]
    else:
        yield a, b


def affine(models: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Σ w·θ for weights that sum to 1, written as θa + Σ w·(θ − θa) around the heaviest model a.

    Equal models give exactly that model, and a weight of 1 beside zeros gives exactly its model: a plain weighted sum
    misses both by a rounding.
    """
    anchor = heaviest(weights)
    return _add_differences(models[anchor].clone(), models, weights, anchor)


def combination(models: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Σ w·θ for any weights, as exact as `affine` for nearly equal models: (Σ w)·θa + Σ w·(θ − θa)."""
    anchor = heaviest(weights)
    return _add_differences(models[anchor] * sum(weights.values()), models, weights, anchor)


def heaviest(weights: Mapping[str, float]) -> str:
    """The name of the largest magnitude; the first where several are as large."""
    return max(weights, key=lambda source: abs(weights[source]))


def _add_differences(result: Tensor, models: Mapping[str, Tensor], weights: Mapping[str, float], anchor: str) -> Tensor:
    """Add Σ w·(θ − θa) in place."""
    scratch: Tensor | None = None
    for source, model in models.items():
        if source != anchor and weights[source] != 0 and model is not models[anchor]:
            scratch = torch.sub(model, models[anchor], out=scratch)
            result.add_(scratch.mul_(weights[source]))
    return result


def agreeing(votes: Sequence[Tensor], signs: Tensor) -> list[Tensor]:
    """|x| where an entry carries the elected sign (−1, 0 or 1), 0 elsewhere.

    Source: Yadav et al. 2023, TIES-Merging, arXiv:2306.01708, step 3 (Disjoint merge).
    """
    return [torch.mul(x, signs).clamp_(min=0) for x in votes]


def agreeing_weight(votes: Sequence[Tensor], weights: Sequence[float], *, signed: bool = False) -> Tensor:
    """Σ|w| over the sources whose entry is not 0, 1 where none is: what a disjoint mean divides by.

    With weights of 1 it is the paper's count of entries.

    Args:
        votes: entries that agree, as from `agreeing`, all others 0.
        signed: add w instead of |w|, as mergekit does: entries whose weights cancel are divided by 1.
    """
    like = votes[0]
    parts = [
        torch.ne(x, 0, out=torch.empty_like(like)).mul_(w if signed else abs(w))
        for x, w in zip(votes, weights, strict=True)
    ]
    result = sum_of(parts)
    return result.add_(torch.eq(result, 0, out=torch.empty_like(like)))


SLERP_MAX_COSINE = 0.9995
"""Above this |cos| two vectors count as parallel and slerp becomes lerp: 1/sin ω amplifies rounding without bound."""


def slerp_weights(
    t: float, aa: float, bb: float, ab: float, max_cosine: float = SLERP_MAX_COSINE
) -> tuple[float, float] | None:
    """The two coefficients of spherical interpolation from a to b, or None where it should be linear.

    Args:
        t: position, 0 at a, 1 at b.
        aa, bb, ab: inner products ⟨a,a⟩, ⟨b,b⟩, ⟨a,b⟩.
        max_cosine: above this |cos| it is linear.

    Source: Shoemake 1985, Animating rotation with quaternion curves; the angle is that of the flattened tensors.

    >>> [round(w, 4) for w in slerp_weights(0.5, 1.0, 1.0, 0.0)]
    [0.7071, 0.7071]
    """
    norm = math.sqrt(aa) * math.sqrt(bb)
    cosine = ab / norm if norm > 0 else 1.0
    if abs(cosine) > max_cosine:
        return None
    omega = math.acos(cosine)
    return math.sin((1 - t) * omega) / math.sin(omega), math.sin(t * omega) / math.sin(omega)


def slerp_weights_of(t: float, products: Floats, max_cosine: float = SLERP_MAX_COSINE) -> Floats:
    """As `slerp_weights`, bit by bit, of many pairs; where it should be linear, its weights.

    Sines come from the C library one by one: NumPy's own depend on the processor.

    Args:
        products: [pairs, 2, 2], inner products of a and b.

    Returns:
        float64 [pairs, 2].
    """
    norms = np.sqrt(products[:, 0, 0]) * np.sqrt(products[:, 1, 1])
    cosines = np.divide(products[:, 0, 1], norms, out=np.ones_like(norms), where=norms > 0)
    linear = np.abs(cosines) > max_cosine
    omega = _each(math.acos, np.where(linear, 0.0, cosines))
    sine = _each(math.sin, omega)
    found = np.stack([_each(math.sin, (1 - t) * omega) / sine, _each(math.sin, t * omega) / sine], axis=1)
    found[linear] = 1 - t, t
    return found


def _each(function: Callable[[float], float], values: Floats) -> Floats:
    return np.fromiter(map(function, values.tolist()), np.float64, len(values))
