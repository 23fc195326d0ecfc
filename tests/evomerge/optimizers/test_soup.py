"""The greedy soup: the paper's pass, the servings after it, and the contract."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.candidate import Evaluation
from evomerge.errors import InvalidInputError
from evomerge.optimizers.domain import Domain, LineageDomain, Problem, real
from evomerge.optimizers.optimizer import mixes_sources
from evomerge.optimizers.random import SobolSearch
from evomerge.optimizers.soup import GreedySoup
from evomerge.testing.optimizer import OptimizerContract


class TestGreedySoup(OptimizerContract):
    def make(self, problem, *, seed):
        return GreedySoup(problem, seed=seed)


def problem_of(sources):
    corners = np.eye(sources)
    return Problem(Domain(tuple(corners.mean(axis=0)), seeds=tuple(map(tuple, corners))))


def cook(search, score, steps, workers=1):
    """Ask and tell; answers come `workers` asks later. The proposals."""
    waiting, asked = [], []
    for _ in range(steps):
        waiting += search.ask(workers - len(waiting))
        proposal = waiting.pop(0)
        asked.append(proposal)
        search.tell([Evaluation(proposal.trial, score(np.array(proposal.genome)))])
    return asked


def greedy(score, sources):
    """Recipe 1 of the paper, as it stands there."""
    alone = np.eye(sources)
    ingredients = []
    for model in sorted(alone, key=lambda model: score(model)[0], reverse=True):
        if not ingredients or score(np.mean([*ingredients, model], axis=0)) >= score(np.mean(ingredients, axis=0)):
            ingredients.append(model)
    return np.mean(ingredients, axis=0)


@given(
    optimum=st.lists(st.integers(0, 6), min_size=2, max_size=5).filter(any),
    workers=st.integers(1, 7),
)
def test_after_the_pass_the_soup_is_the_papers(optimum, workers):
    target = np.array(optimum) / sum(optimum)

    def score(genome):
        return (-float(np.square(genome - target).sum()),)

    search, rng = GreedySoup(problem_of(len(optimum)), seed=0), np.random.default_rng(workers)
    waiting = []
    while not search._round:
        waiting += search.ask(workers - len(waiting))
        proposal = waiting.pop(int(rng.integers(len(waiting))))
        search.tell([Evaluation(proposal.trial, score(np.array(proposal.genome)))])

    assert np.array(search.soup) / sum(search.soup) == pytest.approx(greedy(score, len(optimum)))
    assert search._trials <= 2 * len(optimum) or workers > 1


def test_one_worker_needs_two_answers_a_source_for_the_pass():
    asked = cook(GreedySoup(problem_of(4), seed=0), lambda genome: (float(genome @ (0.4, 0.3, 0.2, 0.1)),), 8)

    assert asked[0].genome == (0.25,) * 4
    assert [p.genome for p in asked[1:5]] == [tuple(row) for row in np.eye(4).tolist()]
    assert [tuple(np.flatnonzero(p.genome)) for p in asked[5:]] == [(0, 1), (0, 2), (0, 3)]
    assert {p.generation for p in asked} == {0}


@pytest.mark.parametrize("workers", [1, 8])
def test_further_servings_find_weights_that_are_no_plain_average(workers):
    optimum = np.array([0.6, 0.3, 0.1, 0.0])
    search = GreedySoup(problem_of(4), seed=0)
    cook(search, lambda genome: (-float(np.square(genome - optimum).sum()),), 150, workers)

    assert np.array(search.soup) / sum(search.soup) == pytest.approx(optimum, abs=0.02)


def test_each_round_has_items_of_its_own_and_asks_for_the_soup_again():
    asked = cook(GreedySoup(problem_of(2), seed=0), lambda genome: (-abs(float(genome[0]) - 0.5),), 10)

    assert [p.generation for p in asked] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]  # the uniform soup is known from the start
    assert asked[3].genome == asked[6].genome == (0.5, 0.5)
    assert asked[4].genome == pytest.approx((2 / 3, 1 / 3))
    assert asked[7].genome == pytest.approx((0.6, 0.4))  # nothing was better: half the step


def test_a_source_that_fails_alone_does_not_join():
    def score(genome):
        return None if genome[1] == 1 else (1.0,)

    search = GreedySoup(problem_of(3), seed=0)
    asked = cook(search, score, 5)

    assert search.soup == (1, 0, 1)
    assert all(p.genome[1] in (0.0, 1.0, 1 / 3) for p in asked)


def test_when_every_source_fails_it_goes_on_from_the_average():
    search = GreedySoup(problem_of(3), seed=0)
    cook(search, lambda genome: None if genome.max() == 1 else (float(genome[0]),), 20)

    assert search.soup[0] > max(search.soup[1:])


def test_what_is_feasible_beats_what_is_not():
    search = GreedySoup(problem_of(2), seed=0)
    for proposal in search.ask(3):
        value, violation = ((9.0, 1.0) if proposal.genome == (1.0, 0.0) else (1.0, 0.0)) if proposal.trial else (0.0, 0)
        search.tell([Evaluation(proposal.trial, (value,), violation=violation)])

    assert search._order == [1, 0]


def test_what_it_cannot_mix_and_wrong_weights_are_refused():
    with pytest.raises(InvalidInputError, match=r"optimizer\.name"):
        GreedySoup(Problem(Domain((), lineage=LineageDomain(2, (4,)))), seed=0)
    with pytest.raises(InvalidInputError, match=r"optimizer\.options\.weights"):
        GreedySoup(real((0.5,), 2), seed=0, weights="1")


def test_it_says_that_it_mixes_sources():
    assert mixes_sources(GreedySoup)
    assert not mixes_sources(SobolSearch)


def test_weights_say_how_much_each_objective_counts():
    search = GreedySoup(Problem(Domain((0.5, 0.5), seeds=((1.0, 0.0), (0.0, 1.0))), 2), seed=0, weights="1,3")
    cook(search, lambda genome: tuple(genome.tolist()), 3)

    assert search._order == [1, 0]
