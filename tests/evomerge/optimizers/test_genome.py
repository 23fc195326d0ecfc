"""GENOME on coefficients: crossing is averaging, survival keeps the best, and the contract."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.candidate import Evaluation
from evomerge.errors import InvalidInputError
from evomerge.optimizers.blends import Blends, combine
from evomerge.optimizers.domain import Domain, GeneKind, Problem, real
from evomerge.optimizers.genes import Genes
from evomerge.optimizers.genome import GenomeSearch, best_first
from evomerge.optimizers.random import SobolSearch
from evomerge.optimizers.steady_state import Members
from evomerge.testing.optimizer import LearningOptimizerContract
from tests.evomerge.optimizers.known_fronts import run


class TestContract(LearningOptimizerContract):
    def make(self, problem, *, seed):
        return GenomeSearch(problem, seed=seed, population=6)


SOURCES = Domain((0.5, 0.5, 0.5), seeds=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)))


def near(genome):
    return (1 - sum((gene - target) ** 2 for gene, target in zip(genome, (0.7, 0.4, 0.2), strict=True)),)


def filled(optimizer, genomes, values):
    """The optimizer with these members."""
    optimizer._members = Members(np.array(genomes), np.array(values, dtype=float)[:, None], np.zeros(len(values)))
    return optimizer


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_a_child_of_two_is_their_average_weighted_by_fitness(seed):
    optimizer = filled(
        GenomeSearch(real((0.5, 0.5)), seed=0, population=4, crossover_rate=1.0, mutation_rate=0.0),
        [(0.0, 1.0), (0.8, 0.2)],
        [3.0, 1.0],
    )
    child = optimizer._child(np.random.default_rng(seed))[0]

    places = {tuple(np.round(w * np.array([0.0, 1.0]) + (1 - w) * np.array([0.8, 0.2]), 12)) for w in (0.5, 0.75, 1, 0)}
    assert tuple(np.round(child, 12)) in places  # of one with itself, too: the roulette may draw one twice


def test_the_roulette_draws_parents_by_fitness():
    optimizer = filled(
        GenomeSearch(real((0.5,)), seed=0, population=4, crossover_rate=0.0, sigma=1e-9),
        [(0.1,), (0.5,), (0.9,)],
        [1.0, 0.0, 3.0],
    )
    children = [round(float(optimizer._child(np.random.default_rng(k))[0, 0]), 3) for k in range(400)]

    assert 0.5 not in children
    assert 0.68 < children.count(0.9) / 400 < 0.82


def test_values_below_zero_count_from_the_worst():
    optimizer = filled(
        GenomeSearch(real((0.5,)), seed=0, population=4, crossover_rate=0.0, sigma=1e-9), [(0.1,), (0.9,)], [-5.0, -1.0]
    )

    assert {round(float(optimizer._child(np.random.default_rng(k))[0, 0]), 3) for k in range(50)} == {0.9}


def test_mutation_changes_a_tenth_of_the_genes_and_one_at_least():
    genes = 60
    optimizer = filled(
        GenomeSearch(real((0.5,) * genes), seed=0, population=4, crossover_rate=0.0), [(0.5,) * genes], [1.0]
    )
    changed = [int((optimizer._child(np.random.default_rng(k))[0] != 0.5).sum()) for k in range(200)]

    assert min(changed) >= 1
    assert 5 < np.mean(changed) < 8


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 2)), min_size=1, max_size=20), st.integers(0, 99))
def test_the_best_survive_and_nobody_twice(scores, seed):
    optimizer = GenomeSearch(real((0.5,)), seed=0, population=4, elites=0.5)
    values = np.array([[v] for v, _ in scores], dtype=float)
    members = Members(np.arange(len(scores))[:, None] / 20, values, np.array([float(o) for _, o in scores]))
    kept = optimizer._survive(members, np.random.default_rng(seed))

    order = sorted(range(len(scores)), key=lambda i: (scores[i][1], -scores[i][0] if not scores[i][1] else 0, i))
    assert best_first(members).tolist() == order
    assert len(kept) == min(4, len(scores)) == len(np.unique(kept.genomes))
    best = [i / 20 for i in order[:2]]
    assert set(best) <= set(kept.genomes[:, 0].tolist())


def test_the_first_population_lies_between_the_sources():
    optimizer = GenomeSearch(Problem(SOURCES), seed=0, population=30)
    first = [p.genome for p in optimizer.ask(30)]

    assert first[:4] == [SOURCES.start, *SOURCES.seeds]
    corners = np.array([SOURCES.start, *SOURCES.seeds])
    for genome in first[4:]:
        lines = [np.linalg.matrix_rank(np.array([genome - a, b - a]), tol=1e-9) < 2 for a in corners for b in corners]
        assert sum(lines) > len(corners)  # each corner with itself, and the pair that it blends


def test_sparsified_seeds_lose_genes_to_the_start():
    blends = Blends(SOURCES, 0, filling="sparsified")
    genomes = [blends.next() for _ in range(40)][4:]

    for genome in genomes:
        assert any(all(g in (s, 0.5) for g, s in zip(genome, seed, strict=True)) for seed in SOURCES.seeds)
    assert len(set(genomes)) > 5


def test_blends_reach_beyond_where_asked():
    domain = Domain((0.4, 0.4), seeds=((0.6, 0.6),))
    inside, outside = (Blends(domain, 0, reach=reach) for reach in (1.0, 2.0))
    values = [np.array([blend.next()[0] for _ in range(60)]) for blend in (inside, outside)]

    assert ((values[0] >= 0.4) & (values[0] <= 0.6)).all()
    assert values[1].min() < 0.35
    assert values[1].max() > 0.65


def test_choices_are_inherited():
    domain = Domain((0.25, 0.5), genes=(GeneKind(choices=2), GeneKind()))
    children = [
        combine(np.array([0.25, 0.0]), np.array([0.75, 1.0]), 0.8, Genes(domain), np.random.default_rng(k))
        for k in range(300)
    ]

    assert {float(child[0]) for child in children} == {0.25, 0.75}
    assert 0.72 < np.mean([child[0] == 0.25 for child in children]) < 0.88
    np.testing.assert_allclose([child[1] for child in children], 0.2)


def test_it_finds_a_mix_that_no_source_is():
    best = []
    for kind in (GenomeSearch, SobolSearch):
        values, _ = run(kind(Problem(SOURCES), seed=1), near, 300, workers=24, failures=0.1)
        best.append(max(values)[0])

    assert best[0] > 0.9985
    assert best[0] > best[1]


def test_a_run_restored_all_the_time_is_the_undisturbed_run():
    runs = []
    for every in (0, 7):
        optimizer = GenomeSearch(Problem(SOURCES), seed=2, population=8)
        runs.append(run(optimizer, near, 150, workers=7, failures=0.1, restore_every=every)[1])

    assert runs[0] == runs[1]
    assert runs[0][-1].generation >= 15


def test_infeasible_members_have_no_children_while_others_are_there():
    optimizer = GenomeSearch(real((0.2,)), seed=0, population=4, crossover_rate=0.0, sigma=1e-9)
    proposals = optimizer.ask(4)
    optimizer.tell([Evaluation(p.trial, (9.0,), violation=1.0) for p in proposals[:3]])
    optimizer.tell([Evaluation(proposals[3].trial, (0.1,))])
    children = {round(p.genome[0], 4) for p in optimizer.ask(5)}

    assert children == {round(proposals[3].genome[0], 4)}


def test_several_objectives_are_refused():
    with pytest.raises(InvalidInputError, match="2 objectives"):
        GenomeSearch(real((0.5,), 2), seed=0)
