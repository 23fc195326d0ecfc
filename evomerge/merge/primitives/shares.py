"""Shares: weights that sum to 1, from a number that each source has (an energy, a loss, its place on a trajectory)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np


def proportional(numbers: Mapping[str, float]) -> dict[str, float]:
    """x / Σ x for x ≥ 0; equal shares where all are 0.

    >>> proportional({"a": 3.0, "b": 1.0}), proportional({"a": 0.0, "b": 0.0})
    ({'a': 0.75, 'b': 0.25}, {'a': 0.5, 'b': 0.5})
    """
    largest = max(numbers.values())
    if largest == 0:
        return equal(numbers)
    scaled = {source: x / largest for source, x in numbers.items()}  # Σ of numbers near the ends of float64
    total = math.fsum(scaled.values())
    return {source: steady(x / total) for source, x in scaled.items()}


def powers(numbers: Mapping[str, float], exponent: float) -> dict[str, float]:
    """x^p / Σ x^p for x ≥ 0; equal shares where a number is 0 that a power ≤ 0 has no use for, or all are.

    >>> powers({"a": 2.0, "b": 1.0}, exponent=2), powers({"a": 1.0, "b": 0.0}, exponent=-1)
    ({'a': 0.800000011920929, 'b': 0.20000000298023224}, {'a': 0.5, 'b': 0.5})
    """
    largest = max(numbers.values())
    if largest == 0 or (exponent <= 0 and min(numbers.values()) == 0):
        return equal(numbers)
    logs = {source: exponent * math.log(x) if x > 0 else -math.inf for source, x in numbers.items()}
    return softmax(logs, temperature=1.0)


def softmax(scores: Mapping[str, float], temperature: float) -> dict[str, float]:
    """exp(x/T) / Σ exp(x/T) for T > 0; a score of −∞ has no share.

    >>> softmax({"a": 1.0, "b": 1.0}, temperature=0.1)
    {'a': 0.5, 'b': 0.5}
    """
    top = max(scores.values())
    return proportional({source: math.exp((x - top) / temperature) for source, x in scores.items()})


def equal(sources: Mapping[str, object]) -> dict[str, float]:
    """1/N each."""
    return dict.fromkeys(sources, steady(1 / len(sources)))


def rising(number: int) -> list[float]:
    """i / Σ i for i = 1 … N: the weighted moving average.

    Source: Li et al. 2025, Model Merging in Pre-training of Large Language Models, arXiv:2505.12082.

    >>> rising(3)
    [0.1666666716337204, 0.3333333432674408, 0.5]
    """
    return _shares([i + 1.0 for i in range(number)])


def exponential(number: int, alpha: float) -> list[float]:
    """What M ← α·θi + (1 − α)·M weighs θ1 … θN with, begun at M = θ1: (1 − α)^(N−1) and α·(1 − α)^(N−i).

    Source: Li et al. 2025, Model Merging in Pre-training of Large Language Models, arXiv:2505.12082.

    >>> exponential(3, alpha=0.5)
    [0.25, 0.25, 0.5]
    """
    return _shares([(1 - alpha) ** (number - 1), *(alpha * (1 - alpha) ** (number - i) for i in range(2, number + 1))])


def steady(x: float) -> float:
    """A number rounded to float32, so that the order in which a float64 sum was taken leaves no trace in it."""
    return float(np.float32(x))


def _shares(numbers: Sequence[float]) -> list[float]:
    return list(proportional({str(i): x for i, x in enumerate(numbers)}).values())
