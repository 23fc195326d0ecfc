"""Model Stock: how far to go from the base to the models' mean follows from the angles between their task vectors."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from evomerge.merge.method import Block, Method, Parameter
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.aggregate import sum_of
from evomerge.merge.primitives.measure import inner, row_inner
from evomerge.merge.primitives.rows import row_slices

_SINGULAR = 1e-6
"""Of 1 + (N − 1)·cos: below it the task vectors cancel, and no ratio is better than staying at the base."""


def _merge(block: Block) -> Tensor:
    """θ0 + t·mean δ, t = N·c / (1 + (N − 1)·c), c the mean cosine of the pairs."""
    if not block.base.numel():
        return block.base.clone()
    deltas = [torch.zeros_like(block.base) if d is None else d for d in block.deltas.values()]
    filters = bool(block.shared["filter_wise"]) and block.base.dim() > 1
    rows = block.base.reshape(-1, block.base.shape[-1] if filters else 1)
    deltas = [d.view(rows.shape) for d in deltas]
    ratio = _ratios(deltas, weights.number(block.shared, "norm_floor"), filters=filters)
    result = torch.empty_like(rows)
    for part in row_slices(rows):
        mean = sum_of([d[part] for d in deltas]).div_(len(deltas))
        torch.add(mean.mul_(ratio[part] if filters else ratio), rows[part], out=result[part])
    return result.view(block.base.shape)


def _ratios(deltas: list[Tensor], norm_floor: float, *, filters: bool) -> Tensor:
    """t, float32: [rows, 1] with `filter_wise`, [1, 1] without."""
    norms = [_products(d, d, filters).sqrt() for d in deltas]
    cosine = torch.zeros_like(norms[0])
    pairs = list(combinations(range(len(deltas)), 2))
    for i, j in pairs:
        product = norms[i] * norms[j]
        usable = product.clamp(min=norm_floor)
        dots = _products(deltas[i], deltas[j], filters)
        cosine += torch.where(product > 0, dots / usable.where(usable > 0, 1.0), 0.0).clamp_(-1, 1)
    cosine /= len(pairs)
    divisor = 1 + (len(deltas) - 1) * cosine
    ratio = torch.where(divisor.abs() < _SINGULAR, 0.0, len(deltas) * cosine / divisor.where(divisor != 0, 1.0))
    return ratio.float()


def _products(a: Tensor, b: Tensor, filters: bool) -> Tensor:
    """⟨a, b⟩ in float64: [rows, 1], or [1, 1] over the whole tensor."""
    if filters:
        return torch.cat([row_inner(a[part], b[part]) for part in row_slices(a)]).unsqueeze(1)
    a, b = a.view(-1), b.view(-1)
    whole = sum(inner(a[part], b[part]) for part in row_slices(a))
    return torch.tensor([[whole]], dtype=torch.float64, device=a.device)


MODEL_STOCK = Method(
    name="model_stock",
    title="Model Stock",
    paper="Jang et al. 2024, Model Stock: All we need is just a few fine-tuned models, arXiv:2403.19522",
    merge=_merge,
    parameters=(
        Parameter("filter_wise", False, text="a ratio for every row of a matrix instead of one for the tensor"),
        Parameter(
            "norm_floor",
            0.0,
            low=0.0,
            high=1e-5,
            legal=(0.0, float("inf")),
            text="least product of two norms that a cosine is divided by (mergekit: 1e-6)",
        ),
    ),
    num_sources=(2, None),
    grain="tensor",
)

METHODS = (MODEL_STOCK,)
