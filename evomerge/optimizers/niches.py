"""Competition for items, as species compete for what their niches offer: shared fitness and attraction.

Every item offers a capacity. Who scores on it shares it with all others who do, so a candidate that solves what nobody
else does is worth much, however little else it solves. Attraction asks what a partner would add to a candidate.

Source: Abrantes et al. 2025, Competition and Attraction Improve Model Fusion (M2N2), arXiv:2508.16204, eqs. 3 to 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
"""Scores of candidates on items, shape [candidates, items], larger is better; for several objectives their items stand
side by side."""

Vector = NDArray[np.float64]
"""One number per candidate, or per item."""

Capacity = Literal["auto", "binary", "continuous"]
Baseline = Literal["auto", "none", "population_min"]
Attraction = Literal["paper", "code", "none"]


@dataclass(frozen=True, slots=True)
class Rules:
    """How candidates compete.

    Attributes:
        alpha: how hard. 0: not at all; 1: an item hands out its capacity once, whoever scores on it; more: they fight.
        capacity: what an item offers. binary: 1; continuous: the best score on it, so that what is half solved does not
            hand out a full unit; auto: binary where all scores are 0 or 1.
        baseline: what is subtracted before scores are compared. population_min: an item's worst score, which stretches
            small differences; none: nothing, and scores below 0 count as 0; auto: population_min for objectives whose
            scores leave [0, 1] or whose means only are known.
        attraction: how a partner is valued. paper: as eq. 4; code: by the differences in shared fitness on each item,
            as the authors' program has it (the same where alpha is 1).
    """

    alpha: float = 1.0
    capacity: Capacity = "auto"
    baseline: Baseline = "auto"
    attraction: Attraction = "paper"


@dataclass(frozen=True, slots=True)
class Contest:
    """Candidates that compete for items.

    Attributes:
        scores: s, in [0, 1].
        capacity: c, per item.
        rules: of which alpha and attraction matter here.
    """

    scores: Scores
    capacity: Vector
    rules: Rules

    @property
    def crowd(self) -> Vector:
        """z, per item: what all score on it (eq. 3); 1 where nobody scores, so that it can be divided by."""
        total: Vector = self.scores.sum(axis=0)
        return np.where(total > 0, total, 1.0)

    @property
    def fitness(self) -> Vector:
        """f, per candidate: its share of all capacities (eqs. 3 and 5)."""
        share: Vector = self.capacity / self.crowd**self.rules.alpha
        fitness: Vector = (self.scores * share).sum(axis=1)  # no matrix product: equal rows must have equal sums
        return fitness

    def attraction(self, first: int) -> Vector:
        """g, per candidate: what it would add to candidate number `first` (eq. 4); 0 for that one itself."""
        power = 1.0 if self.rules.attraction == "paper" else self.rules.alpha
        worth = self.capacity / self.crowd**power
        gain: Vector = (np.maximum(self.scores - self.scores[first], 0.0) * worth).sum(axis=1)
        return gain

    @property
    def coverage(self) -> float:
        """The share of items on which somebody scores: what a perfect choice among the candidates would reach."""
        return float((self.scores.max(axis=0) > 0).mean())

    @property
    def entropy(self) -> float:
        """How undecided the candidates are, in bits: the mean over items of H2 of their mean score (figure 3)."""
        q = self.scores.mean(axis=0)
        p = np.clip(np.stack([q, 1 - q]), 1e-300, 1.0)
        return float(-(p * np.log2(p)).sum(axis=0).mean())


def contest(raw: Scores, sizes: Sequence[int], rules: Rules, *, means: bool = False) -> Contest:
    """A contest in which every objective offers the same in total.

    So a task of 1,319 items does not drown one of 100. With one objective, scores in [0, 1] and no baseline these are
    the paper's equations as they stand.

    Args:
        raw: as told, at least one row.
        sizes: items of each objective.
        means: whether these are mean scores, one per objective, and no scores on items.
    """
    objectives = np.split(raw, np.cumsum(sizes)[:-1], axis=1)
    scores = [_comparable(block, rules.baseline, means) for block in objectives]
    capacities = [_capacity(block, rules.capacity) for block in scores]
    totals = [c.sum() for c in capacities]
    fair = sum(totals) / len(totals)
    balanced = [c * (fair / t) if t else c for c, t in zip(capacities, totals, strict=True)]
    return Contest(np.concatenate(scores, axis=1), np.concatenate(balanced), rules)


def _comparable(block: Scores, baseline: Baseline, means: bool) -> Scores:
    """One objective's scores, in [0, 1]: sums of them, and powers of sums, must not depend on a unit."""
    low, high = block.min(), block.max()
    if max(-low, high) > 1:
        block = block / max(-low, high)
    if baseline == "population_min" or (baseline == "auto" and (means or low < 0 or high > 1)):
        block = block - block.min(axis=0)
    block = np.maximum(block, 0.0)
    top = block.max()
    return block / top if top > 1 or (means and top > 0) else block


def _capacity(block: Scores, capacity: Capacity) -> Vector:
    if capacity == "binary" or (capacity == "auto" and bool(((block == 0) | (block == 1)).all())):
        return np.ones(block.shape[1])
    best: Vector = block.max(axis=0)
    return best


def roulette(weights: Vector, rng: np.random.Generator) -> int:
    """An index drawn in proportion to `weights`, at least 0; uniformly where all are 0."""
    wheel = np.cumsum(weights)
    if not wheel[-1] > 0:
        return int(rng.integers(len(weights)))
    stop = int(np.searchsorted(wheel, rng.random() * wheel[-1], side="right"))
    return min(stop, int(np.flatnonzero(weights)[-1]))  # the product may round up to the whole wheel
