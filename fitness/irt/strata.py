"""Strata of items by what is known before a candidate answers: parents' answers, and how hard the bank found them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evomerge.errors import InvalidInputError
from fitness.irt.contracts import Bank, Places, Selection
from fitness.irt.item_quality import item_quality
from fitness.matrix import Floats
from fitness.subset import allocate

BOTH_WRONG, DISAGREE, BOTH_RIGHT = 0, 1, 2

NAMES = {BOTH_WRONG: "wrong", DISAGREE: "divided", BOTH_RIGHT: "right"}
"""What the parents' patterns are called in events."""

DEVIATIONS = {BOTH_WRONG: 0.3, DISAGREE: 0.5, BOTH_RIGHT: 0.22}
"""Standard deviation of a merge's answers by its parents' pattern, before any merge has answered: it follows parents
that agree on all but a few per cent of the items, and tosses a coin where they do not."""

PRIOR_ANSWERS = 20
"""Answers in a stratum that weigh as much as `DEVIATIONS`."""

MOST = 10
"""Strata of a stratified draw: beyond some ten nothing is gained (Cochran 1977, section 5A.8)."""


def parents_pattern(bank: Bank) -> Places:
    """[N] whether the parents answer an item all wrong (below 1/2), all right, or disagree; 0 without parents."""
    if not bank.parents:
        return np.zeros(len(bank.matrix.items), dtype=np.intp)
    right = bank.matrix.values[list(bank.parents)] >= 0.5
    return np.where(right.all(axis=0), BOTH_RIGHT, np.where(right.any(axis=0), DISAGREE, BOTH_WRONG)).astype(np.intp)


def pattern_strata(bank: Bank) -> Places:
    """[N] strata of `parent_neyman`.

    Raises:
        InvalidInputError: the bank knows no parents.
    """
    if not bank.parents:
        raise InvalidInputError("subset.policy", "parent_neyman", "a bank with the parents' answers to all items")
    return parents_pattern(bank)


def quantile_strata(bank: Bank, number: int) -> Places:
    """[N] at most `number` strata: the parents' pattern, each cut into equal parts by the bank's easiness.

    Patterns share the number in proportion to their sizes, one at least; a single stratum if there are fewer than
    patterns. Strata of one pattern differ in size by one item at most.
    """
    pattern, easiness = parents_pattern(bank), item_quality(bank).easiness
    kinds, counts = np.unique(pattern, return_counts=True)
    strata = np.zeros(len(pattern), dtype=np.intp)
    if number < len(kinds):
        return strata
    sizes = dict(zip(kinds.tolist(), counts.tolist(), strict=True))
    next_label = 0
    for kind, parts in allocate(sizes, min(number, len(pattern))).items():
        places = np.flatnonzero(pattern == kind)
        ranked = sorted(places.tolist(), key=lambda place: (easiness[place], bank.matrix.items[place]))
        for part in np.array_split(np.array(ranked, dtype=np.intp), parts):
            strata[part] = next_label
            next_label += 1
    return strata


def observed_deviations(asked: Sequence[tuple[Selection, Floats]]) -> dict[int, float]:
    """Standard deviations of answers by the parents' pattern, from what candidates of earlier generations answered.

    Variances are taken within a candidate's stratum and drawn to `DEVIATIONS`, as if `PRIOR_ANSWERS` answers had shown
    those.

    Args:
        asked: selections of `parent_neyman`, each with the answers [K, n] of K candidates, or with the differences of
            these to a control's.
    """
    squares = {stratum: PRIOR_ANSWERS * sd**2 for stratum, sd in DEVIATIONS.items()}
    freedom = dict.fromkeys(DEVIATIONS, float(PRIOR_ANSWERS))
    for selection, answers in asked:
        for stratum in DEVIATIONS:
            own = answers[:, selection.strata == stratum]
            if own.shape[1] > 1:
                squares[stratum] += float(((own - own.mean(axis=1, keepdims=True)) ** 2).sum())
                freedom[stratum] += own.shape[0] * (own.shape[1] - 1)
    return {stratum: float(np.sqrt(squares[stratum] / freedom[stratum])) for stratum in DEVIATIONS}
