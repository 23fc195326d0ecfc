"""Model Stock: how far to go from the base to the models' mean follows from the angles between their task vectors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from evomerge.merge.combined import combined_rows, measuring, merging, scope
from evomerge.merge.method import Asked, Block, ByRows, Combination, Method, Parameter
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.gram import Floats

_SINGULAR = 1e-6
"""Of 1 + (N − 1)·cos: below it the task vectors cancel, and no ratio is better than staying at the base."""


def _towards_the_mean(asked: Asked, products: Floats) -> Mapping[str, float]:
    """t / N for each of N task vectors."""
    number = len(products)
    (ratio,) = _ratios(products[None], weights.number(asked.shared, "norm_floor"))
    return dict.fromkeys(asked.per_source, float(ratio) / number)


def _of_rows(asked: Asked, products: Floats) -> Floats:
    """The same for every row: [rows, N]."""
    number = products.shape[-1]
    ratios = _ratios(products, weights.number(asked.shared, "norm_floor"))
    return np.repeat(ratios[:, None] / number, number, axis=1)


_STOCK = Combination(
    _towards_the_mean,
    measured=lambda shared: True,
    origin=lambda shared: "base",
    how=lambda shared: "combination",
    holds=lambda shared: not shared["filter_wise"],
    rows=ByRows(_of_rows, anchor=lambda asked: 0, holds=lambda shared: bool(shared["filter_wise"])),
)


def _merge(block: Block) -> Tensor:
    """θ0 + t·mean δ."""
    return combined_rows(_STOCK, block) if block.shared["filter_wise"] else merging(_STOCK)(block)


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
    rowwise=lambda shared: True,
)

METHODS = (MODEL_STOCK,)
