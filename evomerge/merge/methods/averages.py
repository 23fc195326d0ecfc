"""Averages of checkpoints in an order: along a training run, or by importance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from evomerge.merge import standard as p
from evomerge.merge.method import Block, Method, Parameter, Values
from evomerge.merge.primitives import shares, weights
from evomerge.merge.primitives.aggregate import affine

PMA = "Li et al. 2025, Model Merging in Pre-training of Large Language Models, arXiv:2505.12082"
ALPHA = Parameter(
    "alpha", 0.2, low=0.05, high=0.5, legal=(0.0, 1.0), text="share of each next checkpoint in the moving average (α)"
)
Weights = Callable[[int, Values], Sequence[float]]
"""Number of models, shared parameters → the weights of the first, second, … model, which sum to 1."""


def _in_order(block: Block) -> list[str]:
    return sorted(block.per_source, key=lambda source: (weights.number(block.per_source[source], "order"), source))


def _merge_by(weights_of: Weights) -> Callable[[Block], Tensor]:
    def merge(block: Block) -> Tensor:
        """Σ w θ."""
        models = {source: block.base if model is None else model for source, model in block.models.items()}
        w = weights_of(len(models), block.shared)
        return affine(models, dict(zip(_in_order(block), w, strict=True)))

    return merge


def _simple(block: Block) -> Tensor:
    models = {source: block.base if model is None else model for source, model in block.models.items()}
    return affine(models, shares.equal(models))


SMA = Method(
    name="sma",
    title="Simple moving average of checkpoints",
    paper=PMA,
    merge=_simple,
    parameters=(),
    domain="weights",
)
WMA = Method(
    name="wma",
    title="Weighted moving average of checkpoints",
    paper=PMA,
    merge=_merge_by(lambda number, shared: shares.rising(number)),
    parameters=(p.ORDER,),
    domain="weights",
    ordered=True,
)
EMA = Method(
    name="ema",
    title="Exponential moving average of checkpoints",
    paper=PMA,
    merge=_merge_by(lambda number, shared: shares.exponential(number, weights.number(shared, "alpha"))),
    parameters=(p.ORDER, ALPHA),
    domain="weights",
    ordered=True,
)
META_ABILITIES = Method(
    name="meta_abilities",
    title="Meta-abilities (1 : 0.2 : 0.1)",
    paper="Hu et al. 2025, Beyond 'Aha!': Toward Systematic Meta-Abilities Alignment in Large Reasoning Models, "
    "arXiv:2505.10554",
    merge=_merge_by(lambda number, shared: list(shares.proportional({"a": 1.0, "b": 0.2, "c": 0.1}).values())),
    parameters=(p.ORDER,),
    domain="weights",
    num_sources=(3, 3),
    ordered=True,
)

METHODS = (SMA, WMA, EMA, META_ABILITIES)
