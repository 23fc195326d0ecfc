"""NSGA-II and NSGA-III: the contract, survival restated by brute force, mixed genes, fronts that are known."""

from itertools import pairwise
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evomerge.archive import hypervolume
from evomerge.candidate import Evaluation
from evomerge.errors import InvalidInputError
from evomerge.optimizers.domain import Domain, GeneKind, LineageDomain, Problem, real
from evomerge.optimizers.genes import Genes
from evomerge.optimizers.nsga import Nsga2, Nsga3
from evomerge.optimizers.random import SobolSearch
from evomerge.optimizers.steady_state import Members
from evomerge.optimizers.survival import Niches, by_crowding, reference_directions, standing, survivors
from evomerge.optimizers.variation import Variation, other_choices
from evomerge.testing.optimizer import LearningOptimizerContract
from tests.evomerge.optimizers.known_fronts import REFERENCES, dtlz2, run, two_peaks, volume, zdt1


class TestContract(LearningOptimizerContract):
    num_objectives = 2

    def make(self, problem, *, seed):
        return Nsga2(problem, seed=seed, population=6)


@pytest.mark.slow
class TestContractWithOneObjective(TestContract):
    num_objectives = 1


class TestContractOfDirections(LearningOptimizerContract):
    num_objectives = 3

    def make(self, problem, *, seed):
        return Nsga3(problem, seed=seed, population=6)


@pytest.mark.slow
class TestContractOfDirectionsWithOneObjective(TestContractOfDirections):
    num_objectives = 1


# survival


def members(values, violations=None):
    values = np.array(values, dtype=float)
    genomes = np.arange(len(values), dtype=float)[:, None] / max(1, len(values))
    return Members(genomes, values, np.zeros(len(values)) if violations is None else np.array(violations, dtype=float))


def dominates(a, b):
    return all(x >= y for x, y in zip(a, b, strict=True)) and tuple(a) != tuple(b)


def fronts_by_brute_force(values):
    """Row numbers, front by front: those that none of the remaining dominates."""
    rest, fronts = list(range(len(values))), []
    while rest:
        fronts.append([i for i in rest if not any(dominates(values[j], values[i]) for j in rest)])
        rest = [i for i in rest if i not in fronts[-1]]
    return fronts


def crowding_by_hand(values):
    """Deb et al. 2002, III-B: the gap between neighbours as a share of the range, here its mean over objectives."""
    total = np.zeros(len(values))
    for column in np.array(values, dtype=float).T:
        order = np.argsort(column, kind="stable")
        total[order[[0, -1]]] = np.inf
        for before, (this, after) in zip(order, pairwise(order[1:]), strict=False):
            total[this] += (column[after] - column[before]) / (column[order[-1]] - column[order[0]])
    return total / len(values[0])


grids = arrays(float, st.tuples(st.integers(1, 14), st.integers(1, 3)), elements=st.integers(0, 6).map(float))
SURVIVALS = {
    "crowding": lambda costs, size: by_crowding(costs, size, np.random.default_rng(0)),
    "directions": lambda costs, size: Niches(reference_directions(costs.shape[1], 10))(
        costs, size, np.random.default_rng(0)
    ),
}


@pytest.mark.parametrize("survival", sorted(SURVIVALS))
@settings(deadline=None)
@given(grids, st.data())
def test_survival_takes_whole_fronts_before_it_splits_one(survival, values, data):
    size = data.draw(st.integers(1, len(values)))
    kept = set(SURVIVALS[survival](-values, size).tolist())

    assert len(kept) == size
    for front in fronts_by_brute_force(values.tolist()):
        taken = kept & set(front)
        if taken != set(front):
            assert taken == kept  # the front that is split is the last
            break
        kept -= taken


@settings(deadline=None)
@given(grids, st.data())
def test_infeasible_members_come_last_and_by_violation(values, data):
    violations = data.draw(st.lists(st.integers(0, 3), min_size=len(values), max_size=len(values)))
    size = data.draw(st.integers(1, len(values)))
    kept = survivors(members(values, violations), size, SURVIVALS["crowding"])

    assert sorted(kept.violations) == sorted(violations)[:size]


@settings(deadline=None)
@given(grids)
def test_standing_is_the_front_by_brute_force(values):
    rank, _ = standing(members(values))

    for number, front in enumerate(fronts_by_brute_force(values.tolist())):
        assert set(rank[front]) == {number}


def test_the_crowded_are_dropped_and_the_ends_of_a_front_kept():
    values = [(0.0, 9.0), (1.0, 8.0), (1.5, 7.5), (5.0, 4.0), (9.0, 0.0)]
    _, crowding = standing(members(values))
    kept = by_crowding(-np.array(values), 4, np.random.default_rng(0))

    np.testing.assert_allclose(crowding, crowding_by_hand(values))
    assert sorted(kept) == [0, 1, 3, 4] if crowding[2] < crowding[1] else [0, 2, 3, 4]


@pytest.mark.parametrize(("objectives", "population"), [(1, 10), (2, 12), (3, 30), (3, 6), (4, 40), (6, 30), (8, 60)])
def test_directions_fit_the_population_and_reach_every_corner(objectives, population):
    directions = reference_directions(objectives, population)

    assert objectives <= len(directions) <= population
    assert len(np.unique(directions.round(9), axis=0)) == len(directions)
    np.testing.assert_allclose(directions.sum(axis=1), 1)
    for corner in np.eye(objectives):
        assert np.abs(directions - corner).sum(axis=1).min() < 1e-9
    if objectives in (2, 3):  # one lattice, the finest that fits
        partitions = round(1 / np.min(directions[directions > 1e-9]))
        assert comb(partitions + objectives - 1, objectives - 1) == len(directions)
        assert comb(partitions + objectives, objectives - 1) > population


def test_members_belong_to_the_direction_that_they_lie_nearest_to():
    """On the simplex, where ideal and nadir are 0 and 1; distances by the plain formula."""
    rng = np.random.default_rng(1)
    costs = np.vstack([np.eye(3), rng.dirichlet((1, 1, 1), size=40)])
    niches = Niches(reference_directions(3, 30))
    niches(costs, len(costs), rng)
    numbers, distances = niches.associate(costs)

    unit = niches.directions / np.linalg.norm(niches.directions, axis=1, keepdims=True)
    along = costs @ unit.T
    across = np.sqrt(np.maximum((costs**2).sum(axis=1)[:, None] - along**2, 0.0))
    np.testing.assert_allclose(distances, across.min(axis=1), atol=1e-9)
    np.testing.assert_allclose(across[np.arange(len(costs)), numbers], across.min(axis=1), atol=1e-9)


def test_directions_spread_survivors_over_the_front():
    """A crowd at one corner and a few elsewhere: every direction with somebody near keeps one."""
    rng = np.random.default_rng(0)
    crowd = np.abs(np.array([1.0, 0.0, 0.0]) + 0.01 * rng.standard_normal((60, 3)))
    costs = np.vstack([reference_directions(3, 10), crowd / crowd.sum(axis=1, keepdims=True)])
    niches = Niches(reference_directions(3, 10))
    kept = niches(costs, 10, rng)

    assert len(set(niches.associate(costs[kept])[0].tolist())) == 10


# children

MIXED = Domain(
    start=(0.5, 0.25, 0.5, 1 / 6, 7 / 16),
    genes=(
        GeneKind(),
        GeneKind(choices=2),
        GeneKind(gate=1),
        GeneKind(choices=3),
        GeneKind(choices=8, ordered=True, step=0.5),
    ),
    seeds=((0.1, 0.75, 0.2, 0.5, 1 / 16),),
)


def wanted(genome):
    """Best where gate and scale are right, the category is 2, the integer 6; and its opposite in two genes."""
    gate = float(genome[1] > 0.5)
    scale = -((genome[2] - 0.9) ** 2) if gate else -0.5
    category = float(genome[3] > 2 / 3)
    return gate + scale + category - abs(genome[4] - 6.5 / 8), -((genome[0] - 0.2) ** 2)


@pytest.mark.parametrize("kind", [Nsga2, Nsga3])
def test_mixed_genes_stand_at_their_places_and_are_learnt(kind):
    optimizer = kind(Problem(MIXED, 2, 400), seed=1, spread=None)
    values, proposals = run(optimizer, wanted, 400, workers=4, failures=0.1)

    assert proposals[0].genome == MIXED.start
    assert proposals[1].genome == MIXED.seeds[0]
    for proposal in proposals:
        genome = np.array([proposal.genome])
        assert np.array_equal(Genes(MIXED).canonical(genome), genome)
    assert max(value for value, _ in values) > 1.95


def test_crossed_children_take_each_gene_from_between_or_about_their_parents():
    genes = Genes(MIXED)
    first, second = (
        np.tile([0.2, 0.25, 0.4, 1 / 6, 1 / 16], (500, 1)),
        np.tile([0.3, 0.75, 0.6, 0.5, 15 / 16], (500, 1)),
    )
    children = Variation(genes, 15.0, 20.0, 0.9)(first, second, np.random.default_rng(0))

    categories = genes.choices(children)
    assert 0.2 < np.mean(categories[:, 0] == 1) < 0.7
    assert set(categories[:, 1]) == {0, 1, 2}  # 2 by mutation only
    assert np.mean(categories[:, 1] == 2) < 0.2
    assert abs(children[:, 0].mean() - 0.225) < 0.03
    assert children[:, 0].std() < 0.12


@settings(deadline=None)
@given(st.integers(2, 9), st.booleans(), st.integers(0, 100))
def test_another_choice_is_another_one_and_a_neighbour_where_order_matters(count, ordered, seed):
    now = np.arange(count)[:, None]
    other = other_choices(now, np.array([count]), np.array([ordered]), np.random.default_rng(seed))

    assert ((other >= 0) & (other < count) & (other != now)).all()
    assert not ordered or (np.abs(other - now) == 1).all()


def test_equal_children_are_made_again():
    """Of 2 x 3 genomes all are asked before one is asked twice; then asking goes on."""
    domain = Domain(start=(0.25, 1 / 6), genes=(GeneKind(choices=2), GeneKind(choices=3)))
    optimizer = Nsga2(Problem(domain, 1), seed=0, population=4)
    values, proposals = run(optimizer, lambda genome: (sum(genome),), 20)

    assert len({p.genome for p in proposals}) == 6
    assert len(values) == 20


# searches; these fronts lie at the edges of the space, so the first population fills it


@pytest.mark.parametrize(
    ("kind", "function", "genes", "gain"), [(Nsga2, zdt1, 8, 0.8), (Nsga2, two_peaks, 8, 0.05), (Nsga3, dtlz2, 7, 0.15)]
)
def test_fronts_are_covered_better_than_at_random(kind, function, genes, gain):
    found = [volume(kind, function, genes, 500, seed, spread=None) for seed in range(2)]
    by_chance = [volume(SobolSearch, function, genes, 500, seed) for seed in range(2)]

    assert min(found) > max(by_chance) + gain


@pytest.mark.parametrize("kind", [Nsga2, Nsga3])
def test_a_crowd_of_workers_with_failures_costs_little(kind):
    volumes = []
    for workers, failures in ((1, 0.0), (24, 0.1)):
        optimizer = kind(real((0.5,) * 8, 2, 600), seed=3, spread=None)
        values, _ = run(optimizer, zdt1, 600, workers=workers, failures=failures)
        volumes.append(hypervolume(values, REFERENCES[zdt1]))

    assert volumes[1] > volumes[0] - 0.4  # of 5.17 at best; Sobol points reach 3.2


@pytest.mark.parametrize("kind", [Nsga2, Nsga3])
def test_a_run_restored_all_the_time_is_the_undisturbed_run(kind):
    runs = []
    for every in (0, 7):
        optimizer = kind(Problem(MIXED, 2), seed=2, population=8)
        runs.append(run(optimizer, wanted, 150, workers=7, failures=0.1, restore_every=every)[1])

    assert runs[0] == runs[1]
    assert runs[0][-1].generation >= 15


@pytest.mark.parametrize("kind", [Nsga2, Nsga3])
def test_the_state_does_not_grow(kind):
    optimizer, sizes = kind(real((0.5,) * 6, 3), seed=0, population=12), []
    for _ in range(2):
        run(optimizer, dtlz2, 360)
        sizes.append(len(optimizer.state()))

    assert sizes[1] <= sizes[0] + 64  # digits of counters


def test_constraints_are_met_before_objectives_count():
    """The peaks lie at 0.3 and 0.6, but only genomes whose first gene is below 0.2 are feasible."""
    optimizer = Nsga2(real((0.7, 0.3, 0.3), 2, 400), seed=0)
    share = []
    for _ in range(40):
        proposals = optimizer.ask(10)
        over = [max(0.0, p.genome[0] - 0.2) for p in proposals]
        share.append(np.mean([not v for v in over]))
        optimizer.tell([Evaluation(p.trial, two_peaks(p.genome), v) for p, v in zip(proposals, over, strict=True)])

    assert np.mean(share[-10:]) > 0.6
    assert np.mean(share[:4]) < 0.5


def test_late_answers_count_when_they_come():
    optimizer = Nsga2(real((0.5, 0.5), 2), seed=0, population=4)
    held, *_ = optimizer.ask(1)
    run(optimizer, two_peaks, 40)
    best = (0.0, 0.0)
    optimizer.tell([Evaluation(held.trial, best)])
    run(optimizer, two_peaks, 4)

    assert best in [tuple(values) for values in optimizer._members.values]


def test_populations_follow_the_budget():
    sizes = [Nsga2(real((0.5,), 2, budget), seed=0).generation_size for budget in (None, 50, 1000, 10**6)]

    assert sizes == [40, 12, 50, 100]


def test_the_first_population_may_stay_near_the_start():
    optimizer = Nsga2(Problem(MIXED, 2), seed=0, spread=0.1, population=100)
    first = np.array([p.genome for p in optimizer.ask(100)])
    again = Nsga2.from_state(optimizer.state()).ask(3)
    changed = np.mean(first[2:, [1, 3]] != np.array(MIXED.start)[[1, 3]])

    assert np.array_equal(first[:2], [MIXED.start, MIXED.seeds[0]])
    assert 0.08 < first[2:, 0].std() < 0.12
    assert 0.02 < changed < 0.12  # a tenth is drawn anew, and may be what it was
    assert np.array_equal(Genes(MIXED).canonical(first), first)
    assert again == optimizer.ask(3)


def test_the_first_population_may_fill_the_space():
    first = np.array([p.genome for p in Nsga2(real((0.1, 0.1), 2), seed=0, spread=None, population=64).ask(65)][1:])

    assert np.histogram2d(*first.T, bins=4, range=[[0, 1]] * 2)[0].tolist() == [[4] * 4] * 4


def test_lineages_are_refused():
    for kind in (Nsga2, Nsga3):
        with pytest.raises(InvalidInputError, match="lineages"):
            kind(Problem(Domain(start=(), lineage=LineageDomain(2, (4,)))), seed=0)
        with pytest.raises(InvalidInputError, match="population"):
            kind(real((0.5,)), seed=0, population=3)
