"""Evolution strategies in the order of arrival: what CMA-ES and its relatives share, whatever they draw from."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from evomerge.candidate import Evaluation, Genome, Proposal
from evomerge.optimizers.checks import check_evaluation, check_foreign
from evomerge.optimizers.domain import Problem
from evomerge.optimizers.genes import Genes, as_genome
from evomerge.optimizers.noise import RankNoise
from evomerge.optimizers.options import Option, Options, read
from evomerge.optimizers.ranking import Matrix, UncrowdedImprovement, Vector, costs
from evomerge.optimizers.restarts import Regime, Restarts
from evomerge.optimizers.state import Restorable, pack
from evomerge.seeds import derive

MAX_AGE = 3
"""An evaluation of a proposal that is older than so many generations teaches nothing any more."""

GUESTS = 5
"""One in so many answers of a generation may be somebody else's, and one at least."""

Numbers = Mapping[str, Any]
"""What outlives one generation of a distribution: name → array or number."""


class EvolutionOptions(Options):
    """Options of every evolution strategy."""

    population: int | None = Field(
        default=None,
        ge=4,
        le=100_000,
        description="evaluations per generation; null: 4 + 3 ln(genes), or half of the workers",
    )
    sigma: float = Field(default=0.15, gt=0, le=0.5, description="initial step size, a share of each gene's range")
    restarts: Literal["ipop", "bipop", "none"] = Field(
        default="ipop",
        description="a search that stands still begins again with twice the population (ipop), with large and small "
        "populations in turn (bipop), or as before (none)",
    )
    noise: Literal["auto", "off"] = Field(
        default="off",
        description="auto: ask more items while their errors blur the ranks of a generation; candidates cost more "
        "then, so bound the search by budget.items",
    )
    max_fidelity: float = Field(
        default=4.0, ge=1, le=100, description="times the usual number of items that noise may lead to"
    )


class Normal:
    """Normal and uniform numbers whose row of trial t is a function of seed, name and t.

    A Philox generator whose counter begins at the trial; no call depends on another one, so there is no generator to
    save, and proposals are the same in whatever portions they are asked for.
    """

    def __init__(self, seed: int, name: str = "cma_es") -> None:
        self._bits = np.random.Philox(key=derive(seed, name))
        self._generator = np.random.Generator(self._bits)
        self._fresh = self._bits.state
        self.trial = 0

    def __call__(self, rows: int, columns: int) -> Vector:
        """Normal numbers, shape [rows, columns]; zeros for trial 0, which is the mean itself."""
        if not self.trial:
            return np.zeros((rows, columns))
        return self._stream(0).standard_normal((rows, columns))

    def uniform(self, columns: int) -> Vector:
        """Numbers in [0, 1), independent of the normal ones."""
        return self._stream(1).random(columns)

    def _stream(self, lane: int) -> np.random.Generator:
        self._fresh["state"]["counter"][:] = 0, self.trial, lane, 0
        self._bits.state = self._fresh  # a generator is set in a third of the time that a new one takes
        return self._generator


class SearchDistribution(Protocol):
    """Where genomes of one generation are drawn from. A point is a genome before bounds, grids and gates."""

    @property
    def numbers(self) -> Numbers | None:
        """What the generation before left; None in the first one."""
        ...

    def sample(self) -> Vector:
        """A new point, a function of the present trial's numbers."""
        ...

    def point(self, genome: Genome) -> Vector:
        """A point that stands for a given genome."""
        ...

    def genome(self, point: Vector) -> Vector:
        """The genome of a point, every gene in [0, 1]."""
        ...

    def tell(self, points: Sequence[Vector], costs: Vector, stale: Collection[int]) -> tuple[Numbers, list[str]]:
        """The numbers after learning from one generation, and the reasons to begin again, if any.

        Args:
            points: λ points or a few more.
            costs: one a point, smaller is better.
            stale: numbers of points that were not drawn from this distribution; their steps are clipped.
        """
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """A proposal without an answer: its point, and the generation that it was drawn in."""

    point: Vector
    birth: int


@dataclass(frozen=True, slots=True)
class Answered:
    """A proposal whose answer waits for the generation to fill."""

    asked: Asked
    evaluation: Evaluation


class EvolutionStrategy(Restorable):
    """Ask and tell around a `SearchDistribution`.

    - **Generations** close when λ answers have arrived, whatever generation they were asked in; answers older than
      `MAX_AGE` generations are dropped, the steps of other late ones clipped. Nothing waits for a slow candidate, and
      `ask` never waits for anything.
    - **Trial 0** is the start itself: the plain average is always evaluated. It is also the initial mean. The domain's
      seeds follow; the strategy learns from them as from late answers (Hansen 2011, arXiv:1110.4181).
    - **Failures** are left out. Only when more than half of the last 2 λ answers were failures they count as worse than
      the rest (`ranking.costs`), so that the search leaves a region where nothing works.
    - **Constraints**: feasible before infeasible, infeasible by violation (Deb 2000).
    - **Several objectives**: ranked by `UncrowdedImprovement` against all that was told.
    - **Restarts**: where the distribution says stop, again from the start (see `Restarts`), not from a random point:
      most merges far from any average are broken. Answers to older proposals are dropped.
    - **Noise**: proposals ask for more items while standard errors blur the ranks (see `RankNoise`).
    - **Others' evaluations** (`learn`) count as answers, their steps clipped as those of seeds are, up to a fifth of a
      generation; of more the latest stay.
    """

    Options: ClassVar[type[Options]]
    SCHEMA: ClassVar[str]
    uses_responses: ClassVar[bool] = False

    _options: EvolutionOptions

    def __init__(self, problem: Problem, *, seed: int, **options: Option) -> None:
        self._check(problem)
        read_options = read(self.Options, options)
        assert isinstance(read_options, EvolutionOptions)
        self._problem, self._seed, self._options = problem, seed, read_options
        self._start, self._num_objectives = tuple(map(float, problem.start)), problem.num_objectives
        self._seeds = [tuple(map(float, genome)) for genome in problem.domain.seeds]
        self._genes = Genes(problem.domain)
        self._trials = self._generation = self._guests = 0
        self._restarted = 0  # the generation of the latest restart: what was asked before teaches nothing
        # With many more workers than a generation has places, most answers would come generations too late.
        default = max(4 + int(3 * math.log(len(self._start))), problem.workers // 2)
        self._restarts = Restarts(
            self._options.restarts, self._options.population or default, self._options.sigma, derive(seed, "restarts")
        )
        self._noise = RankNoise(self._options.max_fidelity if self._options.noise == "auto" else 1.0)
        self._asked: dict[int, Asked] = {}
        self._answered: list[Answered] = []
        self._outcomes: deque[bool] = deque(maxlen=2 * self.generation_size)  # True: no failure
        self._progress = UncrowdedImprovement(self._num_objectives)
        self._prepare(seed)
        self._distribution = self._draw_from(self._restarts.current, None)

    @abstractmethod
    def _check(self, problem: Problem) -> None:
        """Refuse what this strategy does not solve."""

    @abstractmethod
    def _prepare(self, seed: int) -> None:
        """Make what all distributions of a run share, such as their source of normal numbers."""

    @abstractmethod
    def _draw_from(self, regime: Regime, numbers: Numbers | None) -> SearchDistribution:
        """The distribution of the next generation: the regime's first where there are no numbers."""

    @abstractmethod
    def _sample(self, trial: int) -> Vector:
        """A new point of the present distribution."""

    @property
    def generation_size(self) -> int:
        """λ of the present regime."""
        return self._restarts.current.population

    def ask(self, n: int) -> list[Proposal]:
        if n < 0:
            raise ValueError(f"can ask for 0 or more proposals, got {n}")
        return [self._propose() for _ in range(n)]

    def _propose(self) -> Proposal:
        trial, self._trials = self._trials, self._trials + 1
        given = trial and trial <= len(self._seeds)
        point = self._distribution.point(self._seeds[trial - 1]) if given else self._sample(trial)
        self._asked[trial] = Asked(point, self._generation)
        # The boundary's fold and its inverse round; the start must come back as it was given.
        genome = self._legal(self._distribution.genome(point)) if trial else self._start
        return Proposal(trial, genome, self._generation, fidelity=self._noise.fidelity)

    def _legal(self, genome: Vector) -> Genome:
        genome = genome[: len(self._start)]
        if not self._problem.domain.genes:
            return as_genome(genome)
        return as_genome(self._genes.canonical(genome[None, :])[0])

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        for evaluation in evaluations:
            check_evaluation(evaluation, self._trials, self._num_objectives)
        for evaluation in evaluations:
            if (asked := self._asked.pop(evaluation.trial, None)) is not None:
                self._receive(asked, evaluation)

    def learn(self, genome: Genome, evaluation: Evaluation) -> None:
        check_foreign(evaluation, self._num_objectives)
        self._guests += 1
        guest = replace(evaluation, trial=-self._guests)  # a number that no proposal has
        present = [i for i, answer in enumerate(self._answered) if answer.evaluation.trial < 0]
        if len(present) >= max(1, self.generation_size // GUESTS):
            self._remember(self._answered.pop(present[0]).evaluation)
        self._accept(Asked(self._distribution.point(genome), self._generation), guest)

    def _receive(self, asked: Asked, evaluation: Evaluation) -> None:
        failed = evaluation.values is None
        self._outcomes.append(not failed)
        self._restarts.spend(1)
        if failed and self._outcomes.count(False) <= self.generation_size:
            return
        if asked.birth < max(self._restarted, self._generation - MAX_AGE):
            self._remember(evaluation)
            return
        self._accept(asked, evaluation)

    def _accept(self, asked: Asked, evaluation: Evaluation) -> None:
        self._answered.append(Answered(asked, evaluation))
        if len(self._answered) >= self.generation_size:
            self._close_generation()

    def _close_generation(self) -> None:
        answered, self._answered = self._answered, []
        evaluations = [a.evaluation for a in answered]
        if all(e.values is None for e in evaluations):
            return  # nothing to compare: draw more from where we are
        stale = {i for i, a in enumerate(answered) if self._foreign(a)}
        numbers, stop = self._distribution.tell(
            [a.asked.point for a in answered], costs(evaluations, self._quality), stale
        )
        for evaluation in evaluations:
            self._remember(evaluation)
        self._noise.learn(evaluations)
        self._generation += 1
        if stop:
            self._restart()
        else:
            self._distribution = self._draw_from(self._restarts.current, numbers)

    def _restart(self) -> None:
        self._restarts.next()
        self._restarted = self._generation
        self._outcomes = deque(self._outcomes, maxlen=2 * self.generation_size)
        self._noise.restart()
        self._distribution = self._draw_from(self._restarts.current, None)

    def _foreign(self, answer: Answered) -> bool:
        """Whether it was drawn from an earlier distribution, or from none."""
        trial = answer.evaluation.trial
        return answer.asked.birth < self._generation or trial < 0 or 0 < trial <= len(self._seeds)

    def _quality(self, values: Matrix) -> Vector:
        return values[:, 0] if self._num_objectives == 1 else self._progress(values)

    def _remember(self, evaluation: Evaluation) -> None:
        if self._num_objectives > 1:
            self._progress.add(evaluation)

    def state(self) -> bytes:
        head = {
            "problem": self._problem.dump(),
            "seed": self._seed,
            "options": self._options.model_dump(),
            "trials": self._trials,
            "generation": self._generation,
            "guests": self._guests,
            "restarts": self._restarts.dump(),
            "restarted": self._restarted,
            "fidelity": self._noise.fidelity,
            "doubtful": self._noise.share,
            "outcomes": list(self._outcomes),
            "asked": {trial: asked.birth for trial, asked in self._asked.items()},
            "answered": [
                {"birth": a.asked.birth, "trial": a.evaluation.trial, "values": a.evaluation.values,
                 "violation": a.evaluation.violation, "errors": a.evaluation.errors}
                for a in self._answered
            ],
            "front": self._progress.front.members,
        }  # fmt: skip
        arrays: dict[str, Any] = {
            "asked": _stack([a.point for a in self._asked.values()]),
            "answered": _stack([a.asked.point for a in self._answered]),
            "front": self._progress.front.points,
            "low": self._progress.low,
            "high": self._progress.high,
        }
        numbers = self._distribution.numbers or {}
        arrays |= {f"distribution.{name}": value for name, value in numbers.items()}
        return pack(self.SCHEMA, head, {name: np.asarray(value) for name, value in arrays.items()})

    def _restore(self, head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        self._trials, self._generation, self._guests = head["trials"], head["generation"], head["guests"]
        self._restarts.load(head["restarts"])
        self._restarted = head["restarted"]
        self._noise.fidelity, self._noise.share = head["fidelity"], head["doubtful"]
        self._outcomes = deque(head["outcomes"], maxlen=2 * self.generation_size)
        self._asked = {
            int(trial): Asked(point, birth)
            for (trial, birth), point in zip(head["asked"].items(), arrays["asked"], strict=True)
        }
        self._answered = [
            Answered(Asked(point, answer["birth"]), _evaluation(answer))
            for answer, point in zip(head["answered"], arrays["answered"], strict=True)
        ]
        for trial, values in zip(head["front"], arrays["front"], strict=True):
            self._progress.front.add(trial, values.tolist())
        self._progress.low, self._progress.high = arrays["low"], arrays["high"]
        prefix = "distribution."
        numbers = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
        self._distribution = self._draw_from(self._restarts.current, numbers or None)


def _stack(points: list[Vector]) -> NDArray[np.float64]:
    return np.stack(points) if points else np.empty((0, 1))


def _evaluation(answer: Mapping[str, Any]) -> Evaluation:
    values, errors = (answer[key] and tuple(answer[key]) for key in ("values", "errors"))
    return Evaluation(answer["trial"], values, answer["violation"], errors)
