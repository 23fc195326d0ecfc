"""Optimizers that learn from evaluations of genomes that they did not propose."""

from __future__ import annotations

from typing import Any

import pytest

from evomerge.candidate import Evaluation, Genome
from evomerge.optimizers import make, restore
from evomerge.optimizers.domain import Domain, GeneKind, LineageDomain, Problem, real
from evomerge.optimizers.optimizer import Learner
from evomerge.testing.optimizer import Driver, score

START: Genome = (0.9, 0.1, 0.9)
OPTIMUM: Genome = (0.5, 0.5, 0.5)
OPTIONS: dict[str, dict[str, Any]] = {
    "cma_es": {}, "catcma": {}, "m2n2": {}, "nsga2": {"population": 8}, "nsga3": {"population": 8},
    "genome": {"population": 8}, "swarm": {}, "map": {},
}  # fmt: skip


def _driver(name: str, objectives: int = 1) -> Driver:
    return Driver(make(name, real(START, objectives), seed=1, **OPTIONS[name]), objectives)


def _learn(driver: Driver, genome: Genome) -> None:
    assert isinstance(driver.optimizer, Learner)
    driver.optimizer.learn(genome, Evaluation(0, score(genome, driver.num_objectives)))


def _step(driver: Driver, evaluations: int) -> None:
    for _ in range(evaluations):
        driver.optimizer.tell(driver.answers(driver.ask(1)))


def _distance(driver: Driver, evaluations: int) -> float:
    """Mean distance of the next proposals from the optimum."""
    before = len(driver.proposals)
    _step(driver, evaluations)
    latest = driver.proposals[before:]
    return sum(abs(g - o) for p in latest for g, o in zip(p.genome, OPTIMUM, strict=True)) / len(latest)


@pytest.mark.parametrize("name", sorted(set(OPTIONS) - {"map"}))
def test_who_is_told_where_it_is_better_goes_there(name: str) -> None:
    told, alone = _driver(name), _driver(name)
    for driver in (told, alone):
        _step(driver, 10)
    for shift in (0.0, 0.01, 0.02):
        _learn(told, (0.5 + shift, 0.5, 0.5))
        _step(told, 9)
    _step(alone, 27)

    assert _distance(told, 20) < _distance(alone, 20)


def test_a_surrogate_fits_what_it_is_told() -> None:
    told, alone = _driver("map"), _driver("map")
    for driver in (told, alone):
        _step(driver, 4)
    for i in range(20):
        _learn(told, (i / 20, (i * 7 % 20) / 20, (i * 3 % 20) / 20))
    (best, *_), (blind, *_) = (driver.optimizer.preview().genomes for driver in (told, alone))  # type: ignore[attr-defined]

    assert best == pytest.approx(OPTIMUM, abs=0.02)
    assert blind != pytest.approx(OPTIMUM, abs=0.02)


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_one_that_learnt_is_restored_exactly(name: str) -> None:
    original = _driver(name)
    _step(original, 9)
    for i in range(5):
        _learn(original, (0.5, 0.3 + 0.05 * i, 0.5))
    restored = original.resumed(restore(name, original.optimizer.state()))
    for driver in (original, restored):
        _step(driver, 20)
        _learn(driver, OPTIMUM)
        _step(driver, 20)

    assert restored.proposals == original.proposals
    assert restored.optimizer.state() == original.optimizer.state()


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_what_cannot_be_compared_is_refused_and_changes_nothing(name: str) -> None:
    driver = _driver(name)
    _step(driver, 5)
    state, learner = driver.optimizer.state(), driver.optimizer
    assert isinstance(learner, Learner)

    for evaluation in (Evaluation(0, None), Evaluation(0, (float("nan"),)), Evaluation(0, (1.0, 1.0))):
        with pytest.raises(ValueError, match="expected"):
            learner.learn(OPTIMUM, evaluation)
    assert learner.state() == state


@pytest.mark.parametrize("name", ["cma_es", "catcma", "m2n2", "nsga2", "nsga3", "map"])
def test_two_objectives_are_learnt(name: str) -> None:
    told, alone = _driver(name, 2), _driver(name, 2)
    for driver in (told, alone):
        _step(driver, 12)
    for i in range(12):
        _learn(told, (1 / 3 + i / 36,) * 3)
        _step(told, 1)

    assert told.proposals[:12] == alone.proposals[:12]
    assert told.ask(5) != alone.ask(5)


def test_a_strategy_takes_a_fifth_of_a_generation_at_most() -> None:
    flooded = Driver(make("cma_es", real(START), seed=1, population=10), 1)
    flooded.ask(1)
    for i in range(50):
        _learn(flooded, (0.5, i / 50, 0.5))

    assert {p.generation for p in flooded.ask(5)} == {0}
    _step(flooded, 8)
    assert flooded.ask(1)[0].generation == 1


def test_niches_learn_scores_on_as_many_items_as_their_members_have() -> None:
    driver = Driver(make("m2n2", real(START), seed=1), 1)
    learner = driver.optimizer
    assert isinstance(learner, Learner)
    driver.optimizer.tell([Evaluation(p.trial, (0.5,), responses=((0.0, 1.0),)) for p in driver.ask(3)])
    before = learner.state()
    learner.learn(OPTIMUM, Evaluation(0, (1.0,), responses=((1.0, 1.0, 1.0),)))

    assert learner.state() == before
    learner.learn(OPTIMUM, Evaluation(0, (1.0,), responses=((1.0, 1.0),)))
    assert learner.elite[0].genome == OPTIMUM  # type: ignore[attr-defined]


def test_lineages_have_nothing_to_learn_from_genomes() -> None:
    lineages = make("m2n2", Problem(Domain((), lineage=LineageDomain(2, (4,)))), seed=1)
    before = lineages.state()
    assert isinstance(lineages, Learner)
    lineages.learn((), Evaluation(0, (1.0,)))

    assert lineages.state() == before


def test_mixed_genes_are_learnt_as_they_are() -> None:
    domain = Domain((0.25, 1 / 6), (GeneKind(), GeneKind(choices=3)))
    strategy = make("catcma", Problem(domain), seed=1, population=6)
    assert isinstance(strategy, Learner)
    for _ in range(12):
        proposals = strategy.ask(5)
        strategy.learn((0.8, 5 / 6), Evaluation(0, (9.0,)))
        strategy.tell([Evaluation(p.trial, (0.0,)) for p in proposals])

    assert sum(p.genome[1] > 0.8 for p in strategy.ask(40)) > 20


def test_what_does_not_learn_does_not_claim_to() -> None:
    assert not isinstance(make("random", real(START), seed=0), Learner)
