"""Arcee Fusion: take over the entries of a source that matter most, leave the others at the base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor

from evomerge.merge.method import Block, Method, Parameter
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.divergence import EPS, exponentials, terms
from evomerge.merge.primitives.measure import kth_largest, row_sums
from evomerge.merge.primitives.rows import row_slices

_ENTRIES = 1 << 15
"""Entries of which the divergences are found at a time: a handful of float64 copies fit in a second-level cache."""
QUARTILES = {"q1": 0.25, "median": 0.5, "q3": 0.75}


def _merge(block: Block) -> Tensor:
    """θ0 + δ where |δ|·KL(softmax θ ‖ softmax θ0), KL by rows, is at least median + factor·(q3 − q1).

    The quartiles are exact; mergekit takes them of a random sample where a tensor has more than 10⁶ entries.
    """
    (delta,) = block.deltas.values()
    if delta is None or not delta.numel():
        return block.base.clone()
    columns = block.base.shape[-1] if block.base.dim() else 1
    base, delta = block.base.reshape(-1, columns), delta.reshape(-1, columns)
    importance = torch.empty_like(base)
    for part in row_slices(base):
        importance[part] = delta[part].abs().mul_(divergences(base[part], delta[part]).unsqueeze(1))
    least = _threshold(importance, weights.number(block.shared, "iqr_factor"))
    for part in row_slices(base):  # the result takes the place of the importance
        chosen = importance[part].ge(least).to(base.dtype)
        torch.add(chosen.mul_(delta[part]), base[part], out=importance[part])
    return importance.reshape(block.base.shape)


def divergences(base: Tensor, delta: Tensor) -> Tensor:
    """KL(softmax θ ‖ softmax θ0) of every row: [rows], float32; some rows at a time, so that they stay in the cache."""
    result = base.new_empty(len(base))
    length = max(1, _ENTRIES // max(base.shape[1], 1))
    for begin in range(0, len(base), length):
        part = slice(begin, begin + length)
        if base.device.type != "cpu":
            p, q = (torch.softmax(x.double(), dim=-1).add_(EPS) for x in (base[part] + delta[part], base[part]))
            result[part] = row_sums(torch.div(p, q, out=q).log_().mul_(p)).clamp_(min=0)
            continue
        a, b = exponentials((base[part] + delta[part]).numpy()), exponentials(base[part].numpy())
        found = np.sum(terms(a, 1 / np.sum(a, axis=-1), b, 1 / np.sum(b, axis=-1)), axis=-1)
        result[part] = torch.from_numpy(found).clamp_(min=0)
    return result


def _threshold(importance: Tensor, factor: float) -> float:
    """Quartiles are entries: the one at position ⌊q·(n − 1)⌋ from below."""

    def rows() -> Iterator[tuple[int, Mapping[str, Tensor]]]:
        for part in row_slices(importance):
            block = importance[part]
            yield block.numel(), dict.fromkeys(QUARTILES, block)

    return least_of(kth_largest(rows, {name: partial(rank, share) for name, share in QUARTILES.items()}), factor)


def least_of(quartiles: Mapping[str, float], factor: float) -> float:
    """The importance from which on entries are taken over."""
    return quartiles["median"] + factor * (quartiles["q3"] - quartiles["q1"])


def rank(share: float, size: int) -> int:
    """A quantile's rank from above."""
    return size - int(share * (size - 1))


ARCEE_FUSION = Method(
    name="arcee_fusion",
    title="Arcee Fusion",
    paper="Arcee AI 2025, Arcee Fusion, https://github.com/arcee-ai/mergekit; in MergeKit, arXiv:2403.13257",
    merge=_merge,
    parameters=(
        Parameter(
            "iqr_factor",
            1.5,
            low=0.5,
            high=3.0,
            text="how many interquartile ranges above the median an entry must lie",
        ),
    ),
    num_sources=(1, 1),
    grain="tensor",
    cost="sort",
)

METHODS = (ARCEE_FUSION,)
