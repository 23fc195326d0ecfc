"""Optimizers that follow gradients fulfil the contract, climb, and do without gradients where there are none."""

import numpy as np
import pytest

from evomerge.candidate import Evaluation
from evomerge.errors import InvalidInputError
from evomerge.optimizers.adam import Adam
from evomerge.optimizers.domain import Domain, GeneKind, LineageDomain, Problem, real
from evomerge.optimizers.frank_wolfe import FrankWolfe
from evomerge.optimizers.optimizer import uses_gradients
from evomerge.optimizers.random import SobolSearch
from evomerge.testing.optimizer import LearningOptimizerContract

KINDS = (Adam, FrankWolfe)


class TestAdam(LearningOptimizerContract):
    def make(self, problem, *, seed):
        return Adam(problem, seed=seed, restarts=3, patience=4)


class TestAdamWithTwoObjectives(TestAdam):
    num_objectives = 2

    def make(self, problem, *, seed):
        return Adam(problem, seed=seed, weights="1,1")


class TestFrankWolfe(LearningOptimizerContract):
    def make(self, problem, *, seed):
        return FrankWolfe(problem, seed=seed)


class TestFrankWolfeWithTwoObjectives(TestFrankWolfe):
    num_objectives = 2

    def make(self, problem, *, seed):
        return FrankWolfe(problem, seed=seed, oracle="soft", delay=0)


def climb(search, optimum, steps, workers=1):
    """The places asked for, when the answer -|x - optimum|² comes `workers` asks later, with its gradient."""
    waiting, places = [], []
    for _ in range(steps):
        waiting += search.ask(workers - len(waiting))
        proposal = waiting.pop(0)
        away = optimum - np.array(proposal.genome)
        places.append(proposal.genome)
        gradients = (tuple((2 * away).tolist()),)
        search.tell([Evaluation(proposal.trial, (-float(away @ away),), gradients=gradients)])
    return np.array(places)


@pytest.mark.parametrize("workers", [1, 4])
def test_adam_finds_an_optimum_inside_and_one_at_a_wall(workers):
    places = climb(Adam(real((0.5, 0.5)), seed=0, lr=0.05), np.array([0.8, 1.5]), 120, workers)

    assert np.abs(places[-10:].mean(axis=0) - (0.8, 1.0)).max() < 0.03


def test_adams_first_step_is_the_learning_rate_times_the_genes_step():
    problem = Problem(Domain((0.5, 0.5), (GeneKind(), GeneKind(step=0.5))))
    places = climb(Adam(problem, seed=0, lr=0.1), np.array([0.9, 0.1]), 2)

    assert places[1] == pytest.approx((0.6, 0.45))


def test_adam_begins_again_at_a_seed_and_then_at_random():
    problem = Problem(Domain((0.5, 0.5), seeds=((0.1, 0.9),)))
    search = Adam(problem, seed=0, restarts=2, patience=3)
    places = [tuple(p) for p in climb(search, np.array([0.5, 0.5]), 30)]

    assert (0.1, 0.9) in places
    assert max(abs(a - 0.5) for a, _ in places) > 0.05


def test_a_stale_gradient_from_before_a_restart_moves_nothing():
    search = Adam(real((0.5,)), seed=0, restarts=1, patience=1)
    old, *others = search.ask(3)
    search.tell([Evaluation(p.trial, (0.0,), gradients=((1.0,),)) for p in others])
    (point,) = search.ask(1)
    search.tell([Evaluation(old.trial, (0.0,), gradients=((1.0,),))])
    near = search.ask(1)[0].genome[0]

    assert abs(near - point.genome[0]) < 0.06


@pytest.mark.parametrize("oracle", ["hard", "soft"])
def test_frank_wolfe_finds_the_best_mixture_and_never_leaves_the_mixtures(oracle):
    corners = np.array([[1.0, 0.0, 0.2], [0.0, 1.0, 0.2], [0.0, 0.0, 0.8]])
    optimum = np.array([0.5, 0.3, 0.2]) @ corners
    problem = Problem(Domain(tuple(corners.mean(axis=0)), seeds=tuple(map(tuple, corners))))
    places = climb(FrankWolfe(problem, seed=0, oracle=oracle), optimum, 200)
    shares = np.linalg.solve(corners.T, places.T).T

    assert shares.min() > -1e-9
    assert shares.sum(axis=1) == pytest.approx(1)
    assert np.abs(places[-20:].mean(axis=0) - optimum).max() < 0.05


def test_the_textbooks_frank_wolfe_jumps_to_the_best_corner():
    places = climb(FrankWolfe(real((0.3, 0.3)), seed=0, delay=0), np.array([0.9, 0.2]), 2)

    assert tuple(places[1]) == (1.0, 0.3)


def of_parts(*parts):
    """Two sources in each part, one gene each; seeds are each source alone."""
    kinds = tuple(GeneKind(part=part) for part in parts for _ in range(2))
    seeds = ((1.0, 0.0) * len(parts), (0.0, 1.0) * len(parts))
    return Problem(Domain((0.5,) * len(kinds), kinds, seeds))


@pytest.mark.parametrize("oracle", ["hard", "soft"])
def test_frank_wolfe_by_groups_finds_a_mixture_for_each(oracle):
    optimum = np.array([0.9, 0.1, 0.2, 0.8])
    by_group, as_one = (
        climb(FrankWolfe(of_parts("a", "b"), seed=0, oracle=oracle, scope=scope), optimum, 200, 2)
        for scope in ("group", "model")
    )

    assert np.abs(by_group[-20:].mean(axis=0) - optimum).max() < 0.05
    assert by_group.reshape(-1, 2, 2).sum(axis=2) == pytest.approx(1)
    assert np.abs(as_one[-20:].mean(axis=0) - 0.5).max() < 0.1  # the middle of both, as the best common mixture is


def test_each_group_goes_to_the_corner_that_its_own_gradient_prefers():
    search = FrankWolfe(of_parts("a", "b"), seed=0, scope="group", delay=0)
    proposal = search.ask(1)[0]
    search.tell([Evaluation(proposal.trial, (0.0,), gradients=((2.0, 1.0, -9.0, -8.0),))])

    assert search.ask(1)[0].genome == (1.0, 0.0, 0.0, 1.0)


def test_the_length_is_a_share_of_every_step():
    places = climb(FrankWolfe(real((0.3, 0.3)), seed=0, delay=0, length=0.1), np.array([0.9, 0.2]), 2)

    assert places[1] == pytest.approx((0.3 + 0.1 * 0.7, 0.3))


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_gradient_the_point_stays_and_after_a_failure_it_goes_back(kind):
    search = kind(real((0.5, 0.4)), seed=0)
    first, second = search.ask(2)
    search.tell([Evaluation(first.trial, (0.0,))])
    unmoved = search._place.copy()
    search.tell([Evaluation(second.trial, (-1.0,), gradients=((1.0, -1.0),))])
    moved = search.ask(1)[0]
    search.tell([Evaluation(moved.trial, None)])

    assert tuple(unmoved) == first.genome
    assert search.ask(1)[0].genome == pytest.approx((np.array(moved.genome) + first.genome) / 2)


@pytest.mark.parametrize("kind", KINDS)
def test_every_step_has_items_of_its_own(kind):
    search = kind(real((0.5, 0.4)), seed=0)
    proposal, other = search.ask(2)
    search.tell([Evaluation(proposal.trial, (0.0,), gradients=((1.0, -1.0),))])

    assert (proposal.generation, other.generation, search.ask(1)[0].generation) == (0, 0, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_problems_without_gradients_and_wrong_weights_are_refused(kind):
    mixed = Problem(Domain((0.25, 0.5), (GeneKind(choices=2), GeneKind())))
    lineage = Problem(Domain((), lineage=LineageDomain(2, (4,))))

    for problem in (mixed, lineage):
        with pytest.raises(InvalidInputError, match=r"optimizer\.name"):
            kind(problem, seed=0)
    for weights in ("1", "1,2,3", "1,-1", "0,0", "1,x", "nan,1"):
        with pytest.raises(InvalidInputError, match=r"optimizer\.options\.weights"):
            kind(real((0.5,), 2), seed=0, weights=weights)


@pytest.mark.parametrize("gradients", [(), ((1.0,),), ((1.0, 2.0), (1.0, 2.0)), ((1.0, float("nan")),)])
def test_gradients_of_another_shape_are_refused(gradients):
    search = Adam(real((0.5, 0.5)), seed=0)
    search.ask(1)

    with pytest.raises(ValueError, match="1 gradients of 2 finite numbers"):
        search.tell([Evaluation(0, (0.0,), gradients=gradients)])


def test_only_those_that_say_so_use_gradients():
    assert uses_gradients(Adam(real((0.5,)), seed=0))
    assert not uses_gradients(SobolSearch(real((0.5,)), seed=0))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_say_how_much_each_objectives_gradient_counts(kind):
    one, two = kind(real((0.5, 0.5)), seed=0), kind(real((0.5, 0.5), 2), seed=0, weights="3,1")
    for search, values, gradients in ((one, (1.0,), ((2.0, 1.0),)), (two, (0.25, 0.25), ((0.5, 1.0), (0.5, -2.0)))):
        search.tell([Evaluation(search.ask(1)[0].trial, values, gradients=gradients)])

    assert one.ask(1)[0].genome == two.ask(1)[0].genome
