"""Model Stock: how far to go from the base to the models' mean follows from the angles between their task vectors."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations_with_replacement

import numpy as np
import torch
from torch import Tensor

from evomerge.merge.combined import combined, measuring, merging, scope
from evomerge.merge.method import Asked, Block, Combination, Method, Parameter
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.aggregate import sum_of
from evomerge.merge.primitives.gram import Floats
from evomerge.merge.primitives.measure import row_inner
from evomerge.merge.primitives.rows import row_slices

_SINGULAR = 1e-6
"""Of 1 + (N − 1)·cos: below it the task vectors cancel, and no ratio is better than staying at the base."""


def _towards_the_mean(asked: Asked, products: Floats) -> Mapping[str, float]:
    """t / N for each of N task vectors."""
    number = len(products)
    (ratio,) = _ratios(products[None], weights.number(asked.shared, "norm_floor"))
    return dict.fromkeys(asked.per_source, float(ratio) / number)


_STOCK = Combination(
    _towards_the_mean,
    measured=lambda shared: True,
    origin=lambda shared: "base",
    how=lambda shared: "combination",
    holds=lambda shared: not shared["filter_wise"],
)


def _merge(block: Block) -> Tensor:
    """θ0 + t·mean δ."""
    if not block.shared["filter_wise"]:
        return merging(_STOCK)(block)
    if block.base.dim() < 2 or not block.base.numel():
        return combined(_STOCK, block, measuring(_STOCK)(lambda: [block]))
    return _by_rows(block)


def _by_rows(block: Block) -> Tensor:
    rows = block.base.reshape(-1, block.base.shape[-1])
    deltas = [torch.zeros_like(rows) if d is None else d.reshape(rows.shape) for d in block.deltas.values()]
    result = torch.empty_like(rows)
    for part in row_slices(rows):
        products = np.empty((len(rows[part]), len(deltas), len(deltas)))
        for i, j in combinations_with_replacement(range(len(deltas)), 2):
            products[:, i, j] = products[:, j, i] = row_inner(deltas[i][part], deltas[j][part]).cpu().numpy()
        ratio = _ratios(products, weights.number(block.shared, "norm_floor"))
        mean = sum_of([d[part] for d in deltas]).div_(len(deltas))
        torch.add(mean.mul_(torch.from_numpy(ratio).float().to(mean.device).unsqueeze(1)), rows[part], out=result[part])
    return result.view(block.base.shape)


def _ratios(products: Floats, norm_floor: float) -> Floats:
    """t = N·c / (1 + (N − 1)·c), c the mean cosine of the pairs: [rows, N, N] → [rows]."""
    number = products.shape[-1]
    norms = np.sqrt(np.diagonal(products, axis1=1, axis2=2))
    i, j = np.triu_indices(number, 1)
    product = norms[:, i] * norms[:, j]
    usable = product.clip(min=norm_floor)
    cosines = np.where(product > 0, products[:, i, j] / np.where(usable > 0, usable, 1.0), 0.0).clip(-1, 1)
    cosine = cosines.mean(1)
    divisor = 1 + (number - 1) * cosine
    ratio: Floats = np.where(np.abs(divisor) < _SINGULAR, 0.0, number * cosine / np.where(divisor != 0, divisor, 1.0))
    return ratio


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
    measure=measuring(_STOCK),
    measures=scope(_STOCK),
    grain="tensor",
    combination=_STOCK,
)

METHODS = (MODEL_STOCK,)
