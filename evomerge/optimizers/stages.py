"""One group of genes after the other, such as keep ratios first and signed weights then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import Field

from evomerge.candidate import Evaluation, Genome, Proposal
from evomerge.errors import InvalidInputError
from evomerge.optimizers.checks import check_evaluation, check_problem
from evomerge.optimizers.domain import Domain, GeneKind, Problem
from evomerge.optimizers.genes import Genes, as_genome
from evomerge.optimizers.optimizer import Optimizer
from evomerge.optimizers.options import Option, Options, read
from evomerge.optimizers.state import pack, unpack
from evomerge.seeds import derive

ORDER = ("density", "weight")
"""The paper's: what to keep of each source, then how much it counts."""
UNKNOWN = 1200
"""Evaluations to share out where nobody says how many there will be: the paper's 400 and 800."""


class StagedOptions(Options):
    """Options of `Staged`."""

    order: str | None = Field(
        default=None,
        description="groups of genes in the order in which they are searched, comma between them: names of parameters; "
        "the rest goes with the last. null: density,weight, as far as the space has them",
    )
    shares: str | None = Field(
        default=None,
        description="shares of the evaluations, one a group, comma between them; null: each group twice as much as the "
        "one before",
    )
    population: int | None = Field(
        default=None, ge=4, le=100_000, description="evaluations per generation; null: 4 + 3 ln(genes)"
    )
    sigma: float = Field(default=0.15, gt=0, le=0.5, description="initial step size, a share of each gene's range")


@dataclass(frozen=True, slots=True)
class Stage:
    """What is searched together.

    Attributes:
        name: of the group.
        genes: their numbers in a genome.
        evaluations: answers after which the next stage begins.
    """

    name: str
    genes: tuple[int, ...]
    evaluations: int


@dataclass(frozen=True, slots=True)
class Best:
    """The best candidate so far; none was told yet if its value is None."""

    genome: Genome
    value: float | None = None
    violation: float = 0.0

    def behind(self, evaluation: Evaluation) -> bool:
        """Whether an evaluation is better: feasible before infeasible (Deb 2000), failures never."""
        if evaluation.values is None:
            return False
        theirs = (-evaluation.violation, evaluation.values[0])
        return self.value is None or theirs > (-self.violation, self.value)


@dataclass(frozen=True, slots=True)
class Asked:
    """A proposal without an answer: its genome, its stage, and its number there (None: a seed)."""

    genome: Genome
    stage: int
    trial: int | None


def stages_of(problem: Problem, options: StagedOptions) -> tuple[Stage, ...]:
    """The groups that there are, and how long each is searched.

    Raises:
        InvalidInputError: groups that the space does not have, or shares that do not fit.
    """
    kinds = problem.domain.kinds
    names = _names(options, {kind.group for kind in kinds})
    shares = _shares(options, len(names))
    budget = problem.budget or UNKNOWN
    last = len(names) - 1
    groups = [[i for i, kind in enumerate(kinds) if kind.group == name] for name in names]
    named = {i for group in groups for i in group}
    groups[last] += [i for i in range(len(kinds)) if i not in named]
    return tuple(
        Stage(name, tuple(sorted(group)), max(1, round(budget * share)))
        for name, group, share in zip(names, groups, shares, strict=True)
    )


def _names(options: StagedOptions, known: set[str]) -> list[str]:
    if options.order is None:
        return [name for name in ORDER if name in known] or ["all"]
    names = [name.strip() for name in options.order.split(",")]
    if len(set(names)) < len(names) or not set(names) <= known:
        allowed = f"different ones of {', '.join(sorted(known - {''})) or 'none: no gene of this space has a group'}"
        raise InvalidInputError("optimizer.options.order", options.order, allowed)
    return names


def _shares(options: StagedOptions, number: int) -> list[float]:
    if options.shares is None:
        shares = [2.0**i for i in range(number)]
    else:
        try:
            shares = [float(share) for share in options.shares.split(",")]
        except ValueError:
            shares = []
    if len(shares) != number or not all(0 < share < float("inf") for share in shares):
        allowed = f"{number} positive numbers, comma between them"
        raise InvalidInputError("optimizer.options.shares", options.shares, allowed)
    return [share / sum(shares) for share in shares]


class Staged:
    """Groups of genes one after the other, each by CMA-ES with the others fixed at the best so far (Evo-Merging).

    - **Stages** follow the order of `StagedOptions.order`; `explanation` says which there are. A stage ends with the
      answer that fills its share of the budget; answers to what an earlier stage asked for still count for the best.
      The last one goes on as long as it is asked.
    - **A stage begins** at the best candidate so far: it is evaluated again, on the items of its own generation. The
      first one begins at the start; the domain's seeds follow the start, whole.
    - **Within a stage** CMA-ES does what it does (`EvolutionStrategy`); with categories, CatCMA.

    Of the paper this leaves out the penalties on the mean of the keep ratios and of |weights|: objectives are the
    run's. Its search begins with everything kept and a small step (0.05, population 20); here the start is the space's.

    The state is the inner optimizer's, the best genome and the outstanding ones: bounded.

    Args:
        problem: genes with `GeneKind.group`; its budget is shared out.
        seed: of the stages' optimizers.
        options: see `StagedOptions`.

    Raises:
        InvalidInputError: an unknown option, group or share; or several objectives, of which none is the best.
        ValueError: the start leaves [0, 1].

    Source: Chen et al. 2025, Black-box Model Merging for Language-Model-as-a-Service (Evo-Merging), arXiv:2509.12951:
    sparsity-based denoising, then sign-aware scaling.
    """

    Options: ClassVar[type[Options]] = StagedOptions
    SCHEMA: ClassVar[str] = "evomerge.optimizer.staged/1"
    uses_responses: ClassVar[bool] = False

    def __init__(self, problem: Problem, *, seed: int, **options: Option) -> None:
        check_problem("staged", problem, mixed=True, most_objectives=1)
        self._problem, self._seed = problem, seed
        self._options = read(StagedOptions, options)
        self.stages = stages_of(problem, self._options)
        shown = (f"{s.name} ({len(s.genes)} genes, {s.evaluations} evaluations)" for s in self.stages)
        self.explanation = f"staged searches {', then '.join(shown)}"
        self._genes = Genes(problem.domain)
        self._best = Best(tuple(map(float, problem.start)))
        self._asked: dict[int, Asked] = {}
        self._trials = self._generation = 0
        self._enter(0)

    def _enter(self, stage: int) -> None:
        """Begin a stage: at the best so far, in a generation of its own."""
        self._stage, self._told = stage, 0
        self._first_generation = self._generation + (stage > 0)
        self._origin = self._best.genome
        self._inner = self._make()

    def _make(self) -> Optimizer:
        """The optimizer of the present stage."""
        from evomerge.optimizers.registry import make  # which knows this class, too

        genes = self.stages[self._stage].genes
        kinds = tuple(_within(self._problem.domain.kinds[i], genes) for i in genes)
        domain = Domain(tuple(self._origin[i] for i in genes), kinds)
        problem = Problem(domain, budget=self.stages[self._stage].evaluations)
        options = {"population": self._options.population, "sigma": self._options.sigma}
        given = {name: value for name, value in options.items() if value is not None}
        return make(_kind(kinds), problem, seed=derive(self._seed, "stage", self._stage), **given)

    def ask(self, n: int) -> list[Proposal]:
        if n < 0:
            raise ValueError(f"can ask for 0 or more proposals, got {n}")
        return [self._propose() for _ in range(n)]

    def _propose(self) -> Proposal:
        trial, self._trials = self._trials, self._trials + 1
        seeds, fidelity = self._problem.domain.seeds, 1.0
        if 0 < trial <= len(seeds):
            self._generation = max(self._generation, self._first_generation)
            asked = Asked(tuple(map(float, seeds[trial - 1])), self._stage, None)
        else:
            (inner,) = self._inner.ask(1)
            self._generation = self._first_generation + inner.generation
            fidelity = inner.fidelity
            asked = Asked(self._whole(inner.genome) if trial else self._best.genome, self._stage, inner.trial)
        self._asked[trial] = asked
        return Proposal(trial, asked.genome, self._generation, fidelity=fidelity)

    def _whole(self, part: Genome) -> Genome:
        """A genome of the stage's genes, the others at the best before it."""
        genome = np.array(self._origin)
        genome[list(self.stages[self._stage].genes)] = part
        return as_genome(self._genes.canonical(genome[None, :])[0])

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        for evaluation in evaluations:
            check_evaluation(evaluation, self._trials, self._problem.num_objectives)
        for evaluation in evaluations:
            if (asked := self._asked.pop(evaluation.trial, None)) is not None:
                self._receive(asked, evaluation)

    def _receive(self, asked: Asked, evaluation: Evaluation) -> None:
        if self._best.behind(evaluation) and evaluation.values is not None:
            self._best = Best(asked.genome, evaluation.values[0], evaluation.violation)
        if asked.stage != self._stage:
            return
        self._told += 1
        if asked.trial is not None:
            self._inner.tell([replace(evaluation, trial=asked.trial)])
        if self._told >= self.stages[self._stage].evaluations and self._stage + 1 < len(self.stages):
            self._enter(self._stage + 1)

    def state(self) -> bytes:
        head = {
            "problem": self._problem.dump(),
            "seed": self._seed,
            "options": self._options.model_dump(),
            "trials": self._trials,
            "generation": self._generation,
            "first_generation": self._first_generation,
            "stage": self._stage,
            "told": self._told,
            "origin": self._origin,
            "best": [self._best.genome, self._best.value, self._best.violation],
            "asked": [[trial, a.genome, a.stage, a.trial] for trial, a in self._asked.items()],
        }
        return pack(self.SCHEMA, head, {"inner": np.frombuffer(self._inner.state(), np.uint8)})

    @classmethod
    def from_state(cls, state: bytes) -> Self:
        head, arrays = unpack(cls.SCHEMA, state)
        staged = cls(Problem.load(head["problem"]), seed=head["seed"], **head["options"])
        staged._restore(head, arrays["inner"].tobytes())
        return staged

    def _restore(self, head: Mapping[str, Any], inner: bytes) -> None:
        from evomerge.optimizers.registry import restore

        genome, value, violation = head["best"]
        self._best = Best(tuple(genome), value, violation)
        self._trials, self._generation = head["trials"], head["generation"]
        self._first_generation, self._stage, self._told = head["first_generation"], head["stage"], head["told"]
        self._origin = tuple(head["origin"])
        self._asked = {t: Asked(tuple(genome), stage, trial) for t, genome, stage, trial in head["asked"]}
        kinds = [self._problem.domain.kinds[i] for i in self.stages[self._stage].genes]
        self._inner = restore(_kind(kinds), inner)


def _within(kind: GeneKind, genes: Sequence[int]) -> GeneKind:
    """A gene's kind where these genes alone are searched: a gate among the others stays as it is."""
    return replace(kind, gate=genes.index(kind.gate) if kind.gate in genes else None)


def _kind(kinds: Sequence[GeneKind]) -> str:
    """CMA-ES, or with genes that are mere names its relative."""
    return "cma_es" if all(kind.choices is None or kind.ordered for kind in kinds) else "catcma"
