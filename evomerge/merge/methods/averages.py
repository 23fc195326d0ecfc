"""Averages of checkpoints in an order: along a training run, or by importance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from evomerge.merge import standard as p
from evomerge.merge.combined import merging
from evomerge.merge.method import Asked, Combination, Method, Parameter, Values
from evomerge.merge.primitives import shares, weights
from evomerge.merge.primitives.gram import Floats

PMA = "Li et al. 2025, Model Merging in Pre-training of Large Language Models, arXiv:2505.12082"
ALPHA = Parameter(
    "alpha", 0.2, low=0.05, high=0.5, legal=(0.0, 1.0), text="share of each next checkpoint in the moving average (α)"
)
Weights = Callable[[int, Values], Sequence[float]]
"""Number of models, shared parameters → the weights of the first, second, … model, which sum to 1."""


def _in_order(per_source: Mapping[str, Values]) -> list[str]:
    return sorted(per_source, key=lambda source: (weights.number(per_source[source], "order"), source))


def _average(coefficients: Callable[[Asked, Floats], Mapping[str, float]]) -> Combination:
    """Σ w θ."""
    return Combination(
        coefficients, measured=lambda shared: False, origin=lambda shared: "zero", how=lambda shared: "affine"
    )


def _by(weights_of: Weights) -> Combination:
    def coefficients(asked: Asked, products: Floats) -> Mapping[str, float]:
        w = weights_of(len(asked.per_source), asked.shared)
        return dict(zip(_in_order(asked.per_source), w, strict=True))

    return _average(coefficients)


_SIMPLE = _average(lambda asked, products: shares.equal(asked.per_source))
_RISING = _by(lambda number, shared: shares.rising(number))
_EXPONENTIAL = _by(lambda number, shared: shares.exponential(number, weights.number(shared, "alpha")))
_FIXED = _by(lambda number, shared: list(shares.proportional({"a": 1.0, "b": 0.2, "c": 0.1}).values()))

SMA = Method(
    name="sma",
    title="Simple moving average of checkpoints",
    paper=PMA,
    merge=merging(_SIMPLE),
    combination=_SIMPLE,
    parameters=(),
    domain="weights",
)
WMA = Method(
    name="wma",
    title="Weighted moving average of checkpoints",
    paper=PMA,
    merge=merging(_RISING),
    combination=_RISING,
    parameters=(p.ORDER,),
    domain="weights",
    ordered=True,
)
EMA = Method(
    name="ema",
    title="Exponential moving average of checkpoints",
    paper=PMA,
    merge=merging(_EXPONENTIAL),
    combination=_EXPONENTIAL,
    parameters=(p.ORDER, ALPHA),
    domain="weights",
    ordered=True,
)
META_ABILITIES = Method(
    name="meta_abilities",
    title="Meta-abilities (1 : 0.2 : 0.1)",
    paper="Hu et al. 2025, Beyond 'Aha!': Toward Systematic Meta-Abilities Alignment in Large Reasoning Models, "
    "arXiv:2505.10554",
    merge=merging(_FIXED),
    combination=_FIXED,
    parameters=(p.ORDER,),
    domain="weights",
    num_sources=(3, 3),
    ordered=True,
)

METHODS = (SMA, WMA, EMA, META_ABILITIES)
