"""What every optimizer of lineages must do, as tests to inherit: the laws of all optimizers, for descents.

class TestMine(LineageContract):
    def make(self, problem, *, seed): return Mine(problem, seed=seed, population=4)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evomerge.candidate import Descent, Evaluation, Genome, Proposal
from evomerge.optimizers.domain import Domain, LineageDomain, Problem
from evomerge.optimizers.optimizer import Optimizer
from evomerge.testing.optimizer import START, Driver, LearningOptimizerContract

LINEAGE = LineageDomain(sources=3, units=(12, 5))
"""Three sources of two chromosomes."""


class LineageDriver(Driver):
    """Knows each candidate's weights: source k has 1 at every third place, beginning with k, else 0.

    A candidate scores on the items whose weight is more than ½: no source on more than a third, a child of complements
    on more. Objective k has every `num_objectives`-th item, beginning with k.
    """

    def __init__(self, optimizer: Optimizer, num_objectives: int) -> None:
        super().__init__(optimizer, num_objectives)
        self._known: list[NDArray[np.float64]] = []

    def weights(self, trial: int) -> NDArray[np.float64]:
        """Of a proposal, shape [units of all chromosomes]."""
        for proposal in self.proposals[len(self._known) : trial + 1]:
            assert proposal.descent is not None
            self._known.append(_weights(proposal.descent, self._known))
        return self._known[trial]

    def scored(self, proposal: Proposal) -> Evaluation:
        solved = (self.weights(proposal.trial) > 0.5).astype(float).tolist()
        return self._responses(proposal, solved)

    def flat(self, proposal: Proposal) -> Evaluation:
        return self._responses(proposal, [0.0] * sum(LINEAGE.units))

    def _responses(self, proposal: Proposal, scores: list[float]) -> Evaluation:
        blocks = tuple(tuple(scores[k :: self.num_objectives]) for k in range(self.num_objectives))
        return Evaluation(proposal.trial, tuple(sum(b) / len(b) for b in blocks), responses=blocks)


def _weights(descent: Descent, known: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Of the next candidate; sides are mixed linearly, which is enough to choose by."""
    place = np.arange(sum(LINEAGE.units))
    if descent.parents is None:
        return np.where(place % LINEAGE.sources == descent.source, 1.0, 0.0)
    starts = np.cumsum([0, *LINEAGE.units[:-1]])
    left = np.zeros(len(place), bool)
    for start, split in zip(starts, descent.splits, strict=True):
        left[start : start + split] = True
    a, b = (known[parent] for parent in descent.parents)
    t = np.where(left, descent.mix, 1 - descent.mix)
    noise = np.random.default_rng(len(known)).standard_normal(len(place))
    child: NDArray[np.float64] = (1 - t) * a + t * b + descent.noise * noise
    return child


class LineageContract(LearningOptimizerContract):
    """Inherit, name the class `Test…`, supply `make`; set `num_objectives` for more than one."""

    def driver(self, start: Genome = START, seed: int = 0) -> LineageDriver:
        problem = Problem(Domain((), lineage=LINEAGE), self.num_objectives)
        return LineageDriver(self.make(problem, seed=seed), self.num_objectives)

    def check(self, proposals: Sequence[Proposal]) -> None:
        """Whether every descent names sources, earlier trials and places that there are."""
        for proposal in proposals:
            descent = proposal.descent
            assert proposal.genome == ()
            assert descent is not None
            assert (descent.source is None) != (descent.parents is None)
            assert descent.source is None or 0 <= descent.source < LINEAGE.sources
            if descent.parents is not None:
                assert all(0 <= parent < proposal.trial for parent in descent.parents)
                assert all(0 <= split < units for split, units in zip(descent.splits, LINEAGE.units, strict=True))
                assert 0 <= descent.mix <= 1

    def test_the_first_proposal_is_the_start(self) -> None:
        """In a lineage that is: every source comes first, in order, and alone."""
        first = self.driver().ask(LINEAGE.sources)

        assert first == [Proposal(k, (), 0, Descent(source=k)) for k in range(LINEAGE.sources)]

    def test_a_child_solves_what_no_source_does(self) -> None:
        driver = self.driver()
        means: list[float] = []
        for _ in range(100):
            evaluations = driver.answers(driver.ask(4))
            driver.optimizer.tell(evaluations)
            means += [sum(e.values) for e in evaluations if e.values is not None]

        assert max(means) >= 1.4 * max(means[: LINEAGE.sources])

    def test_parents_are_candidates_that_were_scored(self) -> None:
        driver = self.driver()
        scored = set(range(LINEAGE.sources))
        for round_ in range(30):
            for proposal in driver.ask(5):
                parents = proposal.descent.parents if proposal.descent else None
                assert scored.issuperset(parents or ())
                failed = (proposal.trial + round_) % 3 == 0
                driver.optimizer.tell([Evaluation(proposal.trial, None) if failed else driver.scored(proposal)])
                scored |= set() if failed else {proposal.trial}
