"""Several optimizers on one run that share what they learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from evomerge.archive import non_dominated
from evomerge.candidate import Evaluation, Genome, Proposal
from evomerge.errors import InvalidInputError
from evomerge.optimizers.auto import cma_es_options
from evomerge.optimizers.bandit import Bandit
from evomerge.optimizers.checks import check_evaluation, check_problem, check_responses
from evomerge.optimizers.domain import Problem
from evomerge.optimizers.genes import as_genome
from evomerge.optimizers.optimizer import Learner, Optimizer
from evomerge.optimizers.options import Option, Options, read
from evomerge.optimizers.state import pack, unpack
from evomerge.seeds import derive

ROUND = 16
"""Answers that make a generation where no member says what its generations are."""

FRONT = 200
"""So many of the latest members of the front are remembered."""

UNFIT = ("auto", "portfolio", "adam", "frank_wolfe", "dam", "expert_merging", "greedy_soup")
"""These stand for other optimizers, which are named instead, or need gradients, which cost as much as a few answers, or
each source alone."""


class PortfolioOptions(Options):
    """Options of `Portfolio`."""

    members: str | None = Field(
        default=None,
        min_length=1,
        description="optimizers by name, comma between them; null: cma_es and m2n2, catcma for cma_es where not all "
        "genes are real numbers, and nsga2 for several objectives",
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """A proposal without an answer.

    Attributes:
        owners: (member, its trial): whose it is; several for what all begin with.
        genome: what was proposed.
        generation: on whose items it is scored.
    """

    owners: tuple[tuple[int, int], ...]
    genome: Genome
    generation: int


class Front:
    """The best values so far, for several objectives those that no others dominate; of many the latest."""

    def __init__(self, num_objectives: int) -> None:
        self.points: NDArray[np.float64] = np.empty((0, num_objectives))

    def enter(self, evaluation: Evaluation) -> bool:
        """Whether an evaluation is better than, or as good as in another way, all before it."""
        if evaluation.values is None or evaluation.violation:
            return False
        points = np.vstack([self.points, evaluation.values])
        kept = non_dominated(points)
        if kept[-1]:
            self.points = points[kept][-FRONT:]
        return bool(kept[-1])


class Portfolio:
    """Members that search side by side, are asked by merit, and tell each other what is worth knowing.

    - **Asks** go to the members whose recent answers were good, and a share to each of the others (`Bandit`): with one
      objective good is to be among the best quarter of what everybody found lately, with several to enter the front.
    - **The beginning** is common: the start and the domain's seeds are evaluated once and told to all who ask them.
    - **Options** are the members' defaults; `cma_es` gets those that `auto` would give it.
    - **Sharing**: what enters the front (with one objective: a new best) is told to the others, as far as they learn
      from what they did not propose (`Learner`).
    - **Generations** are those of the member that compares scores on single items, where there is one (M2N2 keeps the
      same items), else rounds of 16 answers.
    - **Failures** and infeasible answers earn no credit and are not shared: a member that meets nothing else keeps its
      least share and stops nobody.

    State is the members' own states, the proposals without an answer with who asked them, and the latest 20 answers a
    member: bounded as far as the members' states are.

    Args:
        problem: one that every member solves.
        seed: each member gets one of its own, derived from it.
        options: see `PortfolioOptions`.

    Raises:
        InvalidInputError: an unknown option or member, less than two members, one named twice, or one that does not
            solve the problem; a lineage, which m2n2 alone can search.
        ValueError: `start` is empty or leaves [0, 1].
    """

    Options: ClassVar[type[Options]] = PortfolioOptions
    SCHEMA: ClassVar[str] = "evomerge.optimizer.portfolio/1"

    def __init__(self, problem: Problem, *, seed: int, **options: Option) -> None:
        self._prepare(problem, seed, read(PortfolioOptions, options))
        from evomerge.optimizers.registry import make  # which knows this class, too

        budget = problem.budget and -(-problem.budget // len(self.names))
        own = replace(problem, budget=budget)
        for name in self.names:
            chosen = cma_es_options(own) if name == "cma_es" else {}
            self._members.append(make(name, own, seed=derive(seed, "portfolio", name), **chosen))

    def _prepare(self, problem: Problem, seed: int, options: PortfolioOptions) -> None:
        check_problem("portfolio", problem, mixed=True)
        self._problem, self._seed, self._options = problem, seed, options
        self.names = _names(options.members) if options.members is not None else default_members(problem)
        self.explanation = f"portfolio of {', '.join(self.names)}: asks go to who finds good candidates, and all learn"
        self._members: list[Optimizer] = []
        self._bandit = Bandit(len(self.names))
        self._front = Front(problem.num_objectives)
        self._trials = self._answers = self._generation = 0
        self._asked: dict[int, Asked] = {}
        self._early: list[list[Proposal]] = [[] for _ in self.names]  # asked with the beginning, and none of it

    @property
    def uses_responses(self) -> bool:
        return any(member.uses_responses for member in self._members)

    @property
    def shares(self) -> dict[str, float]:
        """Who gets how much of the next asks."""
        return dict(zip(self.names, self._bandit.shares, strict=True))

    def ask(self, n: int) -> list[Proposal]:
        if n < 0:
            raise ValueError(f"can ask for 0 or more proposals, got {n}")
        return [self._propose() for _ in range(n)]

    def _propose(self) -> Proposal:
        trial, self._trials = self._trials, self._trials + 1
        first = (self._problem.start, *self._problem.domain.seeds)
        if trial < len(first):
            shared = self._begin(first[trial])
            if shared.owners:
                self._asked[trial] = shared
                return Proposal(trial, shared.genome, shared.generation)
        member = self._bandit.pick()
        early = self._early[member]
        own = early.pop(0) if early else self._ask(member)
        self._asked[trial] = Asked(((member, own.trial),), own.genome, self._generation)
        return Proposal(trial, own.genome, self._generation, fidelity=own.fidelity)

    def _begin(self, genome: Genome) -> Asked:
        """Ask everybody: who wants this genome owns it, what others want waits for their turn."""
        owners = []
        for number in range(len(self._members)):
            own = self._ask(number)
            if np.allclose(own.genome, genome, rtol=0, atol=1e-9):  # a boundary's fold rounds
                owners.append((number, own.trial))
            else:
                self._early[number].append(own)
        return Asked(tuple(owners), tuple(map(float, genome)), self._generation)

    def _ask(self, number: int) -> Proposal:
        member = self._members[number]
        (own,) = member.ask(1)
        if member.uses_responses:
            self._generation = max(self._generation, own.generation)
        return own

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        for evaluation in evaluations:
            check_evaluation(evaluation, self._trials, self._problem.num_objectives)
            if evaluation.values is not None:
                check_responses(evaluation, self._problem.num_objectives, None)
        for evaluation in evaluations:
            if (asked := self._asked.pop(evaluation.trial, None)) is not None:
                self._receive(asked, evaluation)

    def _receive(self, asked: Asked, evaluation: Evaluation) -> None:
        for number, trial in asked.owners:
            self._members[number].tell([replace(evaluation, trial=trial)])
        entered = self._front.enter(evaluation)
        if len(asked.owners) == 1:
            ((owner, _),) = asked.owners
            self._bandit.learn(owner, self._worth(evaluation, entered))
        if entered and (asked.generation == self._generation or not self.uses_responses):
            self._share(asked, evaluation)
        self._answers += 1
        if not self.uses_responses:
            self._generation = self._answers // ROUND

    def _worth(self, evaluation: Evaluation, entered: bool) -> float | None:
        if evaluation.values is None or evaluation.violation:
            return None
        if self._problem.num_objectives == 1:
            return evaluation.values[0]
        return 1.0 if entered else None

    def _share(self, asked: Asked, evaluation: Evaluation) -> None:
        owners = {number for number, _ in asked.owners}
        for number, member in enumerate(self._members):
            if number not in owners and isinstance(member, Learner):
                member.learn(asked.genome, evaluation)

    def state(self) -> bytes:
        head = {
            "problem": self._problem.dump(),
            "seed": self._seed,
            "options": self._options.model_dump(),
            "trials": self._trials,
            "answers": self._answers,
            "generation": self._generation,
            "bandit": self._bandit.dump(),
            "asked": [[trial, asked.owners, asked.generation] for trial, asked in self._asked.items()],
            "early": [[[own.trial, own.genome, own.fidelity] for own in early] for early in self._early],
        }
        arrays: dict[str, NDArray[Any]] = {
            "asked": np.reshape([asked.genome for asked in self._asked.values()], (-1, self._problem.domain.dim)),
            "front": self._front.points,
        }
        for name, member in zip(self.names, self._members, strict=True):
            arrays[f"member.{name}"] = np.frombuffer(member.state(), np.uint8)
        return pack(self.SCHEMA, head, arrays)

    @classmethod
    def from_state(cls, state: bytes) -> Self:
        from evomerge.optimizers.registry import restore

        head, arrays = unpack(cls.SCHEMA, state)
        portfolio = cls.__new__(cls)
        portfolio._prepare(Problem.load(head["problem"]), head["seed"], read(PortfolioOptions, head["options"]))
        portfolio._members = [restore(name, arrays[f"member.{name}"].tobytes()) for name in portfolio.names]
        portfolio._trials, portfolio._answers = head["trials"], head["answers"]
        portfolio._generation = head["generation"]
        portfolio._bandit.load(head["bandit"])
        portfolio._front.points = arrays["front"]
        for (trial, owners, generation), genome in zip(head["asked"], arrays["asked"], strict=True):
            pairs = tuple((number, own) for number, own in owners)
            portfolio._asked[trial] = Asked(pairs, as_genome(genome), generation)
        portfolio._early = [
            [Proposal(trial, tuple(genome), 0, fidelity=fidelity) for trial, genome, fidelity in early]
            for early in head["early"]
        ]
        return portfolio


def default_members(problem: Problem) -> tuple[str, ...]:
    """Those that complement each other: a distribution that learns directions, crossing, and a front."""
    strategy = "cma_es" if problem.domain.real else "catcma"
    return (strategy, "m2n2", "nsga2") if problem.num_objectives > 1 else (strategy, "m2n2")


def _names(text: str) -> tuple[str, ...]:
    from evomerge.optimizers.registry import OPTIMIZERS

    names = tuple(name.strip() for name in text.split(","))
    known = sorted(set(OPTIMIZERS) - set(UNFIT))
    if len(set(names)) < len(names) or len(names) < 2 or not set(names) <= set(known):
        raise InvalidInputError("optimizer.options.members", text, f"two or more different ones of {', '.join(known)}")
    return names
