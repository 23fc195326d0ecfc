"""Sobol search fulfils the contract and spreads its points."""

import numpy as np
import pytest
from scipy.stats import qmc

from evomerge.candidate import Evaluation
from evomerge.errors import InvalidInputError
from evomerge.optimizers.domain import Domain, Problem, real
from evomerge.optimizers.random import SobolSearch
from evomerge.testing.optimizer import OptimizerContract


class TestContract(OptimizerContract):
    def make(self, problem, *, seed):
        return SobolSearch(problem, seed=seed)


class TestContractWithTwoObjectives(TestContract):
    num_objectives = 2


def test_points_spread_more_evenly_than_independent_ones():
    proposals = SobolSearch(real((0.5,) * 6), seed=0).ask(129)
    independent = np.random.default_rng(0).random((128, 6))

    discrepancy = qmc.discrepancy(np.array([p.genome for p in proposals[1:]]))
    assert discrepancy < qmc.discrepancy(independent) / 5


def test_tells_change_nothing():
    told, untold = (SobolSearch(real((0.5, 0.5), 2), seed=1) for _ in range(2))
    told.tell([Evaluation(p.trial, (1.0, 2.0)) for p in told.ask(10)])
    untold.ask(10)

    assert told.state() == untold.state()


def test_generations_have_the_size_that_was_asked_for():
    search = SobolSearch(real((0.5,)), seed=0, generation_size=3)

    assert [p.generation for p in search.ask(7)] == [0, 0, 0, 1, 1, 1, 2]
    assert search.generation_size == 3


def test_a_late_restore_is_quick_and_exact():
    search = SobolSearch(real((0.5,) * 8), seed=0)
    search.ask(5000)

    assert SobolSearch.from_state(search.state()).ask(4) == search.ask(4)


@pytest.mark.parametrize(("options", "field"), [({"size": 3}, "size"), ({"generation_size": 0}, "generation_size")])
def test_wrong_options_are_named(options, field):
    with pytest.raises(InvalidInputError, match=f"optimizer.options.{field}"):
        SobolSearch(real((0.5,)), seed=0, **options)


def test_seeds_come_right_after_the_start():
    seeds = ((0.25, 0.75), (1.0, 0.0))
    search, plain = (SobolSearch(Problem(Domain((0.5, 0.5), seeds=s)), seed=1) for s in (seeds, ()))

    genomes = [p.genome for p in search.ask(4)]
    restored = SobolSearch.from_state(search.state())

    assert genomes[:3] == [(0.5, 0.5), *seeds]
    assert genomes[3:] == [p.genome for p in plain.ask(2)][1:]
    assert restored.ask(3) == search.ask(3)
