"""Particle swarm on coefficients: the paper's step, its restarts, the order of arrival, and the contract."""

from dataclasses import replace

import numpy as np
import pytest

from evomerge.candidate import Evaluation
from evomerge.errors import InvalidInputError
from evomerge.optimizers.domain import Domain, GeneKind, Problem, real
from evomerge.optimizers.options import read
from evomerge.optimizers.random import SobolSearch
from evomerge.optimizers.swarm import Particle, Swarm, SwarmOptions, step_size
from evomerge.testing.optimizer import LearningOptimizerContract
from tests.evomerge.optimizers.known_fronts import run


class TestContract(LearningOptimizerContract):
    def make(self, problem, *, seed):
        return Swarm(problem, seed=seed, particles=5)


SOURCES = Domain((0.5, 0.5, 0.5), seeds=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)))


def near(genome):
    return (-sum((gene - target) ** 2 for gene, target in zip(genome, (0.7, 0.4, 0.2), strict=True)),)


def test_a_step_is_the_papers():
    """v = Σ weighted pulls / Σ weights, x + λv: by hand with the same random numbers."""
    swarm = Swarm(real((0.5, 0.5)), seed=0, particles=2, per_gene=False, repel=0.3)
    place, velocity, own = np.array([0.5, 0.4]), np.array([0.02, -0.1]), np.array([0.45, 0.5])
    swarm._best, swarm._worst = Particle(best=np.array([0.6, 0.7])), Particle(best=np.array([0.3, 0.1]))
    moved, now = swarm._move(Particle(place, velocity, own), 10, np.random.default_rng(5))

    r1, r2, r3, r4 = np.random.default_rng(5).random(4)
    pull = 0.4 * r1 * velocity + 0.3 * r2 * (own - place) + 0.3 * r3 * (np.array([0.6, 0.7]) - place)
    pull -= 0.3 * r4 * (np.array([0.3, 0.1]) - place)
    expected = pull / (0.4 * r1 + 0.3 * r2 + 0.3 * r3 + 0.3 * r4)
    np.testing.assert_allclose(now, expected)
    np.testing.assert_allclose(moved, place + 0.95**10 * expected)


def test_a_random_number_for_each_gene_leaves_the_span_of_the_first_places():
    """Two sources with the same coefficient everywhere span a line, on which one random number a step stays."""
    line = Domain((0.5,) * 4, seeds=((0.2,) * 4, (0.9,) * 4))
    spreads = []
    for per_gene in (False, True):
        _, proposals = run(Swarm(Problem(line), seed=0, particles=4, per_gene=per_gene), lambda g: (g[0] - g[1],), 60)
        spreads.append(max(np.ptp(p.genome) for p in proposals))

    assert spreads[0] < 1e-9
    assert spreads[1] > 0.1


def test_steps_shrink_to_a_tenth():
    options = read(SwarmOptions, {})

    assert [step_size(options, g) for g in (0, 1, 2)] == [1.0, 0.95, pytest.approx(0.9025)]
    assert step_size(options, 100) == 0.1


def test_a_stray_particle_goes_back_to_its_best_and_loses_its_velocity():
    swarm = Swarm(real((0.5,) * 2), seed=0, particles=2, restart_after=3)
    for value in (5.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.4):
        (proposal, other) = swarm.ask(2)
        swarm.tell([Evaluation(proposal.trial, (value,)), Evaluation(other.trial, (0.0,))])
    stray = swarm._particles[0]

    assert stray.standing == (0.0, 5.0)
    assert stray.best is not None
    assert stray.idle == 0
    assert np.array_equal(stray.place, stray.best)
    assert not stray.velocity.any()


def test_the_first_places_are_start_sources_and_blends_beyond_them():
    first = [p.genome for p in Swarm(Problem(SOURCES), seed=0, particles=40).ask(40)]
    sparse = [p.genome for p in Swarm(Problem(SOURCES), seed=0, particles=40, initial="sparsified").ask(40)]

    assert first[:4] == sparse[:4] == [SOURCES.start, *SOURCES.seeds]
    assert len(set(first)) == 40
    assert {gene for genome in sparse for gene in genome} == {0.0, 0.5, 1.0}


def test_a_slow_particle_is_left_behind():
    """One answer never comes: the others move on, and it gets no second proposal before they have one each."""
    swarm = Swarm(real((0.5,) * 3), seed=0, particles=4)
    held, *others = swarm.ask(4)
    for _ in range(10):
        swarm.tell([Evaluation(p.trial, near(p.genome)) for p in others])
        others = swarm.ask(3)

    assert [move.particle for move in swarm._asked.values()].count(0) == 1
    assert swarm._asked[held.trial].particle == 0
    assert [particle.moves for particle in swarm._particles] == [1, 11, 11, 11]


def test_failures_leave_a_particle_where_it_was():
    swarm = Swarm(real((0.5,) * 2), seed=0, particles=2)
    run(swarm, lambda genome: (genome[0],), 10)
    before = [replace(particle, moves=0) for particle in swarm._particles]
    swarm.tell([Evaluation(p.trial, None) for p in swarm.ask(2)])

    for particle, old in zip(swarm._particles, before, strict=True):
        assert np.array_equal(particle.place, old.place)
        assert np.array_equal(particle.velocity, old.velocity)
        assert particle.standing == old.standing


def test_a_feasible_place_is_better_than_any_infeasible_one():
    swarm = Swarm(real((0.5,) * 2), seed=0, particles=2)
    first, second = swarm.ask(2)
    swarm.tell([Evaluation(first.trial, (9.0,), violation=0.1), Evaluation(second.trial, (-9.0,))])

    assert np.array_equal(swarm._best.best, second.genome)
    assert np.array_equal(swarm._worst.best, first.genome)


@pytest.mark.parametrize("initial", ["blended", "sparsified"])
def test_a_crowd_of_workers_with_failures_finds_the_mix(initial):
    values, _ = run(Swarm(Problem(SOURCES), seed=1, initial=initial), near, 300, workers=24, failures=0.1)
    by_chance, _ = run(SobolSearch(Problem(SOURCES), seed=1), near, 300, workers=24, failures=0.1)

    assert max(values)[0] > -6e-3  # -0.09 at the start
    assert np.median(values[-100:]) > np.median(by_chance) + 0.1


def test_a_run_restored_all_the_time_is_the_undisturbed_run():
    runs = []
    for every in (0, 7):
        swarm = Swarm(Problem(SOURCES), seed=2, particles=6)
        runs.append(run(swarm, near, 150, workers=7, failures=0.1, restore_every=every)[1])

    assert runs[0] == runs[1]


def test_the_state_does_not_grow():
    swarm, sizes = Swarm(real((0.5,) * 6), seed=0), []
    for _ in range(2):
        run(swarm, lambda genome: (genome[0],), 200)
        sizes.append(len(swarm.state()))

    assert sizes[1] <= sizes[0] + 64  # digits of counters


def test_what_it_does_not_search_is_refused():
    with pytest.raises(InvalidInputError, match="2 objectives"):
        Swarm(real((0.5,), 2), seed=0)
    with pytest.raises(InvalidInputError, match="real numbers"):
        Swarm(Problem(Domain((0.25,), (GeneKind(choices=2),))), seed=0)
    with pytest.raises(InvalidInputError, match="initial"):
        Swarm(real((0.5,)), seed=0, initial="random")
