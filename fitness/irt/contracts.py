"""What selections and estimators of full scores have in common.

A bank holds subjects that were asked everything. A selection names the items that further subjects are asked. An
estimator is fitted on a bank and says from those answers what the full scores are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fitness.matrix import Floats, ResponseMatrix

Places = NDArray[np.intp]
Rule = Literal["greedy", "adaptive"]


@dataclass(frozen=True, slots=True)
class Bank:
    """Complete answers to the items of one eval set.

    Attributes:
        matrix: complete rows only; there may be none.
        parents: rows of the models that are merged, without repetition; may be empty.
    """

    matrix: ResponseMatrix
    parents: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Selection:
    """Items that are asked.

    Attributes:
        places: [n] columns of the bank's matrix, without repetition.
        strata: [n] int, the stratum that each was drawn from; all 0 for a simple random sample.
        sizes: stratum → items in it, those that were chosen among them; together they are all items.
        random: [n] bool, which of them were drawn at random without replacement within their stratum, from the items
            of it that were not chosen; the others were chosen, and have no inclusion probability. Chosen items stand
            for themselves only where the rest of the population was drawn from, too.
        columns: [N] the stratum of every column of the matrix. It may be left out where there is one stratum, and
            where items' weights are equal; the doubly robust estimator needs it with several strata.
        rule: how the chosen items were, so that a bank can choose anew without the rows that it holds out: greedily, or
            by the abilities of those that are scored.
    """

    places: Places
    strata: Places
    sizes: dict[int, int]
    random: NDArray[np.bool_]
    columns: Places | None = None
    rule: Rule = "greedy"


@dataclass(frozen=True, slots=True)
class Scores:
    """Estimates of the full scores of K subjects.

    Attributes:
        means: [K].
        errors: [K] standard errors; NaN where the method has none.
        unbiased: whether they are free of bias by the way the items were drawn, whatever the subjects are (with item
            weights that differ within a stratum, but for O(1/n): Hájek's ratio).
        freedom: degrees of freedom of the errors, for Student's t; None where they are a normal distribution's.
        graded: right or wrong answers that the scores are the mean of, for Wilson's interval; None for anything else.
    """

    means: Floats
    errors: Floats
    unbiased: bool
    freedom: float | None = None
    graded: int | None = None


class Estimator(Protocol):
    """A way to full scores, fitted on a bank by its constructor or by a function; holds no further state."""

    @property
    def name(self) -> str:
        """As in tables and settings."""
        ...

    def estimate(self, selection: Selection, answers: Floats) -> Scores:
        """Full scores of K subjects from their answers to the selection's items.

        Args:
            answers: [K, n], complete.
        """
        ...
