"""CatCMA with margin: the contract, the library itself as the reference, and what it is for: bits beside reals."""

import numpy as np
import pytest
from cmaes import CatCMAwM

from evomerge.candidate import Evaluation
from evomerge.errors import InvalidInputError
from evomerge.optimizers.catcma import CatCma
from evomerge.optimizers.cma_es import CmaEs
from evomerge.optimizers.domain import Domain, GeneKind, Problem, real
from evomerge.optimizers.evolution import Normal
from evomerge.optimizers.mixed import MixedDistribution, MixedSettings, _covariance, _Stream
from evomerge.testing.optimizer import MixedOptimizerContract

BIT = GeneKind(choices=2)
KINDS = (
    GeneKind(), GeneKind(step=0.5), GeneKind(choices=7, ordered=True), BIT, GeneKind(gate=3), GeneKind(choices=4),
)  # fmt: skip
START = (0.2, 0.3, 0.5, 0.25, 0.4, 0.125)


class TestContract(MixedOptimizerContract):
    def make(self, problem, *, seed):
        return CatCma(problem, seed=seed, population=4)


class TestContractWithTwoObjectives(TestContract):
    num_objectives = 2


def told(proposals, function):
    return [Evaluation(p.trial, (function(p.genome),)) for p in proposals]


def hidden(genome):
    """Best where the gate is open and what is behind it stands at 0.9."""
    reals = (genome[0] - 0.6) ** 2 + (genome[1] - 0.7) ** 2 + (genome[4] - 0.9) ** 2
    return -(reals + (genome[2] - 11 / 14) ** 2 + 0.3 * (genome[3] < 0.5) + 0.2 * (abs(genome[5] - 0.625) > 0.1))


def make_settings(normal):
    return MixedSettings(START, KINDS, sigma=0.15, population=8, changes=1.0, normal=normal)


def test_generations_told_in_order_are_those_of_the_library_itself():
    normal = Normal(3, "test")
    ours = MixedDistribution(make_settings(normal))
    theirs = CatCMAwM(
        x_space=[[0, 1]] * 3, z_space=[((np.arange(7) + 0.5) / 7).tolist()], c_space=[2, 4], population_size=8,
        mean=np.array([0.2, 0.3, 0.4, 0.5]), sigma=0.15, cov=np.diag([1, 0.25, 1, 1.0]),
        cat_param=np.array([[0.625, 0.375, 0, 0], [0.5, 0.5 / 3, 0.5 / 3, 0.5 / 3]]),
    )  # fmt: skip
    theirs._rng = _Stream(normal)
    assert MixedDistribution(make_settings(normal))._es._q == pytest.approx(theirs._q)
    trial = 0
    for _ in range(60):
        points, solutions = [], []
        for _ in range(8):
            normal.trial = trial = trial + 1
            points.append(ours.sample())
            solutions.append(theirs.ask())
        costs = np.array([-hidden(ours.genome(point)) for point in points])
        for point, solution in zip(points, solutions, strict=True):
            assert np.array_equal(point[[0, 1, 4, 2, 3, 5]], [*solution._v_raw, *solution.c.argmax(axis=1)])
        ranks = np.argsort(np.argsort(costs, kind="stable")).astype(float)
        theirs.tell(list(zip(solutions, ranks.tolist(), strict=True)))
        numbers, stop = ours.tell(points, costs, ())
        assert not stop
        ours = MixedDistribution(make_settings(normal), numbers)


def test_every_attribute_that_a_tell_changes_is_kept():
    """A new version of the library may remember more: then this fails, and `_FIELDS` must grow."""
    normal = Normal(0, "test")
    distribution, fresh = (MixedDistribution(make_settings(normal)) for _ in range(2))
    before = dict(vars(fresh._es))
    points = []
    for trial in range(1, 9):
        normal.trial = trial
        points.append(distribution.sample())
    distribution.tell(points, np.arange(8.0), ())
    changed = {
        name
        for name, value in vars(distribution._es).items()
        if name != "_rng" and not np.array_equal(np.asarray(value), np.asarray(before[name]))
    }

    derived = {"_C", "_g", "_funhist_values"}  # from its decomposition; counted; only for the library's own stopping
    assert changed - derived <= set(distribution._fields)
    assert {"_mean", "_sigma", "_B", "_q", "_s", "_Delta"} <= changed


def test_the_start_is_likely_at_first_and_every_choice_stays_possible():
    domain = Domain((0.25,) * 40, (BIT,) * 40)
    optimizer = CatCma(Problem(domain), seed=0)
    first = [sum(gene > 0.5 for gene in p.genome) for p in optimizer.ask(200)[1:]]
    optimizer = CatCma(Problem(domain), seed=0)
    for _ in range(120):
        optimizer.tell(told(optimizer.ask(optimizer.generation_size), lambda genome: -sum(genome)))
    last = [sum(gene > 0.5 for gene in p.genome) for p in optimizer.ask(200)]

    assert np.mean(first) == pytest.approx(4, abs=0.3)
    assert 0.1 < np.mean(last) < 1


def test_mixed_genes_are_all_found():
    optimizer = CatCma(Problem(Domain(START, KINDS)), seed=1)
    for _ in range(50):
        optimizer.tell(told(optimizer.ask(9), hidden))

    best = max((p.genome for p in optimizer.ask(20)), key=hidden)
    assert best == pytest.approx((0.6, 0.7, 11 / 14, 0.75, 0.9, 0.625), abs=0.05)


def test_seeds_follow_the_start_and_a_good_one_is_learnt_from():
    seeds = ((0.6, 0.7, 11 / 14, 0.75, 0.9, 0.625),)
    with_seed, without = (CatCma(Problem(Domain(START, KINDS, s)), seed=1, population=6) for s in (seeds, ()))
    for optimizer in (with_seed, without):
        for _ in range(8):
            optimizer.tell(told(optimizer.ask(6), hidden))

    scores = [np.median([hidden(p.genome) for p in o.ask(60)]) for o in (with_seed, without)]
    assert scores[0] > scores[1] + 0.05


def test_a_gene_behind_a_closed_gate_keeps_its_spread():
    """The gate never pays, so the gene never matters: its spread must not collapse, and its mean has no drift."""
    domain = Domain((0.5, 0.25, 0.5), (GeneKind(), BIT, GeneKind(gate=1)))
    ratios, means = [], []
    for seed in range(8):
        optimizer = CatCma(Problem(domain), seed=seed, sigma=0.1)
        for _ in range(15):
            optimizer.tell(told(optimizer.ask(7), lambda g: -((g[0] - 0.8) ** 2) - (g[1] > 0.5)))
        numbers = optimizer._distribution.numbers
        spread = np.sqrt(np.diag(_covariance(numbers)))
        ratios.append(spread[1] / spread[0])
        means.append(numbers["_mean"][1])

    assert np.median(ratios) > 1.5
    assert np.mean(means) == pytest.approx(0.5, abs=0.15)
    assert all(0.0 <= mean <= 1.0 for mean in means)


def test_ties_do_not_break_it_and_lead_to_a_restart():
    optimizer = CatCma(Problem(Domain(START, KINDS)), seed=0)
    size = optimizer.generation_size
    for _ in range(25):
        optimizer.tell([Evaluation(p.trial, (0.5,)) for p in optimizer.ask(optimizer.generation_size)])

    assert optimizer.generation_size == 2 * size


@pytest.mark.parametrize(
    "kinds", [(BIT,) * 3, (GeneKind(choices=5, ordered=True),) * 3, (GeneKind(choices=1), GeneKind(), GeneKind())]
)
def test_domains_of_one_kind_work(kinds):
    start = tuple(0.5 if (kind.choices or 1) % 2 else 0.25 for kind in kinds)
    optimizer = CatCma(Problem(Domain(start, kinds)), seed=0)
    for _ in range(20):
        optimizer.tell(told(optimizer.ask(8), lambda genome: sum(genome)))

    best = max((p.genome for p in optimizer.ask(20)), key=sum)
    assert sum(best) > sum(start)
    assert CatCma.from_state(optimizer.state()).ask(3) == optimizer.ask(3)


def onemax_with_scales(genome):
    """Twelve bits with a scale each, as in a path: a wrong bit costs 1, the wrong scale of an open one less."""
    bits, scales = np.array(genome[:12]) > 0.5, np.array(genome[12:])
    wanted = np.arange(12) % 3 != 0
    return float(-np.sum(bits != wanted) - 4 * np.sum(bits * (scales - np.linspace(0.2, 0.8, 12)) ** 2))


def test_bits_beside_scales_are_found_sooner_than_by_thresholds():
    kinds = (*(BIT,) * 12, *(GeneKind(gate=i) for i in range(12)))
    problem = Problem(Domain((0.75,) * 6 + (0.25,) * 6 + (0.5,) * 12, kinds))
    best = {}
    for kind in (CatCma, CmaEs):
        results = []
        for seed in range(4):
            optimizer, scores = kind(problem, seed=seed), []
            for _ in range(400):
                evaluations = told(optimizer.ask(1), onemax_with_scales)
                optimizer.tell(evaluations)
                scores.append(evaluations[0].values[0])
            results.append(max(scores))
        best[kind] = np.mean(results)

    assert best[CatCma] > best[CmaEs] + 0.2


def test_wrong_options_are_named():
    with pytest.raises(InvalidInputError, match=r"optimizer\.options\.changes"):
        CatCma(real((0.5, 0.5)), seed=0, changes=0.0)
