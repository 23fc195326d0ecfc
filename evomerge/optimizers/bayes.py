"""Bayesian search for small budgets: Gaussian processes say where an evaluation is worth most."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from evomerge.candidate import Evaluation, Genome, Proposal
from evomerge.errors import InvalidInputError
from evomerge.optimizers.blends import Nearby
from evomerge.optimizers.checks import check_evaluation, check_foreign, check_problem
from evomerge.optimizers.domain import Problem
from evomerge.optimizers.genes import Design, Genes, as_genome
from evomerge.optimizers.options import Option, Options, read
from evomerge.optimizers.state import Restorable, pack
from evomerge.optimizers.surrogate import Answers, below_front
from evomerge.seeds import generator

if TYPE_CHECKING:
    from evomerge.optimizers.gaussian import Belief

MOST_GENES, MOST_OBJECTIVES = 60, 4
"""Beyond these, other optimizers find as much for a thousandth of the time."""

FAILURES = 8
"""So many of the latest failed genomes count as pending: nobody goes there again soon."""

NEAR = 1e-3
"""A genome no further than this, in every gene, from one that is known or pending would teach little."""

SHAKE = 0.05
"""Standard deviation of a step away from such a one."""


class BayesOptions(Options):
    """Options of `BayesSearch`."""

    design: int | None = Field(
        default=None, ge=2,
        description="space-filling proposals before the first fit, start and seeds included; null: half as many as "
        "genes, 4 to 12, and the seeds, at most a third of the budget",
    )  # fmt: skip
    spread: float | None = Field(
        default=0.15, gt=0, le=1,
        description="standard deviation of space-filling points around the start; null: Sobol points everywhere",
    )  # fmt: skip
    most: int = Field(default=200, ge=4, le=1000, description="answers that are fitted; the best and newest are kept")
    crowd: int = Field(default=32, ge=1, le=128, description="beyond so many pending ones, proposals fill the space")
    samples: int = Field(default=64, ge=4, le=1024, description="of the posterior in each expected improvement")
    generation_size: int = Field(default=16, ge=1, description="proposals that are scored on the same items")


class BayesSearch(Restorable):
    """Bayesian optimization for up to some 100 evaluations of up to 60 real genes and 4 objectives.

    - **Design**: the start (trial 0), the domain's seeds, then steps from the start, or Sobol points everywhere.
    - **Then** a Gaussian process is fitted to each objective after every answer (`gaussian.Belief`), and each proposal
      maximises the expected improvement of the best, with several objectives that of the hypervolume, both by their
      logarithms, with noise taken into account. Noise is `Evaluation.errors` where these are known, else fitted.
    - **Pending proposals** count as evaluated with uncertain result, so workers do not crowd. The next fit waits for
      nobody: the design ends when it is drawn and half of it is answered.
    - **Constraints**: a process of the violation; the improvement counts as far as a genome is probably feasible.
    - **Failures** are not fitted. The latest of them stay pending, which keeps proposals away.
    - **Others' evaluations** (`learn`) are fitted, too.

    State is the latest and best `most` answers and the proposals without an answer, so it is bounded. Fits are
    functions of these and are not stored; a proposal's random numbers are a function of seed and trial. So a restored
    search asks the same, bit by bit, with the same build of torch on the same kind of processor. Elsewhere sums may be
    rounded otherwise and proposals may differ in the last digits, from there on in more; replay from stored proposals
    is exact everywhere.

    Args:
        problem: at most `MOST_GENES` real genes and `MOST_OBJECTIVES` objectives.
        seed: of the design and of all random numbers.
        options: see `BayesOptions`.

    Raises:
        InvalidInputError: an unknown option, a value out of range, too many genes or objectives, genes that are not
            real, or botorch is missing.
        ValueError: `start` is empty or leaves [0, 1].

    Source: Daulton, Balandat, Bakshy 2021, Parallel Bayesian Optimization of Multiple Noisy Objectives with Expected
    Hypervolume Improvement, arXiv:2105.08195; Ament et al. 2023, Unexpected Improvements to Expected Improvement,
    arXiv:2310.20708. For merging models: BAMBO, arXiv:2512.09972, whose priors on length-scales come from how far apart
    layers are; here from `GeneKind.step`.
    """

    Options: ClassVar[type[Options]] = BayesOptions
    SCHEMA: ClassVar[str] = "evomerge.optimizer.bayes/1"
    uses_responses: ClassVar[bool] = False

    def __init__(self, problem: Problem, *, seed: int, **options: Option) -> None:
        check_problem("bayes", problem, most_objectives=MOST_OBJECTIVES)
        if problem.domain.dim > MOST_GENES:
            allowed = f"an optimizer of {problem.domain.dim} genes, such as cma_es, m2n2 or nsga2"
            raise InvalidInputError("optimizer.name", "bayes", f"{allowed}; it takes {MOST_GENES} at most")
        self._problem, self._seed = problem, seed
        self._options = read(BayesOptions, options)
        _check_installed()
        self._steps = Genes(problem.domain).steps
        self._design = self._begin()
        self._trials = 0
        self._asked: dict[int, Genome] = {}
        self._failed: list[Genome] = []
        self._answers = Answers.none(problem.domain.dim, problem.num_objectives)
        self._belief: Belief | None = None  # of the answers so far, once somebody asks

    @property
    def generation_size(self) -> int:
        return self._options.generation_size

    @property
    def design_size(self) -> int:
        """Space-filling proposals before the first fit."""
        if self._options.design is not None:
            return self._options.design
        wanted = 1 + len(self._problem.domain.seeds) + int(np.clip(self._problem.domain.dim // 2, 4, 12))
        budget = self._problem.budget
        return wanted if budget is None else max(2, min(wanted, budget // 3))

    def _begin(self, drawn: int = 0) -> Design:
        if self._options.spread is None:
            return Design(self._problem.domain, self._seed, drawn)
        return Nearby(self._problem.domain, self._seed, drawn, spread=self._options.spread)

    def ask(self, n: int) -> list[Proposal]:
        if n < 0:
            raise ValueError(f"can ask for 0 or more proposals, got {n}")
        return [self._propose() for _ in range(n)]

    def _propose(self) -> Proposal:
        trial, self._trials = self._trials, self._trials + 1
        begun = self._design.drawn >= self.design_size and 2 * len(self._answers.values) >= max(4, self.design_size)
        fills = not begun or len(self._asked) >= self._options.crowd
        genome = self._design.next() if fills else self._best(generator(self._seed, "bayes", trial))
        self._asked[trial] = genome
        return Proposal(trial, genome, trial // self.generation_size)

    def _best(self, rng: np.random.Generator) -> Genome:
        if self._belief is None:
            self._belief = _gaussian().Belief(self._answers, self._steps)
        pending = np.reshape([*self._failed, *self._asked.values()], (-1, self._problem.domain.dim))
        found = self._belief.next(pending, self._options.samples, rng)
        known = np.vstack([self._answers.genomes, pending])
        if np.abs(known - found).max(axis=1).min() <= NEAR:
            found = np.clip(found + SHAKE * self._steps * rng.standard_normal(len(found)), 0.0, 1.0)
        return as_genome(found)

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        for evaluation in evaluations:
            check_evaluation(evaluation, self._trials, self._problem.num_objectives)
        for evaluation in evaluations:
            genome = self._asked.pop(evaluation.trial, None)
            if genome is None:
                continue
            if evaluation.values is None:
                self._failed = [*self._failed, genome][-FAILURES:]
            else:
                self._add(genome, evaluation)

    def learn(self, genome: Genome, evaluation: Evaluation) -> None:
        check_foreign(evaluation, self._problem.num_objectives)
        self._add(genome, evaluation)

    def _add(self, genome: Genome, evaluation: Evaluation) -> None:
        self._answers.add(genome, evaluation)
        if len(self._answers.values) > self._options.most:
            _forget(self._answers)
        self._belief = None

    def state(self) -> bytes:
        head = {
            "problem": self._problem.dump(),
            "seed": self._seed,
            "options": self._options.model_dump(),
            "trials": self._trials,
            "drawn": self._design.drawn,
            "asked": list(self._asked),
        }
        genes = self._problem.domain.dim
        arrays: dict[str, NDArray[Any]] = {
            "asked": np.reshape(list(self._asked.values()), (-1, genes)),
            "failed": np.reshape(self._failed, (-1, genes)),
            "genomes": self._answers.genomes,
            "values": self._answers.values,
            "errors": self._answers.errors,
            "violations": self._answers.violations,
        }
        return pack(self.SCHEMA, head, arrays)

    def _restore(self, head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        self._trials, self._design = head["trials"], self._begin(head["drawn"])
        self._asked = {t: as_genome(row) for t, row in zip(head["asked"], arrays["asked"], strict=True)}
        self._failed = [as_genome(row) for row in arrays["failed"]]
        self._answers = Answers(arrays["genomes"], arrays["values"], arrays["errors"], arrays["violations"])


def _forget(answers: Answers) -> None:
    """Drop the worst of the older half: by violation, then by depth below the front, then the oldest."""
    half = len(answers.values) // 2
    depth = below_front(answers.values)[:half]
    worst = np.lexsort((-np.arange(half), depth, answers.violations[:half]))[-1]
    answers.genomes, answers.values, answers.errors = (
        np.delete(rows, worst, axis=0) for rows in (answers.genomes, answers.values, answers.errors)
    )
    answers.violations = np.delete(answers.violations, worst)


def _check_installed() -> None:
    for package in ("botorch", "gpytorch", "linear_operator"):
        if importlib.util.find_spec(package) is None:
            allowed = f"{package} to be installed: pip install 'evomerge[bayes]'"
            raise InvalidInputError("optimizer.name", "bayes", allowed)


def _gaussian() -> Any:
    """The module that imports botorch, when it is first needed: that takes seconds, and few runs name it."""
    return importlib.import_module("evomerge.optimizers.gaussian")
