"""Optimizers of the nevergrad package, made restorable by doing the same calls again."""

from __future__ import annotations

import importlib
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from evomerge.candidate import Evaluation, Genome, Proposal
from evomerge.errors import InvalidInputError
from evomerge.optimizers.checks import check_evaluation, check_problem
from evomerge.optimizers.domain import Problem
from evomerge.optimizers.genes import Genes, as_genome
from evomerge.optimizers.options import Option, Options, read
from evomerge.optimizers.state import pack, unpack
from evomerge.seeds import derive

ALGORITHMS = (
    "CMA", "DE", "DiagonalCMA", "NgIohTuned", "OnePlusOne", "PSO", "RandomSearch", "TBPSA", "TwoPointsDE",
)  # fmt: skip
"""Those that were seen to take answers out of order and to leave some out, with the installed packages."""

BROKEN = ("MetaModel", "NGOpt", "NGOptRW")
"""Those that fail with NumPy 2.4 and newer, whose arrays of one element don't become numbers any more."""

UNKNOWN_BUDGET = 1000
"""Evaluations that an algorithm is told to expect where nobody knows."""

WORKERS = 20
"""Evaluations that an algorithm is told to expect at the same time. With one, some wait for each answer in a thread."""


class NevergradOptions(Options):
    """Options of `NevergradSearch`."""

    algorithm: str = Field(default="TwoPointsDE", description=f"one of {', '.join(ALGORITHMS)}")
    sigma: float = Field(default=0.15, gt=0, le=0.5, description="step size of mutations, a share of each gene's range")
    generation_size: int = Field(default=16, ge=1, description="proposals that are scored on the same items")


class NevergradSearch:
    """An optimizer of nevergrad under our contract.

    - **Trial 0** is the start, the domain's seeds follow, both by nevergrad's `suggest`.
    - **Genes with ordered choices** are drawn as reals and put on their grid; gates close. Categories need `catcma`.
    - **Failures** are not told.
    - **Constraints**: an infeasible candidate costs more than the worst feasible one so far, the more the larger its
      violation (Deb 2000); the unit is the range of feasible values.
    - **Several objectives** are told as such; nevergrad reduces them to hypervolume.

    State is the log of what was asked and told, and restoring does all of it again: nevergrad's own state is a pickle,
    and no list of attributes would be right for nine algorithms. So, other than elsewhere, state grows with the run: 24
    bytes an answer with one objective, and restoring takes as long as the calls did (docs/adr/0019-mixed-genes.md has
    the times). Every call runs with NumPy's and Python's global generators seeded for it and put back after it: some
    algorithms read them.

    Args:
        problem: its start is the first proposal.
        seed: of all random numbers.
        options: see `NevergradOptions`.

    Raises:
        InvalidInputError: an unknown option, an algorithm that is not allowed, genes that are categories, or the
            package is missing.
        ValueError: `start` is empty or leaves [0, 1].

    Source: Rapin and Teytaud 2018, Nevergrad: a gradient-free optimization platform.
    """

    Options: ClassVar[type[Options]] = NevergradOptions
    SCHEMA: ClassVar[str] = "evomerge.optimizer.nevergrad/1"
    uses_responses: ClassVar[bool] = False

    def __init__(self, problem: Problem, *, seed: int, **options: Option) -> None:
        check_problem("nevergrad", problem, mixed=True)
        if any((kind.choices or 0) > 2 and not kind.ordered for kind in problem.domain.kinds):
            allowed = "an optimizer of categories, such as catcma: some genes of this space are mere names"
            raise InvalidInputError("optimizer.name", "nevergrad", allowed)
        self._problem, self._seed = problem, seed
        self._options = read(NevergradOptions, options)
        _check_algorithm(self._options.algorithm)
        self._genes = Genes(problem.domain)
        self._start = tuple(map(float, problem.start))
        self._calls = 0  # of the library: each has random numbers of its own
        self._asked: dict[int, Any] = {}  # trial → the library's candidate
        self._trials = 0
        self._told: list[tuple[int, int, tuple[float, ...]]] = []  # (proposals before it, trial, costs)
        self._answered: set[int] = set()
        self._worst = np.full(problem.num_objectives, -np.inf)  # of feasible costs
        self._best = np.full(problem.num_objectives, np.inf)
        self._search = self._make()

    @property
    def generation_size(self) -> int:
        return self._options.generation_size

    def _make(self) -> Any:
        ng = _nevergrad()
        domain = self._problem.domain
        with self._isolated():
            array = ng.p.Array(init=np.array(self._start), lower=0.0, upper=1.0)
            array.set_mutation(sigma=self._options.sigma)
            array.random_state = np.random.RandomState(derive(self._seed, "nevergrad") % 2**32)
            budget = self._problem.budget or UNKNOWN_BUDGET
            kind = ng.optimizers.registry[self._options.algorithm]
            search = kind(parametrization=array, budget=budget, num_workers=WORKERS)
            if self._problem.num_objectives > 1:
                search.num_objectives = self._problem.num_objectives
            for genome in reversed((self._start, *domain.seeds)):  # the latest suggestion is asked first
                search.suggest(np.array(genome, dtype=np.float64))
        return search

    def ask(self, n: int) -> list[Proposal]:
        if n < 0:
            raise ValueError(f"can ask for 0 or more proposals, got {n}")
        return [self._propose() for _ in range(n)]

    def _propose(self) -> Proposal:
        trial = self._trials
        with self._isolated():
            candidate = self._search.ask()
        self._asked[trial] = candidate
        self._trials += 1
        genome = self._legal(np.asarray(candidate.value)) if trial else self._start
        return Proposal(trial, genome, trial // self.generation_size)

    def _legal(self, values: NDArray[np.float64]) -> Genome:
        return as_genome(self._genes.canonical(values[None, :])[0])

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        for evaluation in evaluations:
            check_evaluation(evaluation, self._trials, self._problem.num_objectives)
        for evaluation in evaluations:
            if evaluation.trial not in self._answered:
                self._answered.add(evaluation.trial)
                self._learn(evaluation.trial, self._costs(evaluation))

    def _costs(self, evaluation: Evaluation) -> tuple[float, ...]:
        """One an objective, smaller is better; none where there is nothing to tell."""
        if evaluation.values is None:
            return ()
        if not evaluation.violation:
            costs = -np.array(evaluation.values)
            self._worst, self._best = np.maximum(self._worst, costs), np.minimum(self._best, costs)
            return tuple(costs.tolist())
        worst, best = (np.where(np.isfinite(bound), bound, 0.0) for bound in (self._worst, self._best))
        spread = worst - best
        return tuple((worst + np.where(spread > 0, spread, 1.0) * (1 + evaluation.violation)).tolist())

    def _learn(self, trial: int, costs: tuple[float, ...]) -> None:
        candidate = self._asked.pop(trial)
        self._told.append((self._trials, trial, costs))
        if costs:
            with self._isolated():
                self._search.tell(candidate, costs[0] if len(costs) == 1 else list(costs))

    @contextmanager
    def _isolated(self) -> Iterator[None]:
        """Global generators seeded for this call, and put back afterwards."""
        numpy_state, python_state = np.random.get_state(legacy=False), random.getstate()
        seed = derive(self._seed, "nevergrad", "call", self._calls) % 2**32
        self._calls += 1
        try:
            np.random.seed(seed)
            random.seed(seed)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about budgets, suggestions and divisions inside
                yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)

    def state(self) -> bytes:
        head = {
            "problem": self._problem.dump(),
            "seed": self._seed,
            "options": self._options.model_dump(),
            "trials": self._trials,
        }
        costs = np.full((len(self._told), self._problem.num_objectives), np.nan)
        for row, (_, _, told) in zip(costs, self._told, strict=True):
            row[: len(told)] = told
        order = np.reshape([(asked, trial) for asked, trial, _ in self._told], (-1, 2)).astype(np.int64)
        return pack(self.SCHEMA, head, {"order": order, "costs": costs, "worst": self._worst, "best": self._best})

    @classmethod
    def from_state(cls, state: bytes) -> Self:
        head, arrays = unpack(cls.SCHEMA, state)
        search = cls(Problem.load(head["problem"]), seed=head["seed"], **head["options"])
        search._replay(head, arrays)
        return search

    def _replay(self, head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        for (asked, trial), costs in zip(arrays["order"].tolist(), arrays["costs"], strict=True):
            self.ask(asked - self._trials)
            self._answered.add(trial)
            self._learn(trial, () if np.isnan(costs).any() else tuple(costs.tolist()))
        self.ask(head["trials"] - self._trials)
        self._worst, self._best = arrays["worst"], arrays["best"]


def _nevergrad() -> Any:
    """The package, imported when it is first needed: it takes seconds, and few runs name it."""
    state = np.random.get_state(legacy=False), random.getstate()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("nevergrad")
    except ImportError as error:
        allowed = f"nevergrad to be installed: pip install 'evomerge[nevergrad]' ({error})"
        raise InvalidInputError("optimizer.name", "nevergrad", allowed) from error
    finally:
        np.random.set_state(state[0])
        random.setstate(state[1])


def _check_algorithm(name: str) -> None:
    if name in ALGORITHMS:
        return
    allowed = f"one of {', '.join(ALGORITHMS)}"
    version = tuple(map(int, np.__version__.split(".")[:2]))
    if name in BROKEN and version >= (2, 4):
        allowed += f"; nevergrad's {name} fails with NumPy {np.__version__} (2.4 and newer)"
    raise InvalidInputError("optimizer.options.algorithm", name, allowed)
