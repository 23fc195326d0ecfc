"""What a bank says about its items: how hard they are, and which of them cannot tell subjects apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fitness.irt.contracts import Bank
from fitness.matrix import Floats

AGAINST = 1.645
"""An item counts as running against the others when its correlation with them lies so many standard errors below 0
(one in twenty does by chance where there is nothing)."""


@dataclass(frozen=True, slots=True)
class ItemQuality:
    """One entry for each of N items.

    Attributes:
        easiness: [N] mean response in the bank, drawn to the middle by half a right and half a wrong answer; 1/2 all
            over without a bank.
        constant: [N] bool, all of the bank answers alike.
        negative: [N] bool, better subjects answer worse, beyond chance: mostly wrong labels.
    """

    easiness: Floats
    constant: NDArray[np.bool_]
    negative: NDArray[np.bool_]

    @property
    def sound(self) -> NDArray[np.bool_]:
        """[N] items worth choosing; the others stay in the full score, and in what is drawn at random."""
        return ~(self.constant | self.negative)


def item_quality(bank: Bank) -> ItemQuality:
    """Easiness and defects, from the complete answers in a bank of any size."""
    values = bank.matrix.values
    subjects, num_items = values.shape
    easiness = (values.sum(axis=0) + 0.5) / (subjects + 1)
    if subjects == 0:
        no = np.zeros(num_items, dtype=np.bool_)
        return ItemQuality(easiness, no, no)
    constant = values.max(axis=0) - values.min(axis=0) <= 0
    return ItemQuality(easiness, constant, _rest_correlations(values) < -AGAINST / np.sqrt(subjects))


def _rest_correlations(values: Floats) -> Floats:
    """[N] of each item with the sum of the others; 0 where either is constant."""
    rest = values.sum(axis=1, keepdims=True) - values
    x, y = values - values.mean(axis=0), rest - rest.mean(axis=0)
    size = np.sqrt((x * x).sum(axis=0) * (y * y).sum(axis=0))
    return np.asarray(np.divide((x * y).sum(axis=0), size, out=np.zeros_like(size), where=size > 1e-12))
