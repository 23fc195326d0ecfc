"""Searches that follow gradients: one point that moves with every answer, in the order of arrival."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from evomerge.candidate import Evaluation, Proposal
from evomerge.optimizers.checks import check_evaluation, check_gradients, check_problem, objective_weights
from evomerge.optimizers.domain import Problem
from evomerge.optimizers.genes import as_genome
from evomerge.optimizers.options import Option, Options, read
from evomerge.optimizers.state import pack, unpack
from evomerge.seeds import generator

Vector = NDArray[np.float64]
"""Shape [genes]."""

Standing = tuple[float, float]
"""What is compared: (-violation, value), larger is better (Deb 2000)."""


class GradientOptions(Options):
    """Options of every `GradientSearch`."""

    weights: str = Field(default="", description="of the objectives in their sum, with commas between; none: 1 each")
    spread: float = Field(
        default=0.01, gt=0, le=0.5, description="how far from the point the asks lie that come before it has moved"
    )


@dataclass(frozen=True, slots=True)
class Point:
    """A proposal without an answer.

    Attributes:
        stretch: between which restarts it was asked; its gradient means nothing in another.
        step: the point had made so many steps.
    """

    place: Vector
    stretch: int
    step: int


class GradientSearch(ABC):
    """One point that moves along the gradients of what was asked at or near it.

    - **Order of arrival**: every answer with a gradient moves the point at once. If the point has made n steps since it
      was asked for, the gradient is stale, and the step is 1/(n + 1) of the usual one (Zhang et al. 2016,
      Staleness-aware Async-SGD, arXiv:1511.05950, eq. 5).
    - **Asks** that come before the point has moved lie near it, so that no two are the same. A generation is a step, so
      that every step has items of its own.
    - **No gradient** in an answer (it was answered from the store): the point stays.
    - **Failures**, and infeasible answers once a feasible one is known, take the point half of the way back to the
      best one (to the start if there is none); nothing is known of the gradient of a constraint.
    - **Several objectives** are added up with `weights`.

    Random numbers are functions of seed and trial. The state is a few points and the proposals without an answer.
    """

    Options: ClassVar[type[Options]] = GradientOptions
    NAME: ClassVar[str]
    SCHEMA: ClassVar[str]
    uses_responses: ClassVar[bool] = False
    uses_gradients: ClassVar[bool] = True

    def __init__(self, problem: Problem, *, seed: int, **options: Option) -> None:
        check_problem(self.NAME, problem)
        self._problem, self._seed = problem, seed
        self._given = read(self.Options, options)
        assert isinstance(self._given, GradientOptions), "so says every subclass"
        self._weights = objective_weights(self._given.weights, problem.num_objectives)
        self._spread = self._given.spread
        self._start = np.array(problem.start, dtype=np.float64)
        self._place, self._best = self._start.copy(), self._start.copy()
        self._standing: Standing = (-np.inf, -np.inf)
        self._trials = self._steps = self._stretch = 0
        self._fresh = True  # nobody asked for the point itself yet
        self._asked: dict[int, Point] = {}
        self._prepare()

    @abstractmethod
    def _prepare(self) -> None:
        """Set up what a subclass needs, as at the beginning."""

    @abstractmethod
    def _moved(self, place: Vector, gradient: Vector, share: float) -> Vector:
        """Where the point goes; a gradient points to where the objectives rise, `share` is that of the usual step."""

    @abstractmethod
    def _near(self, place: Vector, rng: np.random.Generator) -> Vector:
        """A legal point near another one."""

    @abstractmethod
    def _dump(self) -> tuple[dict[str, Any], dict[str, Vector]]:
        """A subclass's own part of the state: what fits JSON, and arrays."""

    @abstractmethod
    def _load(self, head: Mapping[str, Any], arrays: Mapping[str, Vector]) -> None:
        """Go on from what `_dump` wrote."""

    def _judged(self, value: float) -> None:  # noqa: B027 - not every subclass asks
        """What a subclass does after an answer with a gradient, whose weighted sum of objectives this is."""

    def ask(self, n: int) -> list[Proposal]:
        if n < 0:
            raise ValueError(f"can ask for 0 or more proposals, got {n}")
        return [self._propose() for _ in range(n)]

    def _propose(self) -> Proposal:
        trial, self._trials = self._trials, self._trials + 1
        place = self._place
        if not self._fresh:
            place = self._near(place, generator(self._seed, self.NAME, trial))
        self._fresh = False
        self._asked[trial] = Point(place, self._stretch, self._steps)
        return Proposal(trial, as_genome(place), self._steps)

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        for evaluation in evaluations:
            check_evaluation(evaluation, self._trials, self._problem.num_objectives)
            if evaluation.trial in self._asked:
                check_gradients(evaluation, self._problem.num_objectives, self._problem.domain.dim)
        for evaluation in evaluations:
            if (point := self._asked.pop(evaluation.trial, None)) is not None:
                self._receive(point, evaluation)

    def _receive(self, point: Point, evaluation: Evaluation) -> None:
        if evaluation.values is None:
            self._retreat()
            return
        standing = (-evaluation.violation, float(np.dot(self._weights, evaluation.values)))
        if standing > self._standing:
            self._standing, self._best = standing, point.place
        if evaluation.violation > 0 and self._standing[0] == 0:
            self._retreat()
        elif evaluation.gradients is not None and point.stretch == self._stretch:
            gradient = self._weights @ np.array(evaluation.gradients, dtype=np.float64)
            self._go(self._moved(self._place, gradient, 1 / (self._steps - point.step + 1)))
            self._judged(standing[1])

    def _retreat(self) -> None:
        self._go((self._place + self._best) / 2)

    def _go(self, place: Vector) -> None:
        self._fresh = self._fresh or not np.array_equal(place, self._place)
        self._place, self._steps = place, self._steps + 1

    def state(self) -> bytes:
        own, arrays = self._dump()
        trials = sorted(self._asked)
        points = np.array([self._asked[trial].place for trial in trials]).reshape(len(trials), len(self._start))
        head = {
            "problem": self._problem.dump(),
            "seed": self._seed,
            "options": self._given.model_dump(),
            "trials": self._trials,
            "steps": self._steps,
            "stretch": self._stretch,
            "fresh": self._fresh,
            "asked": [[trial, self._asked[trial].stretch, self._asked[trial].step] for trial in trials],
            "own": own,
        }
        mine = {"place": self._place, "best": self._best, "standing": np.array(self._standing), "points": points}
        return pack(self.SCHEMA, head, mine | {f"own_{name}": array for name, array in arrays.items()})

    @classmethod
    def from_state(cls, state: bytes) -> Self:
        head, arrays = unpack(cls.SCHEMA, state)
        search = cls(Problem.load(head["problem"]), seed=head["seed"], **head["options"])
        search._trials, search._steps = head["trials"], head["steps"]
        search._stretch, search._fresh = head["stretch"], head["fresh"]
        search._place, search._best = arrays["place"], arrays["best"]
        violation, value = arrays["standing"].tolist()
        search._standing = (violation, value)
        asked = zip(head["asked"], arrays["points"], strict=True)
        search._asked = {trial: Point(place, stretch, step) for (trial, stretch, step), place in asked}
        own = {name.removeprefix("own_"): array for name, array in arrays.items() if name.startswith("own_")}
        search._load(head["own"], own)
        return search
