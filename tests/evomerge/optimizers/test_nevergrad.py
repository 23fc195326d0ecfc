"""nevergrad's optimizers: the contract for each that is allowed, and refusals that say why."""

import subprocess
import sys

import numpy as np
import pytest

from evomerge.candidate import Evaluation
from evomerge.errors import InvalidInputError
from evomerge.optimizers.domain import Domain, GeneKind, Problem, real
from evomerge.optimizers.nevergrad import ALGORITHMS, NevergradSearch
from evomerge.testing.optimizer import MixedOptimizerContract

pytest.importorskip("nevergrad")


class TestTwoPointsDE(MixedOptimizerContract):
    names = False

    def make(self, problem, *, seed):
        return NevergradSearch(problem, seed=seed)


@pytest.mark.slow
class TestOnePlusOneWithTwoObjectives(MixedOptimizerContract):
    names, num_objectives = False, 2

    def make(self, problem, *, seed):
        return NevergradSearch(problem, seed=seed, algorithm="OnePlusOne")


def sphere(genome):
    return -sum((gene - 0.6) ** 2 for gene in genome)


def asynchronous(search, evaluations, num_objectives=1, restore_every=None):
    """The genomes of a run on six workers with answers in random order, of which some fail."""
    rng, running, genomes = np.random.default_rng(0), [], []
    for step in range(evaluations):
        while len(running) < 6:
            running += search.ask(1)
            genomes.append(running[-1].genome)
        proposal = running.pop(int(rng.integers(6)))
        values = (sphere(proposal.genome), proposal.genome[0])[:num_objectives]
        search.tell([Evaluation(proposal.trial, None if rng.random() < 0.1 else values, float(rng.random() < 0.1))])
        if restore_every and step % restore_every == 0:
            search = NevergradSearch.from_state(search.state())
    return genomes


@pytest.mark.parametrize("num_objectives", [1, 2])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_allowed_algorithm_runs_out_of_order_and_is_restored_exactly(algorithm, num_objectives):
    problem = Problem(Domain((0.2, 0.9, 0.2, 0.3), seeds=((1.0, 0.0, 0.5, 0.5),)), num_objectives, budget=80)
    before = np.random.get_state(legacy=False)
    runs = [
        asynchronous(NevergradSearch(problem, seed=4, algorithm=algorithm), 70, num_objectives, every)
        for every in (None, 23)
    ]

    assert runs[0] == runs[1]
    assert runs[0][:2] == [(0.2, 0.9, 0.2, 0.3), (1.0, 0.0, 0.5, 0.5)]
    np.testing.assert_equal(np.random.get_state(legacy=False), before)


@pytest.mark.parametrize("algorithm", sorted(set(ALGORITHMS) - {"RandomSearch", "PSO"}))
def test_most_get_better(algorithm):
    search = NevergradSearch(real((0.1,) * 4, budget=300), seed=0, algorithm=algorithm)
    scores = [sphere(genome) for genome in asynchronous(search, 300)]

    assert np.median(scores[-100:]) > np.median(scores[:30])
    assert max(scores) > -0.1


@pytest.mark.parametrize("algorithm", ["NGOpt", "NGOptRW", "MetaModel"])
def test_what_fails_with_this_numpy_is_refused_and_the_message_says_why(algorithm):
    with pytest.raises(InvalidInputError, match=rf"algorithm: got '{algorithm}'; .*TwoPointsDE.* fails with NumPy"):
        NevergradSearch(real((0.5, 0.5)), seed=0, algorithm=algorithm)


def test_unknown_algorithms_and_categories_are_refused():
    with pytest.raises(InvalidInputError, match=r"optimizer\.options\.algorithm: got 'Best'"):
        NevergradSearch(real((0.5, 0.5)), seed=0, algorithm="Best")
    with pytest.raises(InvalidInputError, match="catcma"):
        NevergradSearch(Problem(Domain((0.5, 0.5), (GeneKind(choices=3), GeneKind()))), seed=0)


def test_nothing_imports_nevergrad_before_it_is_named_and_a_missing_one_is_said():
    program = """
import sys
sys.modules["nevergrad"] = None  # as if it were not installed
from evomerge.errors import InvalidInputError
from evomerge.optimizers import make
from evomerge.optimizers.domain import real
try:
    make("nevergrad", real((0.5, 0.5)), seed=0)
except InvalidInputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "pip install 'evomerge[nevergrad]'" in done.stdout


def test_the_state_grows_by_24_bytes_an_answer():
    search = NevergradSearch(real((0.5,) * 4), seed=0, algorithm="OnePlusOne")
    sizes = []
    for _ in range(3):
        search.tell([Evaluation(p.trial, (sphere(p.genome),)) for p in search.ask(50)])
        sizes.append(len(search.state()))

    assert np.diff(sizes).max() <= 50 * 24 + 8  # and digits of the number of proposals
