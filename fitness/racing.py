"""Races: a candidate answers its items in blocks, and stops when it has no chance any more.

A candidate goes on unless it is almost surely dominated, in every objective, by more than a share of those that it runs
against: the latest candidates that were scored. With half of them, what stops can neither join the front nor be among
the better half that optimizers select, and what an optimizer is told of it says so well enough. The rule is that of
races between configurations (Birattari et al. 2002, F-Race) with posterior probabilities in the place of rank tests:
estimates are drawn towards the rivals' mean by their errors (empirical Bayes), so that few unlucky answers end no race.

Blocks are nested random samples: each is what the generation might have been asked if it had been asked less.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from evomerge.seeds import generator
from fitness.estimate import combine
from fitness.evaluator import Responses
from fitness.measure import Measure
from fitness.subset import CERTAIN, Subset, allocate
from fitness.survey import Floats

ALPHA = 0.1
"""Chance that a race ends a candidate which should have gone on, over all its blocks."""
BEATEN_BY = 0.5
"""Share of the rivals that must be better in every objective."""
LEAST = 4
"""Items in a block; fewer say nothing."""
MIN_FIELD = 8
"""Rivals without which nobody is stopped."""


@dataclass(frozen=True, slots=True)
class Rivals:
    """What candidates run against: the latest that were scored. Larger is better.

    Attributes:
        values: [K, objectives].
        errors: [K, objectives].
    """

    values: tuple[tuple[float, ...], ...]
    errors: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Lap:
    """One block.

    Attributes:
        fidelity: how many times the usual number of items are answered when it ends.
        items: eval set → ids that come new.
        measures: for each objective that items tell of, its sign and what it is the mean of; none for the last block.
    """

    fidelity: float
    items: Mapping[str, tuple[str, ...]]
    measures: tuple[tuple[float, tuple[Measure, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class Race:
    """The blocks of one candidate and those that it runs against. Plain values: they travel to workers.

    Attributes:
        costs: the candidate's costs, larger is better: the last of the rivals' objectives. They are known.
    """

    laps: tuple[Lap, ...]
    rivals: Rivals
    costs: tuple[float, ...] = ()

    def is_lost(self, lap: int, responses: Mapping[str, Responses]) -> bool:
        """Whether the candidate stops after this block, from all its answers so far."""
        if not self.laps[lap].measures:
            return False
        found = [combine([m.estimate(responses) for m in parts]) for _, parts in self.laps[lap].measures]
        signs = [sign for sign, _ in self.laps[lap].measures]
        level = ALPHA / (len(self.laps) - 1)
        values = [sign * estimate.mean for sign, estimate in zip(signs, found, strict=True)]
        errors = [estimate.se for estimate in found]
        chances = beaten([*values, *self.costs], [*errors, *(0.0 for _ in self.costs)], self.rivals)
        return bool(np.mean(chances > 1 - level) > BEATEN_BY)


def beaten(values: Sequence[float], errors: Sequence[float], rivals: Rivals) -> Floats:
    """The chance that each rival is better than a candidate in every objective, [K].

    The candidate's and the rivals' values are drawn towards the rivals' mean by τ²/(τ² + se²), where τ² is the
    spread of them all that errors do not explain; objectives are taken as independent.
    """
    means, noise = np.asarray(rivals.values), np.asarray(rivals.errors) ** 2
    value, variance = np.asarray(values, dtype=np.float64), np.asarray(errors, dtype=np.float64) ** 2
    everybody, all_noise = np.vstack([means, value]), np.vstack([noise, variance])
    spread = np.maximum(0.0, everybody.var(axis=0, ddof=1) - all_noise.mean(axis=0))
    centre = means.mean(axis=0)

    def posterior(seen: Floats, error: Floats) -> tuple[Floats, Floats]:
        share = spread / np.maximum(spread + error, 1e-300)
        return centre + share * (seen - centre), share * error

    own, own_variance = posterior(value, variance)
    theirs, their_variance = posterior(means, noise)
    scale = np.sqrt(np.maximum(own_variance + their_variance, 1e-300))
    return np.asarray(stats.norm.cdf((theirs - own) / scale).prod(axis=1))


def nested(subset: Subset, share: float, *, seed: int, generation: int, eval_set: str, least: int = 1) -> Subset | None:
    """A smaller random sample inside a random sample, its strata shared out alike; None where it would hold fewer than
    `LEAST` items, fewer than `least` a stratum, or as many as the whole. Of chosen items none is left out.

    Subsets of smaller shares are inside those of larger ones.
    """
    certain = subset.certain
    sizes = Counter(stratum for stratum in subset.strata if stratum != CERTAIN)
    n = math.ceil(share * len(subset.ids)) - len(certain)
    if not max(LEAST, least * len(sizes)) <= n < len(subset.ids) - len(certain):
        return None
    chosen = list[tuple[str, str]]()
    for stratum, count in allocate(sizes, n, least=least).items():
        pool = [i for i, s in zip(subset.ids, subset.strata, strict=True) if s == stratum]
        order = generator(seed, "race", eval_set, generation, stratum).permutation(len(pool))
        chosen += [(pool[i], stratum) for i in order[:count]]
    chosen.sort()
    return Subset(tuple(i for i, _ in chosen), tuple(s for _, s in chosen)).beside(certain)
