"""Estimates for subjects that a bank's models were not fitted on: what the bank itself says about methods.

M subjects in the bank, K held out, N items, n asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from evomerge.errors import InvalidInputError
from fitness.irt.contracts import Bank, Places, Scores, Selection
from fitness.irt.estimators import make_estimator
from fitness.irt.fits import Fits, each_scores
from fitness.irt.information import ask_batches, ask_each
from fitness.irt.item_quality import item_quality
from fitness.irt.selection import Policy, Stream, select
from fitness.irt.two_parameter import ItemParameters
from fitness.matrix import Floats

Asking = Policy | Literal["each"]

DETERMINED = ("greedy", "adaptive", "each")
"""Policies that ask the same items whatever the stream."""


@dataclass(frozen=True, slots=True)
class Approach:
    """Items chosen in one way and scores estimated in another.

    Attributes:
        policy: of the selection; `each` asks every subject items of its own, one by one (Fisher information).
        estimator: by name.
    """

    policy: Asking
    estimator: str

    @property
    def name(self) -> str:
        """Of both together, as in tables."""
        return f"{self.estimator}, {self.policy}"


class _Inner(Fits):
    """Models of a bank's other folds."""

    def __init__(self, outer: Fits, fold: int, bank: Bank) -> None:
        super().__init__(bank, iterations=outer.iterations)
        self._outer, self._fold = outer, fold

    @cached_property
    def items(self) -> ItemParameters:
        """Fitted once for all who leave out this fold."""
        return self._outer.crossed_items[self._fold]

    def eap_misfit(self, selection: Selection) -> float:
        """The whole bank's: one number, worked out across the same folds."""
        return self._outer.eap_misfit(selection)

    def each_misfit(self, number: int) -> float:
        """The same."""
        return self._outer.each_misfit(number)


def held_out(fits: Fits, fold: int) -> tuple[Fits, Places]:
    """Models of all rows but one fold's, and the fold's rows. Parents are always in the bank, never held out."""
    rows = fits.folds[fold]
    parents = np.array(fits.bank.parents, dtype=np.intp)
    kept = np.setdiff1d(np.arange(len(fits.matrix.subjects)), np.setdiff1d(rows, parents))
    inner = Bank(fits.matrix.of(kept), tuple(np.searchsorted(kept, parents).tolist()))
    return _Inner(fits, fold, inner), np.setdiff1d(rows, parents)


def ask(fits: Fits, answers: Floats, policy: Policy, n: int, stream: Stream) -> Selection:
    """The items that K subjects are asked in common; adaptive ones in batches, by the answers [K, N] so far."""
    if policy != "adaptive":
        return select(fits.bank, n, policy, stream)
    asked = ask_batches(fits.items, n, item_quality(fits.bank).sound, answers)
    return select(fits.bank, n, policy, stream, curves=fits.items, asked=asked)


def predict(fits: Fits, answers: Floats, approach: Approach, n: int, stream: Stream) -> Scores:
    """Full scores of K subjects by `n` of their answers [K, N]."""
    if approach.policy == "each":
        if approach.estimator != "eap":
            raise InvalidInputError("estimator", approach.estimator, "'eap', for items that differ by subject")
        return estimate_each(fits, ask_for_each(fits, answers, n), answers)
    found = ask(fits, answers, approach.policy, n, stream)
    return make_estimator(approach.estimator, fits).estimate(found, answers[:, found.places])


def ask_for_each(fits: Fits, answers: Floats, n: int) -> Places:
    """[K, n] the items that each of K subjects is asked by itself, by its answers [K, N] so far."""
    open_items = item_quality(fits.bank).sound
    return ask_each(fits.items, min(n, int(open_items.sum())), open_items, answers)


def estimate_each(fits: Fits, asked: Places, answers: Floats) -> Scores:
    """Full scores of K subjects by answers [K, N] to items [K, n] of their own, expected a posteriori. Errors add what
    the model misses of the bank's rows when they are asked in the same way."""
    means, variances = each_scores(fits.items, fits.probabilities, fits.matrix.weights, asked, answers)
    return Scores(means, np.sqrt(variances + fits.each_misfit(asked.shape[1])), False)


def cross_validate(fits: Fits, approach: Approach, n: int, *, draws: int, seed: int) -> tuple[Places, list[Scores]]:
    """Estimates for every subject of the bank but its parents, from models of the other folds.

    Args:
        draws: sets of items; one where the policy leaves nothing to chance.

    Returns:
        [K] rows, and for each draw [K] estimates of them.
    """
    draws = 1 if approach.policy in DETERMINED else draws
    folds = [held_out(fits, fold) for fold in range(len(fits.folds))]
    rows = np.concatenate([rows for _, rows in folds])
    found = []
    for draw in range(draws):
        parts = [
            predict(inner, fits.matrix.values[held], approach, n, Stream(seed, draw, f"fold {fold}"))
            for fold, (inner, held) in enumerate(folds)
            if len(held)
        ]
        means = np.concatenate([part.means for part in parts])
        errors = np.concatenate([part.errors for part in parts])
        unbiased = all(part.unbiased for part in parts)
        found.append(Scores(means, errors, unbiased, parts[0].freedom, parts[0].graded))  # alike in all folds
    return rows, found
