"""Searches with any selection and estimator over the table: what an optimizer finds when it is told just that."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from genes import Genes
from product import Believed

from evomerge.candidate import Evaluation
from evomerge.optimizers import make
from fitness.irt.contracts import Bank
from fitness.irt.cross_validation import Approach
from fitness.irt.estimators import make_estimator
from fitness.irt.fits import Fits
from fitness.irt.selection import Policy, Selection, Stream, select
from table import METRIC, Table


@dataclass(frozen=True, slots=True)
class Ended:
    """The candidate with the best estimate, the answers that were asked for, and the candidates."""

    chosen: Believed
    items: int
    candidates: int


@dataclass(frozen=True)
class Loop:
    """One way to score candidates.

    Attributes:
        bank: merges that models of items are fitted on; their answers cost nothing here.
        parents: how many of them, the first ones, are the sources.
        rotate: new items every generation of the optimizer.
        n: items a candidate.
        pool: a merge that is asked again is judged by all its answers (simple random items only), and of two estimates
            the one that is better by its standard error less is chosen in the end.
    """

    table: Table
    bank: tuple[str, ...]
    parents: int
    approach: Approach
    n: int
    rotate: bool
    pool: bool = False

    @cached_property
    def fits(self) -> Fits:
        """What the bank says of items."""
        return Fits(Bank(self.table.matrix(METRIC, self.bank), tuple(range(self.parents))))

    def run(self, optimizer: str, budget: int, seed: int) -> Ended:
        """Ask candidates one at a time until so many items were answered.

        A candidate that has answered a generation's items is not asked them again; five times as many candidates as
        the budget pays for end the search, too.
        """
        genes, estimator = Genes(self.table.stage), make_estimator(self.approach.estimator, self.fits)
        search = make(optimizer, genes.problem(1, max(1, budget // self.n)), seed=seed)
        selections: dict[int, Selection] = {}
        answered: dict[str, Selection] = {}  # all that a merge was ever asked
        told: dict[tuple[str, int], tuple[float, float]] = {}
        spent = asked = 0
        while spent + self.n <= budget and asked < 5 * max(1, budget // self.n):
            (proposal,) = search.ask(1)
            asked += 1
            generation = proposal.generation if self.rotate else 0
            key = name, _ = genes.name(proposal.genome), generation
            if generation not in selections:
                selections[generation] = select(self.fits.bank, self.n, self._policy, Stream(seed, generation))
            if key not in told:
                selection = selections[generation]
                before = answered.get(name)
                spent += self.n if before is None else len(np.setdiff1d(selection.places, before.places))
                answered[name] = selection if before is None else _union(selection, before)
                asked_now = answered[name] if self.pool else selection
                scores = estimator.estimate(asked_now, self.table.values(name)[asked_now.places][None])
                told[key] = float(scores.means[0]), float(scores.errors[0])
            mean, error = told[key]
            search.tell([Evaluation(proposal.trial, (mean,), errors=None if np.isnan(error) else (error,))])
        latest = [(name, *value) for (name, _), value in told.items()]
        if self.pool:
            latest = list({row[0]: row for row in latest}.values())
        best = max(latest, key=lambda row: row[1] - (row[2] if self.pool else 0.0))
        return Ended(Believed(*best), spent, asked)

    @property
    def _policy(self) -> Policy:
        assert self.approach.policy != "each", "all candidates of a generation answer the same items"
        return self.approach.policy


def _union(selection: Selection, other: Selection) -> Selection:
    """The items of two simple random samples, taken as one."""
    places = np.union1d(selection.places, other.places)
    zeros = np.zeros(len(places), dtype=np.intp)
    return Selection(places, zeros, selection.sizes, np.ones(len(places), dtype=np.bool_), selection.columns)
