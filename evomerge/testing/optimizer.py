"""What every optimizer must do, as tests to inherit.

class TestMine(OptimizerContract):
    def make(self, problem, *, seed): return Mine(problem, seed=seed, population=4)
"""

from __future__ import annotations

import io
import json
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, ClassVar, Self

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evomerge.candidate import Evaluation, Genome, Proposal
from evomerge.errors import EvomergeError
from evomerge.optimizers.domain import Domain, GeneKind, Problem, real
from evomerge.optimizers.optimizer import Optimizer, uses_gradients

START: Genome = (0.25, 0.5, 0.625)

_inherited = settings(suppress_health_check=[HealthCheck.differing_executors], deadline=None, max_examples=25)


@dataclass(frozen=True, slots=True)
class Ask:
    """One call of `ask`."""

    n: int


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one outstanding proposal: which one (modulo how many there are), and how it went."""

    which: int
    outcome: str  # scored | tied | infeasible | failed


@dataclass(frozen=True, slots=True)
class Tell:
    """One call of `tell`."""

    answers: tuple[Answer, ...]


Step = Ask | Tell

_outcomes = st.sampled_from(["scored", "scored", "scored", "tied", "infeasible", "failed"])
_answers = st.builds(Answer, st.integers(0, 1000), _outcomes)
_steps = st.one_of(
    st.builds(Ask, st.integers(0, 12)),
    st.builds(Tell, st.lists(_answers, max_size=16).map(tuple)),
)
interleavings = st.lists(_steps, max_size=30)
"""What a driver may do to an optimizer: ask and tell in any portions and order, with ties, failures, violations."""


class Driver:
    """Plays steps on an optimizer and remembers what it proposed and what is outstanding."""

    def __init__(self, optimizer: Optimizer, num_objectives: int) -> None:
        self.optimizer = optimizer
        self.num_objectives = num_objectives
        self.gives_gradients = uses_gradients(optimizer)
        self.proposals: list[Proposal] = []
        self.outstanding: list[Proposal] = []

    def resumed(self, optimizer: Optimizer) -> Self:
        """A driver of another optimizer that knows what this one knows."""
        other = type(self)(optimizer, self.num_objectives)
        other.proposals, other.outstanding = list(self.proposals), list(self.outstanding)
        return other

    def play(self, steps: Sequence[Step]) -> None:
        for step in steps:
            if isinstance(step, Ask):
                self.ask(step.n)
            else:
                self.optimizer.tell([self._answer(a) for a in step.answers if self.outstanding])

    def ask(self, n: int) -> list[Proposal]:
        asked = self.optimizer.ask(n)
        self.proposals += asked
        self.outstanding += asked
        return asked

    def _answer(self, answer: Answer) -> Evaluation:
        proposal = self.outstanding.pop(answer.which % len(self.outstanding))
        if answer.outcome == "failed":
            return Evaluation(proposal.trial, None)
        if answer.outcome == "tied":
            return self.flat(proposal)
        return replace(self.scored(proposal), violation=0.5 if answer.outcome == "infeasible" else 0.0)

    def scored(self, proposal: Proposal) -> Evaluation:
        """What a worker would answer."""
        found = Evaluation(proposal.trial, score(proposal.genome, self.num_objectives))
        if not self.gives_gradients:
            return found
        return replace(found, gradients=gradients(proposal.genome, self.num_objectives))

    def answers(self, proposals: Sequence[Proposal]) -> list[Evaluation]:
        """To all of them."""
        return [self.scored(proposal) for proposal in proposals]

    def flat(self, proposal: Proposal) -> Evaluation:
        """An answer that is the same for all."""
        return Evaluation(proposal.trial, (0.0,) * self.num_objectives)


def score(genome: Genome, num_objectives: int) -> tuple[float, ...]:
    """Objective k is best, 0, where every gene is (k + 1) / (num_objectives + 1)."""
    optima = [(k + 1) / (num_objectives + 1) for k in range(num_objectives)]
    return tuple(-sum((gene - optimum) ** 2 for gene in genome) for optimum in optima)


def gradients(genome: Genome, num_objectives: int) -> tuple[tuple[float, ...], ...]:
    """Derivatives of `score` by the genes, for each objective."""
    optima = [(k + 1) / (num_objectives + 1) for k in range(num_objectives)]
    return tuple(tuple(2 * (optimum - gene) for gene in genome) for optimum in optima)


class OptimizerContract(ABC):
    """Inherit, name the class `Test…`, supply `make`; set `num_objectives` for more than one."""

    num_objectives: ClassVar[int] = 1

    @abstractmethod
    def make(self, problem: Problem, *, seed: int) -> Optimizer:
        """A fresh optimizer; with a small population, so that short tests see many generations."""

    def driver(self, start: Genome = START, seed: int = 0) -> Driver:
        """Of a fresh optimizer."""
        return Driver(self.make(real(start, self.num_objectives), seed=seed), self.num_objectives)

    def check(self, proposals: Sequence[Proposal]) -> None:
        """Whether these are points of the search space."""
        assert all(len(p.genome) == len(START) for p in proposals)
        assert all(type(gene) is float and 0 <= gene <= 1 for p in proposals for gene in p.genome)

    def test_the_first_proposal_is_the_start(self) -> None:
        for start in (START, (0.0, 1.0, 0.1), (0.3,)):
            first, *_ = self.driver(start).ask(1)

            assert first == Proposal(0, start, 0)

    @_inherited
    @given(interleavings)
    def test_whatever_happens_asking_goes_on(self, steps: list[Step]) -> None:
        driver = self.driver()
        driver.play(steps)
        before = len(driver.proposals)

        assert len(driver.ask(7)) == 7
        assert [p.trial for p in driver.proposals] == list(range(before + 7))
        generations = [p.generation for p in driver.proposals]
        assert generations == sorted(generations)
        self.check(driver.proposals)

    @_inherited
    @given(interleavings, interleavings)
    def test_a_restored_optimizer_goes_on_as_the_original(self, before: list[Step], after: list[Step]) -> None:
        original = self.driver()
        original.play(before)
        state = original.optimizer.state()
        restored = original.resumed(type(original.optimizer).from_state(state))
        for driver in (original, restored):
            driver.play([*after, Ask(3)])

        assert restored.proposals == original.proposals
        assert restored.optimizer.state() == original.optimizer.state()

    @_inherited
    @given(interleavings)
    def test_taking_the_state_changes_nothing(self, steps: list[Step]) -> None:
        watched, left_alone = self.driver(), self.driver()
        for step in steps:
            watched.play([step])
            watched.optimizer.state()
        left_alone.play(steps)

        assert watched.ask(3) == left_alone.ask(3)

    @_inherited
    @given(interleavings, st.integers(0, 9), st.integers(0, 9))
    def test_proposals_are_the_same_in_any_portions(self, steps: list[Step], first: int, second: int) -> None:
        one, two = self.driver(), self.driver()
        for driver in (one, two):
            driver.play(steps)

        assert one.ask(first) + one.ask(second) == two.ask(first + second)

    @_inherited
    @given(interleavings)
    def test_telling_twice_counts_once(self, steps: list[Step]) -> None:
        once, twice = self.driver(), self.driver()
        once.play(steps)
        for step in steps:
            twice.play([step])
            answered = {p.trial for p in twice.proposals} - {p.trial for p in twice.outstanding}
            twice.optimizer.tell([Evaluation(trial, (9.0,) * self.num_objectives) for trial in sorted(answered)])

        assert twice.ask(5) == once.ask(5)

    def test_an_answer_repeated_in_one_call_counts_once(self) -> None:
        once, twice = self.driver(), self.driver()
        for driver, copies in ((once, 1), (twice, 3)):
            for _ in range(40):
                driver.optimizer.tell(driver.answers(driver.ask(4)) * copies)

        assert twice.ask(5) == once.ask(5)

    def test_if_everything_fails_asking_goes_on(self) -> None:
        driver = self.driver()
        for _ in range(60):
            driver.optimizer.tell([Evaluation(p.trial, None) for p in driver.ask(5)])

        assert len({(p.genome, p.descent) for p in driver.ask(20)}) == 20

    def test_a_search_recovers_from_a_time_of_failures(self) -> None:
        driver = self.driver()
        for round_ in range(60):
            proposals = driver.ask(5)
            driver.optimizer.tell(
                [Evaluation(p.trial, None) for p in proposals] if round_ < 30 else driver.answers(proposals)
            )

        assert len(driver.ask(20)) == 20

    def test_an_unknown_trial_is_refused_and_nothing_is_learnt(self) -> None:
        driver = self.driver()
        known, *_ = driver.ask(3)
        state = driver.optimizer.state()

        for trial in (3, -1):
            with pytest.raises(ValueError, match=str(trial)):
                driver.optimizer.tell([driver.scored(known), Evaluation(trial, (0.0,) * self.num_objectives)])
            assert driver.optimizer.state() == state

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_values_that_cannot_be_compared_are_refused(self, value: float) -> None:
        driver = self.driver()
        driver.ask(2)
        zeros = (0.0,) * (self.num_objectives - 1)

        with pytest.raises(ValueError, match="finite"):
            driver.optimizer.tell([Evaluation(0, (*zeros, value))])
        with pytest.raises(ValueError, match="finite"):
            driver.optimizer.tell([Evaluation(0, (*zeros, 0.0), violation=value)])
        with pytest.raises(ValueError, match=f"{self.num_objectives} objective"):
            driver.optimizer.tell([Evaluation(0, (*zeros, 0.0, 0.0))])
        with pytest.raises(ValueError, match="-1"):
            driver.optimizer.ask(-1)

    def test_the_state_is_no_pickle(self) -> None:
        driver = self.driver()
        driver.play([Ask(9), Tell(tuple(Answer(0, "scored") for _ in range(7)))])

        assert _is_plain_data(driver.optimizer.state())

    @pytest.mark.parametrize(
        "damage", [lambda s: b"", lambda s: s[: len(s) // 2], lambda s: b"{}", lambda s: b"\x80\x04N."]
    )
    def test_bytes_that_are_no_state_are_refused(self, damage: Callable[[bytes], bytes]) -> None:
        optimizer = self.driver().optimizer

        with pytest.raises(EvomergeError, match="state"):
            type(optimizer).from_state(damage(optimizer.state()))

    def test_global_generators_are_neither_read_nor_disturbed(self) -> None:
        before = np.random.get_state(legacy=False), random.getstate()
        try:
            traces, states = [], []
            for seed in (1, 2):
                _seed_globally(seed)
                fresh = np.random.get_state(legacy=False), random.getstate()
                traces.append(self._trace(self.driver()))
                states.append((fresh, (np.random.get_state(legacy=False), random.getstate())))
        finally:
            np.random.set_state(before[0])
            random.setstate(before[1])

        assert traces[0] == traces[1]
        for fresh, after in states:
            np.testing.assert_equal(after, fresh)

    def test_two_searches_in_one_process_do_not_meet(self) -> None:
        alone = self._trace(self.driver())
        driver, neighbour = self.driver(), self.driver(seed=5)
        for _ in range(12):
            driver.optimizer.tell(driver.answers(driver.ask(3)))
            neighbour.optimizer.tell(neighbour.answers(neighbour.ask(5)))

        assert driver.proposals == alone

    def test_the_seed_decides(self) -> None:
        assert self._trace(self.driver(seed=3)) == self._trace(self.driver(seed=3))
        assert self._trace(self.driver(seed=3)) != self._trace(self.driver(seed=4))

    def _trace(self, driver: Driver) -> list[Proposal]:
        for _ in range(12):
            driver.optimizer.tell(driver.answers(driver.ask(3)))
        return driver.proposals


class LearningOptimizerContract(OptimizerContract):
    """For optimizers that use what they are told."""

    def test_larger_is_better(self) -> None:
        driver = self.driver(start=(0.9, 0.1, 0.9))
        totals: list[float] = []
        for _ in range(100):
            evaluations = driver.answers(driver.ask(4))
            driver.optimizer.tell(evaluations)
            totals += [sum(e.values) for e in evaluations if e.values is not None]

        assert median(totals[-100:]) > median(totals[:100])


class MixedOptimizerContract(LearningOptimizerContract):
    """For optimizers that take genes with choices, and gates; `names` False: all choices must be ordered."""

    names: ClassVar[bool] = True

    def mixed(self, seed: int = 0) -> Driver:
        kinds = [
            GeneKind(), GeneKind(choices=2), GeneKind(gate=1), GeneKind(choices=5, ordered=True),
            GeneKind(choices=3, ordered=not self.names), GeneKind(choices=4, ordered=True, gate=1),
        ]  # fmt: skip
        start, seeds = (0.25, 0.25, 0.4, 0.5, 1 / 6, 0.875), ((0.8, 0.75, 0.1, 0.9, 5 / 6, 0.125),)
        problem = Problem(Domain(start, tuple(kinds), seeds), self.num_objectives)
        return Driver(self.make(problem, seed=seed), self.num_objectives)

    @_inherited
    @given(interleavings)
    def test_choices_stand_at_their_places_and_gates_close(self, steps: list[Step]) -> None:
        driver = self.mixed()
        driver.play(steps)
        driver.ask(30)
        start, seed = (p.genome for p in driver.proposals[:2])

        assert start == (0.25, 0.25, 0.4, 0.5, 1 / 6, 0.875)
        assert seed == pytest.approx((0.8, 0.75, 0.1, 0.9, 5 / 6, 0.125))
        for genome in (p.genome for p in driver.proposals):
            assert genome[1] in (0.25, 0.75)
            assert min(abs(genome[3] - place) for place in (0.1, 0.3, 0.5, 0.7, 0.9)) < 1e-12
            assert min(abs(genome[4] - place) for place in (1 / 6, 0.5, 5 / 6)) < 1e-12
            assert min(abs(genome[5] - place) for place in (0.125, 0.375, 0.625, 0.875)) < 1e-12
            assert genome[1] > 0.5 or (genome[2], genome[5]) == (0.4, 0.875)

    @_inherited
    @given(interleavings, interleavings)
    def test_a_restored_search_of_mixed_genes_goes_on_as_the_original(
        self, before: list[Step], after: list[Step]
    ) -> None:
        original = self.mixed()
        original.play(before)
        state = original.optimizer.state()
        restored = original.resumed(type(original.optimizer).from_state(state))
        for driver in (original, restored):
            driver.play([*after, Ask(3)])

        assert restored.proposals == original.proposals
        assert restored.optimizer.state() == original.optimizer.state()

    def test_larger_is_better_with_mixed_genes(self) -> None:
        driver = self.mixed()
        totals: list[float] = []
        for _ in range(100):
            evaluations = [driver.scored(proposal) for proposal in driver.ask(4)]
            driver.optimizer.tell(evaluations)
            totals += [sum(e.values) for e in evaluations if e.values is not None]

        assert median(totals[-100:]) > median(totals[:100])


def _seed_globally(seed: int) -> None:
    np.random.seed(seed)
    random.seed(seed)


def _is_plain_data(state: bytes) -> bool:
    try:
        with np.load(io.BytesIO(state), allow_pickle=False) as arrays:
            return all(isinstance(arrays[name], np.ndarray) for name in arrays.files)
    except (OSError, ValueError):
        document: Any = json.loads(state)
        return isinstance(document, dict)
