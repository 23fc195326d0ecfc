"""COMO-CatCMA with margin: the contract, and a front of mixed genes covered."""

import numpy as np
import pytest

from evomerge.archive import hypervolume
from evomerge.candidate import Evaluation
from evomerge.optimizers.domain import Domain, GeneKind, Problem
from evomerge.optimizers.mo_catcma import ComoCatCma
from evomerge.optimizers.nsga import Nsga2
from evomerge.optimizers.random import SobolSearch
from evomerge.testing.optimizer import MixedOptimizerContract


class TestContract(MixedOptimizerContract):
    num_objectives = 2

    def make(self, problem, *, seed):
        return ComoCatCma(problem, seed=seed, population=4, kernels=2)


@pytest.mark.slow
class TestContractWithThreeObjectives(TestContract):
    num_objectives = 3


REALS, ORDERED, BITS = 6, 2, 8
KINDS = (GeneKind(),) * REALS + (GeneKind(choices=7, ordered=True),) * ORDERED + (GeneKind(choices=2),) * BITS
START = (0.5,) * (REALS + ORDERED) + (0.25,) * BITS


def two_ends(genome):
    """Reals, choices and six bits pull apart; two bits serve both."""
    x, z, bits = genome[:REALS], genome[REALS : REALS + ORDERED], np.array(genome[REALS + ORDERED :]) > 0.5
    split, both = bits[:6], 0.1 * np.sum(~bits[6:])
    ends = []
    for at, near, wrong in ((0.3, 0.2, split), (0.7, 0.8, ~split)):
        far = sum((g - at) ** 2 for g in x) + sum((g - near) ** 2 for g in z)
        ends.append(-float(far + 0.1 * np.sum(wrong) + both))
    return tuple(ends)


def volume(kind, evaluations, seed):
    optimizer, points = kind(Problem(Domain(START, KINDS), 2, evaluations), seed=seed), []
    for _ in range(evaluations):
        (proposal,) = optimizer.ask(1)
        points.append(two_ends(proposal.genome))
        optimizer.tell([Evaluation(proposal.trial, points[-1])])
    return hypervolume(points, (-2.0, -2.0))


def test_a_mixed_front_is_covered_better_than_by_chance():
    volumes = {kind: np.mean([volume(kind, 200, seed) for seed in (0, 1)]) for kind in (ComoCatCma, SobolSearch)}

    assert volumes[ComoCatCma] > volumes[SobolSearch] + 0.4


@pytest.mark.slow
def test_with_time_a_mixed_front_is_covered_better_than_by_nsga():
    volumes = {kind: np.mean([volume(kind, 1000, seed) for seed in range(3)]) for kind in (ComoCatCma, Nsga2)}

    assert volumes[ComoCatCma] > volumes[Nsga2] + 0.02


def test_a_restored_search_finds_the_same_front():
    problem, runs = Problem(Domain(START, KINDS), 2), []
    for every in (None, 17):
        optimizer, proposals = ComoCatCma(problem, seed=1, kernels=3, population=6), []
        for step in range(150):
            (proposal,) = optimizer.ask(1)
            proposals.append(proposal)
            optimizer.tell([Evaluation(proposal.trial, two_ends(proposal.genome))])
            if every and step % every == 0:
                optimizer = ComoCatCma.from_state(optimizer.state())
        runs.append(proposals)

    assert runs[0] == runs[1]
