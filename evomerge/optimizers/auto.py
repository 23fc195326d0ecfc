"""The default: picks an optimizer by what there is to search, and says why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from evomerge.candidate import Estimate, Evaluation, Genome, ItemAnswers, Proposal
from evomerge.optimizers.domain import Problem
from evomerge.optimizers.optimizer import Optimizer, uses_items
from evomerge.optimizers.options import Option, Options, read
from evomerge.optimizers.state import pack, unpack
from evomerge.optimizers.thompson import MOST_OBJECTIVES

FEW = 20
"""Evaluations a gene below which a full covariance matrix is not learnt in time (Ros and Hansen 2008)."""


CLOSE = 0.05
"""First step of a search for one objective. The start is the plain average, most merges far from it are broken, and a
step that is too small grows. On toy merges it found more than 0.15 in 50 to 200 evaluations, and within the spread as
much later (experiments/benchmarks/toy_merge)."""
MANY, ENOUGH = 8, 100
"""Genes and evaluations from which NSGA-II finds better fronts of two objectives than CMA-ES does: measured in
experiments/several_objectives. With more objectives CMA-ES is ahead there."""


LEVELS, FEWEST, SHORT = 8, 24, 1000
"""Up to how many genes, from how many evaluations on and up to how many `thompson` is taken where all genes are ordered
choices: there it is ahead of CatCMA from 640 answers on, level at 320 and behind with a handful of candidates (measured
over three genes in experiments/few_items_search). With two or three objectives it finds more of the front than NSGA-II
does with as many candidates (experiments/real_fronts)."""


class AutoOptions(Options):
    """`Auto` has no options: whoever wants some names the optimizer."""


@dataclass(frozen=True, slots=True)
class Choice:
    """An optimizer, its options, and why it was picked, as a person says it."""

    name: str
    options: dict[str, Option]
    why: str


def choose(problem: Problem) -> Choice:
    """What `auto` takes for a problem."""
    domain, objectives = problem.domain, problem.num_objectives
    if domain.lineage is not None:
        return Choice(
            "m2n2", {}, "candidates descend from each other, and m2n2 chooses parents that complement each other"
        )
    several = f"{objectives} objectives"
    if not domain.real:
        if _few_levels(problem) and objectives <= MOST_OBJECTIVES:
            why = "what answers to items say of all is sampled"
            return Choice(
                "thompson", {}, f"{domain.dim} ordered choices{f', {several}' if objectives > 1 else ''}: {why}"
            )
        if objectives > 1:
            return Choice("nsga2", {}, f"not all genes are real numbers, and there are {several}")
        return Choice("catcma", {}, "not all genes are real numbers: categories need probabilities of their own")
    if objectives == 2 and domain.dim >= MANY and (problem.budget or ENOUGH) >= ENOUGH:
        return Choice("nsga2", {}, f"{several} over {domain.dim} real genes: a population covers such a front best")
    why = f"{domain.dim} real genes"
    if _few(problem):
        why = f"{problem.budget} candidates are less than {FEW} for each of {domain.dim} genes: variances only"
    return Choice("cma_es", cma_es_options(problem), f"{why}{f', {several}' if objectives > 1 else ''}")


def cma_es_options(problem: Problem) -> dict[str, Option]:
    """What suits CMA-ES on a problem better than its own defaults, which know neither budget nor objectives."""
    options: dict[str, Option] = {"diagonal": True} if _few(problem) else {}
    return options | ({"sigma": CLOSE} if problem.num_objectives == 1 else {})


def _few_levels(problem: Problem) -> bool:
    kinds = problem.domain.kinds
    ordered = all(kind.choices is not None and kind.ordered and kind.gate is None for kind in kinds)
    return ordered and len(kinds) <= LEVELS and FEWEST <= (problem.budget or 0) <= SHORT


def _few(problem: Problem) -> bool:
    return problem.budget is not None and problem.budget < FEW * problem.domain.dim


class Auto:
    """The optimizer that suits the space, the objectives and the budget; the run's log says which, and why.

    Args:
        problem: decides (see `choose`).
        seed: handed on.

    Raises:
        InvalidInputError: an option was given.
        ValueError: the start leaves [0, 1].
    """

    Options: ClassVar[type[Options]] = AutoOptions
    SCHEMA: ClassVar[str] = "evomerge.optimizer.auto/1"

    def __init__(self, problem: Problem, *, seed: int, **options: Option) -> None:
        from evomerge.optimizers.registry import make  # which knows this class, too

        read(AutoOptions, options)
        choice = choose(problem)
        self._name, self.explanation = choice.name, f"auto took {choice.name}: {choice.why}"
        self._chosen: Optimizer = make(choice.name, problem, seed=seed, **choice.options)

    @property
    def uses_responses(self) -> bool:
        return self._chosen.uses_responses

    @property
    def uses_items(self) -> bool:
        return uses_items(self._chosen)

    def know(self, answers: tuple[ItemAnswers, ...]) -> None:
        if uses_items(self._chosen):
            self._chosen.know(answers)

    def believed(self, genomes: Sequence[Genome], objective: int = 0) -> list[Estimate | None]:
        return self._chosen.believed(genomes, objective) if uses_items(self._chosen) else [None] * len(genomes)

    def ask(self, n: int) -> list[Proposal]:
        return self._chosen.ask(n)

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        self._chosen.tell(evaluations)

    def state(self) -> bytes:
        head = {"name": self._name, "explanation": self.explanation}
        return pack(self.SCHEMA, head, {"state": np.frombuffer(self._chosen.state(), np.uint8)})

    @classmethod
    def from_state(cls, state: bytes) -> Self:
        from evomerge.optimizers.registry import restore

        head, arrays = unpack(cls.SCHEMA, state)
        auto = cls.__new__(cls)
        auto._name, auto.explanation = head["name"], head["explanation"]
        auto._chosen = restore(head["name"], arrays["state"].tobytes())
        return auto
