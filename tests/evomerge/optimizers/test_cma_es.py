"""CMA-ES: the contract, pycma itself as the reference, and what our order of arrival adds."""

import math
from itertools import pairwise

import numpy as np
import pytest
from cma.boundary_handler import BoundTransform

from evomerge.archive import hypervolume
from evomerge.candidate import Evaluation
from evomerge.errors import EvomergeError, InvalidInputError
from evomerge.optimizers.cma_es import MAX_AGE, CmaEs, Normal
from evomerge.optimizers.domain import Domain, Problem, real
from evomerge.optimizers.random import SobolSearch
from evomerge.optimizers.unit_box import Strategy, UnitBox, cma
from evomerge.testing.optimizer import LearningOptimizerContract


class TestContract(LearningOptimizerContract):
    def make(self, problem, *, seed):
        return CmaEs(problem, seed=seed, population=4)


class TestContractWithTwoObjectives(TestContract):
    num_objectives = 2


class TestContractWithVariancesOnly(TestContract):
    def make(self, problem, *, seed):
        return CmaEs(problem, seed=seed, population=4, diagonal=True)


def sphere(genome):
    return -sum((gene - 0.6) ** 2 for gene in genome)


def tilted(genome):
    """A narrow valley, so that the covariance matters; rounded to steps like an accuracy."""
    return round(-sum(10**k * (a - b - 0.1) ** 2 for k, (a, b) in enumerate(pairwise(genome))), 4)


def told(proposals, function):
    return [Evaluation(p.trial, (function(p.genome),)) for p in proposals]


class Undisturbed:
    """One object of pycma for a whole run, fed with the same normal numbers as `CmaEs` of the same seed."""

    def __init__(self, start, population, diagonal, seed):
        options = {"bounds": [0, 1], "popsize": population, "CMA_diagonal": diagonal, "seed": np.nan, "verbose": -9}
        criteria = {"tolflatfitness": 20, "tolfun": 0, "tolfunhist": 0}
        self.normal, self.population, self.trial = Normal(seed), population, 0
        self.es = cma.CMAEvolutionStrategy(list(start), 0.15, {**options, **criteria, "randn": self.normal})

    def generation(self, function):
        """The genomes of the next generation, and why pycma would stop after it."""
        solutions = []
        for _ in range(self.population):
            self.normal.trial, self.trial = self.trial, self.trial + 1
            solutions += self.es.ask(1)
        self.es.tell(solutions, [-function(tuple(x)) for x in solutions])
        return [tuple(x) for x in solutions], set(self.es.stop())


@pytest.mark.parametrize(
    ("genes", "population", "diagonal", "generations"),
    [(2, 6, False, 25), (6, 9, False, 100), (16, 12, False, 150), (12, 8, True, 150)],
)
def test_generations_told_in_order_are_those_of_pycma_itself(genes, population, diagonal, generations):
    start = tuple(np.linspace(0.2, 0.7, genes).tolist())
    ours = CmaEs(real(start), seed=7, population=population, diagonal=diagonal)
    pycma = Undisturbed(start, population, diagonal, seed=7)
    for generation in range(generations):
        proposals = ours.ask(population)
        ours.tell(told(proposals, tilted))
        expected, stop = pycma.generation(tilted)

        assert not stop
        first = expected[0] if generation else start  # which pycma folds into the bounds and back
        assert [p.genome for p in proposals] == [first, *expected[1:]]


def stagnating(genome):
    """Random to the optimizer: there is nothing to learn, and the best ever comes early."""
    return float(np.random.default_rng(int(genome[0] * 2**40)).random()) if genome[0] != 0.45 else 1.0


@pytest.mark.parametrize(
    ("function", "criterion"),
    [
        (sphere, "tolx"),
        (lambda genome: 0.5, "tolflatfitness"),
        pytest.param(stagnating, "tolstagnation", marks=pytest.mark.slow),
    ],
)
def test_a_restart_comes_when_pycma_itself_would_stop(function, criterion):
    start = (0.45, 0.5)
    ours = CmaEs(real(start), seed=3)
    pycma, stop = Undisturbed(start, 6, False, seed=3), set()
    while not stop:
        assert ours.generation_size == 6
        ours.tell(told(ours.ask(6), function))
        _, stop = pycma.generation(function)

    assert criterion in stop
    assert ours.generation_size == 12


def asynchronous(optimizer, function, evaluations, seed, slots=7, failures=0.1, restore_every=None):
    """The proposals of a run on `slots` workers whose evaluations take random time and sometimes fail."""
    rng = np.random.default_rng(seed)
    running, proposals = [], []
    for step in range(evaluations):
        while len(running) < slots:
            (proposal,) = optimizer.ask(1)
            proposals.append(proposal)
            running.append((step + rng.lognormal(1.0, 0.7) * slots, proposal))
        running.sort(key=lambda r: r[0])
        _, proposal = running.pop(0)
        failed = rng.random() < failures
        values = (function(proposal.genome), proposal.genome[0])[: optimizer._num_objectives]
        optimizer.tell([Evaluation(proposal.trial, None if failed else values)])
        if restore_every and step % restore_every == 0:
            optimizer = CmaEs.from_state(optimizer.state())
    return proposals


@pytest.mark.parametrize(("num_objectives", "evaluations", "generations"), [(1, 1000, 70), (2, 300, 15)])
def test_a_run_restored_all_the_time_is_the_undisturbed_run(num_objectives, evaluations, generations):
    runs = []
    for every in (None, 7):
        optimizer = CmaEs(real((0.4,) * 8, num_objectives), seed=2)
        runs.append(asynchronous(optimizer, tilted, evaluations, seed=0, restore_every=every))

    assert runs[0] == runs[1]
    assert runs[0][-1].generation > generations


def test_late_answers_cost_little():
    crowd = asynchronous(CmaEs(real((0.3,) * 8), seed=1), sphere, 400, seed=3, slots=20)

    assert max(sphere(p.genome) for p in crowd) > -2e-3  # -0.72 at the start; one at a time reaches -1e-4


def test_answers_from_long_ago_are_dropped():
    def run(late):
        optimizer = CmaEs(real((0.5, 0.5)), seed=0, population=4)
        held, *_ = optimizer.ask(2)
        for _ in range(MAX_AGE + 1):
            optimizer.tell(told(optimizer.ask(4), sphere))
        optimizer.tell([Evaluation(held.trial, (late,))])
        for _ in range(4):
            optimizer.tell(told(optimizer.ask(4), sphere))
        return optimizer.ask(3)

    assert run(late=-100.0) == run(late=100.0)


def test_a_whole_generation_of_earlier_proposals_is_learnt_from():
    optimizer = CmaEs(real((0.5, 0.5)), seed=0, population=4)
    proposals = optimizer.ask(12)
    optimizer.tell(told(proposals, sphere))

    assert optimizer.ask(1)[0].generation == 3


def test_a_few_failures_are_left_out():
    def run(with_failures):
        optimizer = CmaEs(real((0.5,) * 3), seed=0, population=6)
        for _ in range(10):
            proposals = optimizer.ask(8)
            optimizer.tell([Evaluation(p.trial, None) for p in proposals[6:] if with_failures])
            optimizer.tell(told(proposals[:6], sphere))
        return optimizer.ask(4)

    assert run(with_failures=True) == run(with_failures=False)


def test_a_region_where_most_fails_repels():
    """Above 0.35 in the first gene nothing works, and the start lies there: the mean must leave."""
    optimizer = CmaEs(real((0.5, 0.5, 0.5)), seed=0, sigma=0.1)

    def answer(proposal):
        return Evaluation(proposal.trial, None if proposal.genome[0] > 0.35 else (sphere(proposal.genome),))

    first = optimizer.ask(30)
    optimizer.tell([answer(p) for p in first])
    for _ in range(60):
        optimizer.tell([answer(p) for p in optimizer.ask(10)])

    failed_first = sum(p.genome[0] > 0.35 for p in first)
    failed_last = sum(p.genome[0] > 0.35 for p in optimizer.ask(30))
    assert failed_first > 25
    assert failed_last <= 20


def test_constraints_are_met_before_objectives_count():
    """The objective pulls to 0.6, but only genomes whose first gene is below 0.2 are feasible."""
    optimizer = CmaEs(real((0.7, 0.3, 0.3)), seed=0)
    best = -math.inf
    for _ in range(80):
        proposals = optimizer.ask(7)
        violations = [max(0.0, p.genome[0] - 0.2) for p in proposals]
        optimizer.tell(
            [Evaluation(p.trial, (sphere(p.genome),), v) for p, v in zip(proposals, violations, strict=True)]
        )
        best = max([best, *(sphere(p.genome) for p, v in zip(proposals, violations, strict=True) if not v)])

    assert best == pytest.approx(-0.16, abs=2e-3)


def test_a_flat_fitness_is_tolerated_then_restarts_with_twice_the_population():
    optimizer = CmaEs(real((0.5,) * 4), seed=0)
    size = optimizer.generation_size
    sizes = []
    for _ in range(40):
        optimizer.tell([Evaluation(p.trial, (0.25,)) for p in optimizer.ask(optimizer.generation_size)])
        sizes.append(optimizer.generation_size)

    assert sizes[:20] == [size] * 20
    assert sizes[20:] == [2 * size] * 20
    spread = np.std([p.genome for p in optimizer.ask(50)])
    assert 0.02 < spread < 0.4


def test_a_converged_search_restarts_and_a_restored_one_does_the_same():
    optimizer = CmaEs(real((0.45, 0.5)), seed=0)
    restored = None
    for generation in range(150):
        if generation == 20:
            restored = CmaEs.from_state(optimizer.state())
        for search in filter(None, (optimizer, restored)):
            search.tell(told(search.ask(search.generation_size), sphere))

    assert optimizer.generation_size > 6
    assert restored.state() == optimizer.state()


def test_two_objectives_cover_the_front_better_than_random():
    def values(genome):
        return (
            -sum((gene - 0.3) ** 2 for gene in genome),
            -sum((gene - 0.7) ** 2 for gene in genome),
        )

    volumes = {}
    for kind in (CmaEs, SobolSearch):
        optimizer = kind(real((0.1,) * 6, 2), seed=0)
        points = []
        for _ in range(60):
            proposals = optimizer.ask(9)
            points += [values(p.genome) for p in proposals]
            optimizer.tell([Evaluation(p.trial, values(p.genome)) for p in proposals])
        volumes[kind] = hypervolume(points, (-1.0, -1.0))

    assert volumes[CmaEs] > volumes[SobolSearch] + 0.05


def test_a_search_that_converges_in_a_corner_stays_finite():
    """There many points fold to one genome; late ones among them must still be recognised and clipped."""
    rng = np.random.default_rng(0)
    optimizer = CmaEs(real((1.0, 1.0)), seed=1, population=60, sigma=0.1, diagonal=True)
    for _ in range(45):
        proposals = [p for p in optimizer.ask(60) if rng.random() < 0.9]
        optimizer.tell(told(proposals, sum))

    assert all(0 <= gene <= 1 for p in optimizer.ask(60) for gene in p.genome)


def test_many_genes_learn_variances_only_and_stay_small():
    optimizer = CmaEs(real((0.5,) * 300), seed=0)
    for _ in range(3):
        optimizer.tell(told(optimizer.ask(optimizer.generation_size), sphere))

    assert len(optimizer.state()) < 300 * 8 * 20
    assert CmaEs.from_state(optimizer.state()).ask(2) == optimizer.ask(2)


def test_a_single_gene_is_searched_too():
    optimizer = CmaEs(real((0.1,)), seed=0)
    for _ in range(30):
        optimizer.tell(told(optimizer.ask(4), sphere))

    (proposal,) = optimizer.ask(1)
    assert proposal.genome == (pytest.approx(0.6, abs=0.02),)


def test_the_default_population_is_hansens():
    sizes = [CmaEs(real((0.5,) * d), seed=0).generation_size for d in (2, 16, 100)]

    assert sizes == [6, 12, 17]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"population": 3}, "population"),
        ({"population": 8.5}, "population"),
        ({"population": True}, "population"),
        ({"sigma": 0.0}, "sigma"),
        ({"sigma": "0.1"}, "sigma"),
        ({"diagonal": "yes"}, "diagonal"),
        ({"popsize": 8}, "popsize"),
    ],
)
def test_wrong_options_are_named(options, field):
    with pytest.raises(InvalidInputError, match=f"optimizer.options.{field}"):
        CmaEs(real((0.5, 0.5)), seed=0, **options)


def test_starts_that_cannot_be_searched_are_refused():
    for start in ((), (0.5, 1.5), (math.nan, 0.5)):
        with pytest.raises(ValueError, match="start"):
            CmaEs(real(start), seed=0)
    with pytest.raises(ValueError, match="objective"):
        CmaEs(real((0.5, 0.5), 0), seed=0)


def test_the_state_of_another_optimizer_is_refused():
    with pytest.raises(EvomergeError, match="random/2"):
        CmaEs.from_state(SobolSearch(real((0.5,)), seed=0).state())


def test_generations_grow_with_the_workers():
    sizes = [CmaEs(Problem(Domain((0.5,) * 16), workers=workers), seed=0).generation_size for workers in (1, 24, 200)]

    assert sizes == [12, 12, 100]
    optimizer = CmaEs(Problem(Domain((0.5,) * 16), workers=200), seed=0)
    assert CmaEs.from_state(optimizer.state()).generation_size == 100


def test_the_boundary_for_all_genes_at_once_is_pycmas_own():
    ours, pycmas = UnitBox([0, 1]), BoundTransform([0, 1])
    edges = np.array([-2.2, -1.15, -0.6, -0.05, 0, 0.05, 0.5, 0.95, 1, 1.05, 1.6, 2.15])
    for spread in (0.1, 1, 1000):
        points = np.concatenate([edges, np.random.default_rng(0).normal(0.5, spread, 500)])
        genomes = ours.repair(points)
        np.testing.assert_array_equal(genomes, pycmas.repair(points.copy()))
        inside = np.clip(genomes, 0, 1)
        np.testing.assert_array_equal(ours.inverse(inside), pycmas.inverse(inside))


def test_a_point_outside_of_the_boundary_has_no_inverse():
    with pytest.raises(ValueError, match=r"expected numbers in \[0, 1\], got 0.5 to 1.5"):
        UnitBox([0, 1]).inverse([0.5, 1.5])


def test_wide_steps_are_cut_as_pycma_cuts_them():
    """The strategy looks at single genes only where a standard deviation is beyond its limit."""
    options = {"bounds": [0, 1], "CMA_stds": [1, 0.01, 1, 0.01], "verbose": -9, "seed": np.nan, "randn": Normal(3)}
    ours, pycmas = (kind([0.5] * 4, 0.9, options) for kind in (Strategy, cma.CMAEvolutionStrategy))
    np.testing.assert_array_equal(ours.stds, pycmas.stds)
    assert ours.stds.max() < 0.9
