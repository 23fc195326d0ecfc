"""COMO-CMA-ES: several CMA-ES spread themselves over a front, for answers that come out of order."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from evomerge.archive import non_dominated
from evomerge.candidate import Evaluation, Genome, Proposal
from evomerge.optimizers.checks import check_evaluation, check_problem
from evomerge.optimizers.cma_es import FULL_GENES, Normal
from evomerge.optimizers.distribution import Settings, Vector
from evomerge.optimizers.domain import Problem
from evomerge.optimizers.genes import as_genome
from evomerge.optimizers.kernel import Kernel, Sample
from evomerge.optimizers.mixed import MixedSettings
from evomerge.optimizers.options import Option, Options, read
from evomerge.optimizers.ranking import Matrix, worth
from evomerge.optimizers.state import Restorable, pack
from evomerge.seeds import derive, generator

KERNELS = 5
"""Kernels where the budget is not known."""

UPDATES = 15
"""So often each kernel can learn within a known budget, if there then are from 3 to 20 kernels."""


class ComoOptions(Options):
    """Options of every search by kernels."""

    kernels: int | None = Field(
        default=None, ge=1, le=1000,
        description=f"CMA-ES that share the front; null: so many that each learns {UPDATES} times, 3 to 20",
    )  # fmt: skip
    population: int | None = Field(
        default=None, ge=4, le=100_000, description="samples per generation of a kernel; null: 4 + 3 ln(genes)"
    )
    sigma: float = Field(default=0.15, gt=0, le=0.5, description="initial step size, a share of each gene's range")
    spread: float = Field(
        default=0.15, ge=0, le=1.0, description="standard deviation of the kernels' first means around the start"
    )


class ComoCmaEsOptions(ComoOptions):
    """Options of `ComoCmaEs`."""

    diagonal: bool | Literal["auto"] = Field(
        default="auto", description=f"learn variances only; auto: with more than {FULL_GENES} genes"
    )


class Frame:
    """The scale in which improvements of the front are measured; it adapts to what was told.

    Each objective is divided by its range over all feasible evaluations, and the reference lies `MARGIN` of that range
    below the front's worst: far enough that it pays to go for the front's ends. Of the front only the best in each
    objective are remembered, besides the kernels' places: so the memory is bounded.
    """

    MARGIN = 0.3

    def __init__(self, num_objectives: int) -> None:
        self.low = np.full(num_objectives, np.inf)
        self.extremes = np.empty((0, num_objectives))

    def add(self, values: tuple[float, ...]) -> None:
        """Remember a feasible evaluation, if it is the best in an objective."""
        self.low = np.minimum(self.low, values)
        points = np.vstack([self.extremes, [values]])
        best = [np.lexsort((points.sum(axis=1), points[:, k]))[-1] for k in range(len(values))]
        self.extremes = points[sorted(set(map(int, best)))]

    def worth(self, values: Matrix, others: Matrix) -> Vector:
        """The uncrowded improvement of each row of values over the others, larger is better."""
        known = np.vstack([self.extremes, others, values])
        front = known[non_dominated(known)]
        low, high = np.minimum(self.low, known.min(axis=0)), known.max(axis=0)
        scale = np.where(high > low, high - low, 1.0)
        reference = front.min(axis=0) / scale - self.MARGIN
        return np.array([worth(point, others / scale, reference) for point in values / scale])

    def contributions(self, points: Matrix) -> Vector:
        """What each point alone adds to the others."""
        return np.array([self.worth(points[[i]], np.delete(points, i, axis=0))[0] for i in range(len(points))])


class Retired:
    """Where kernels converged: places of the front that are taken; of many the latest.

    Attributes:
        places: genomes, shape [points, genes].
        values: shape [points, objectives].
    """

    MOST = 100

    def __init__(self, genes: int, num_objectives: int) -> None:
        self.places, self.values = np.empty((0, genes)), np.empty((0, num_objectives))

    def add(self, place: Genome, values: tuple[float, ...]) -> None:
        """Remember a place, and forget those that are dominated now."""
        places, points = np.vstack([self.places, [place]]), np.vstack([self.values, [values]])
        kept = np.flatnonzero(non_dominated(points))[-self.MOST :]
        self.places, self.values = places[kept], points[kept]

    def genomes(self) -> list[Genome]:
        return [as_genome(row) for row in self.places]


class Como(Restorable):
    """Kernels that share a front, whatever they draw from; `ComoCmaEs` says how it goes."""

    Options: ClassVar[type[Options]]
    SCHEMA: ClassVar[str]
    uses_responses: ClassVar[bool] = False

    _options: ComoOptions

    def __init__(self, problem: Problem, *, seed: int, **options: Option) -> None:
        self._check(problem)
        read_options = read(self.Options, options)
        assert isinstance(read_options, ComoOptions)
        self._problem, self._seed, self._options = problem, seed, read_options
        self._normal = Normal(derive(seed, "como_cma_es"))
        self._trials = self._updates = self._turn = 0
        self._asked: dict[int, Sample] = {}
        self._frame = Frame(problem.num_objectives)
        self._retired = Retired(self._width, problem.num_objectives)
        self._kernels = [Kernel(self._settings(number)) for number in range(self.num_kernels)]

    @abstractmethod
    def _check(self, problem: Problem) -> None:
        """Refuse what these kernels do not solve."""

    @abstractmethod
    def _settings(self, number: int) -> Settings | MixedSettings:
        """Where a kernel begins."""

    def _legal(self, genome: Genome) -> Genome:
        """What is proposed for a genome that a kernel drew."""
        return genome[: self._problem.domain.dim]

    @property
    def num_kernels(self) -> int:
        """How many places of the front are searched for."""
        if self._options.kernels is not None:
            return self._options.kernels
        if self._problem.num_objectives == 1:
            return 1
        budget = self._problem.budget
        return KERNELS if budget is None else min(20, max(3, budget // (UPDATES * (self.generation_size + 1))))

    @property
    def generation_size(self) -> int:
        """λ of each kernel."""
        return self._options.population or 4 + int(3 * math.log(self._problem.domain.dim))

    @property
    def _width(self) -> int:
        """Length of a point."""
        return self._problem.domain.dim

    def _first_mean(self, number: int) -> Genome:
        domain = self._problem.domain
        if number < 1 + len(domain.seeds):
            return tuple(map(float, (domain.start, *domain.seeds)[number]))
        step = self._options.spread * generator(self._seed, "como_cma_es", "mean", number).standard_normal(domain.dim)
        return tuple(np.clip(np.add(domain.start, step), 0.0, 1.0).tolist())

    def ask(self, n: int) -> list[Proposal]:
        if n < 0:
            raise ValueError(f"can ask for 0 or more proposals, got {n}")
        return [self._propose() for _ in range(n)]

    def _propose(self) -> Proposal:
        trial, self._trials = self._trials, self._trials + 1
        new_means = [number for number, kernel in enumerate(self._kernels) if kernel.due]
        number, mean = (new_means[0], True) if new_means else (self._next(), False)
        kernel = self._kernels[number]
        self._normal.trial = 0 if mean else trial  # row 0 is zeros, which give the mean
        point = kernel.draw()
        self._asked[trial] = Sample(number, kernel.generation, point, mean)
        if mean:
            kernel.due = False
        else:
            kernel.outstanding += 1
        genome = self._legal(kernel.genome(point))
        # The boundary's fold and its inverse round; the start must come back as it was given.
        return Proposal(trial, genome if trial else tuple(map(float, self._problem.start)), self._generation)

    @property
    def _generation(self) -> int:
        return self._updates // len(self._kernels)

    def _next(self) -> int:
        """The kernel to sample from: the one whose turn it is until its generation is full, then the next."""
        kernels = self._kernels
        turns = [(self._turn + step) % len(kernels) for step in range(len(kernels))]
        open_ones = [number for number in turns if kernels[number].load < kernels[number].size]
        if open_ones:
            self._turn = open_ones[0]
            return open_ones[0]
        return min(turns, key=lambda number: kernels[number].load)

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        for evaluation in evaluations:
            check_evaluation(evaluation, self._trials, self._problem.num_objectives)
        for evaluation in evaluations:
            if (sample := self._asked.pop(evaluation.trial, None)) is not None:
                self._receive(sample, evaluation)

    def _receive(self, sample: Sample, evaluation: Evaluation) -> None:
        kernel = self._kernels[sample.kernel]
        if evaluation.values is not None and not evaluation.violation:
            self._frame.add(evaluation.values)
        if sample.mean:
            kernel.judge(sample, evaluation)
        elif kernel.receive(sample, evaluation):
            self._updates += 1
            if self._turn == sample.kernel:
                self._turn = (sample.kernel + 1) % len(self._kernels)
            if kernel.close(self._quality(sample.kernel)):
                self._retire(kernel)

    def _others(self, number: int) -> Matrix:
        """Values of all that a kernel must improve on, shape [points, objectives]."""
        incumbents = [k.incumbent for i, k in enumerate(self._kernels) if i != number and k.incumbent is not None]
        return np.vstack([np.reshape(incumbents, (-1, self._problem.num_objectives)), self._retired.values])

    def _quality(self, number: int) -> Callable[[Matrix], Vector]:
        return partial(self._frame.worth, others=self._others(number))

    def _retire(self, kernel: Kernel) -> None:
        """Let a kernel that is done begin again where the front is thinnest; its incumbent stays on the front."""
        if kernel.incumbent is not None:
            self._retired.add(kernel.place, kernel.incumbent)
        places = [k.place for k in self._kernels if k.incumbent is not None and k is not kernel]
        everywhere = [*places, *self._retired.genomes()]
        if not everywhere:
            kernel.begin_again(kernel.place)
            return
        values = self._others(self._kernels.index(kernel))
        kernel.begin_again(everywhere[int(self._frame.contributions(values).argmax())])

    def state(self) -> bytes:
        dumps = [kernel.dump() for kernel in self._kernels]
        head = {
            "problem": self._problem.dump(),
            "seed": self._seed,
            "options": self._options.model_dump(),
            "trials": self._trials,
            "updates": self._updates,
            "turn": self._turn,
            "asked": [[trial, s.kernel, s.birth, s.mean] for trial, s in self._asked.items()],
            "kernels": [head for head, _ in dumps],
        }
        points = [sample.point for sample in self._asked.values()]
        arrays: dict[str, NDArray[Any]] = {
            "asked": np.reshape(points, (-1, self._width)),
            "low": self._frame.low,
            "extremes": self._frame.extremes,
            "retired.places": self._retired.places,
            "retired.values": self._retired.values,
        }
        for number, (_, numbers) in enumerate(dumps):
            arrays |= {f"{number}/{name}": value for name, value in numbers.items()}
        return pack(self.SCHEMA, head, arrays)

    def _restore(self, head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        self._trials, self._updates, self._turn = head["trials"], head["updates"], head["turn"]
        self._asked = {
            trial: Sample(kernel, birth, point, mean)
            for (trial, kernel, birth, mean), point in zip(head["asked"], arrays["asked"], strict=True)
        }
        self._retired.places, self._retired.values = arrays["retired.places"], arrays["retired.values"]
        self._frame.low, self._frame.extremes = arrays["low"], arrays["extremes"]
        self._kernels = [
            Kernel.load_from(self._settings(number), of_kernel, _under(f"{number}/", arrays))
            for number, of_kernel in enumerate(head["kernels"])
        ]


class ComoCmaEs(Como):
    """COMO-CMA-ES in the order of arrival: p CMA-ES (pycma), each to one place of the front.

    Each kernel samples λ candidates and ranks them by the uncrowded hypervolume improvement over the *incumbents* (the
    evaluated means) of the other kernels: what it would add to the front that they make together. After each of its
    generations its new mean is evaluated, too. So p means converge to p points whose hypervolume is the largest, each
    with a covariance of its own.

    - **Order**: means that are new first, then the kernels in turn, a generation each, so that each learns against the
      latest incumbents. Nothing waits: when all kernels have their λ samples under way, further ones are drawn from
      the kernel with the fewest. Late answers, failures and constraints are as in `CmaEs`.
    - **First means**: the start (trial 0), the domain's seeds, then normal steps from the start.
    - **A kernel that is done**, because its steps became small or pycma would stop, leaves its incumbent on the front
      (`Retired`) and begins again at the place that alone adds most hypervolume, which is where the front is thinnest.
      The paper's kernels converge for good, which suits budgets that are spent when they do.
    - **With one objective** there is one kernel by default: CMA-ES that evaluates its mean.

    The framework's authors' own package is not used: its state is a pickle of pycma's objects, it draws from NumPy's
    global generator, and it wants whole generations. Here the kernels stand on `distribution`, whose state is exact.
    As in `UncrowdedImprovement`, the distance of dominated points is the maximum norm, and scale and reference adapt.

    State is bounded: p times the numbers of a distribution (dominated by genes² each, or genes if diagonal), samples
    without an answer, answers that wait, at most `Retired.MOST` places.

    Args:
        problem: real genes.
        seed: of the normal numbers.
        options: see `ComoCmaEsOptions`.

    Raises:
        InvalidInputError: an unknown option, a value out of range, or genes that are no real numbers.
        ValueError: `start` is empty or leaves [0, 1].

    Source: Touré, Hansen, Auger, Brockhoff 2019, Uncrowded Hypervolume Improvement: COMO-CMA-ES and the Sofomore
    Framework, arXiv:1904.08823, algorithms 1 and 2.
    """

    Options: ClassVar[type[Options]] = ComoCmaEsOptions
    SCHEMA: ClassVar[str] = "evomerge.optimizer.como_cma_es/1"

    _options: ComoCmaEsOptions

    def _check(self, problem: Problem) -> None:
        check_problem("como_cma_es", problem)

    @property
    def _width(self) -> int:
        return max(2, self._problem.domain.dim)  # pycma needs two genes: nobody sees the second one

    def _settings(self, number: int) -> Settings:
        start, diagonal = self._first_mean(number), self._options.diagonal
        return Settings(
            start=start if len(start) > 1 else (*start, 0.5),
            sigma=self._options.sigma,
            population=self.generation_size,
            diagonal=len(start) > FULL_GENES if diagonal == "auto" else bool(diagonal),
            normal=self._normal,
        )


def _under(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
