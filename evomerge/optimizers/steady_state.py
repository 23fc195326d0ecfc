"""What evolutionary algorithms share when answers come out of order: asked, waiting, a population, survival."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from evomerge.candidate import Evaluation, Genome, Proposal
from evomerge.optimizers.checks import check_evaluation, check_foreign
from evomerge.optimizers.domain import Problem
from evomerge.optimizers.genes import Design, Genes, Genomes, as_genome
from evomerge.optimizers.options import Option, Options, read
from evomerge.optimizers.state import Restorable, pack
from evomerge.seeds import generator

ATTEMPTS = 10
"""So often a child is made anew while an equal one is known; then it is asked all the same."""


@dataclass(frozen=True, slots=True)
class Members:
    """Genomes with what they scored.

    Attributes:
        genomes: shape [members, genes].
        values: shape [members, objectives], larger is better.
        violations: shape [members], 0 for feasible ones.
    """

    genomes: Genomes
    values: NDArray[np.float64]
    violations: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.genomes)

    @classmethod
    def none(cls, genes: int, objectives: int) -> Members:
        """No members yet."""
        return cls(np.empty((0, genes)), np.empty((0, objectives)), np.empty(0))

    def pick(self, rows: Sequence[int] | NDArray[Any]) -> Members:
        """Those of these numbers, in this order."""
        index = np.asarray(rows, dtype=np.intp)
        return Members(self.genomes[index], self.values[index], self.violations[index])

    def join(self, other: Members) -> Members:
        """These, then the others."""
        return Members(*(np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))

    def dump(self, prefix: str) -> dict[str, NDArray[Any]]:
        """Arrays for an optimizer's state."""
        return {f"{prefix}.{f.name}": getattr(self, f.name) for f in fields(self)}

    @classmethod
    def load(cls, prefix: str, arrays: Mapping[str, NDArray[Any]]) -> Members:
        """What `dump` wrote."""
        return cls(*(arrays[f"{prefix}.{f.name}"] for f in fields(cls)))


@dataclass(slots=True)
class Waiting:
    """Answers that wait for the next survival, in order of arrival."""

    genomes: list[Genome] = field(default_factory=list)
    values: list[tuple[float, ...]] = field(default_factory=list)
    violations: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.genomes)

    def add(self, genome: Genome, values: tuple[float, ...], violation: float) -> None:
        self.genomes.append(genome)
        self.values.append(values)
        self.violations.append(violation)

    def members(self, genes: int, objectives: int) -> Members:
        """As arrays."""
        return Members(
            np.reshape(np.array(self.genomes, dtype=float), (-1, genes)),
            np.reshape(np.array(self.values, dtype=float), (-1, objectives)),
            np.array(self.violations, dtype=float),
        )

    @classmethod
    def load(cls, members: Members) -> Waiting:
        """What `members` gave."""
        genomes = [as_genome(row) for row in members.genomes]
        return cls(genomes, [as_genome(row) for row in members.values], members.violations.tolist())


class SteadyState(Restorable):
    """A population that never waits.

    - **First** come the start (trial 0), the domain's seeds and Sobol points (`Design`), until a population's worth of
      answers is there; failures are dropped, so there may be more of them than the population has members.
    - **Children** are made whenever they are asked, from the population as it then is. A child equal to a member or to
      one that is asked or waits is made again.
    - **Survival** comes when as many answers wait as the population has members, whatever generation they were asked
      in: nobody waits for a slow candidate. A generation is the time between two survivals.
    - **Others' evaluations** (`learn`) count as answers, unless the genome is known.

    Random numbers of trial t and of survival g are functions of the seed and t or g (Philox), so there is no generator
    to save, and proposals are the same in whatever portions they are asked for. The state is the population, the
    answers that wait, genomes without an answer, and counters: its size does not depend on the run's length.
    """

    Options: ClassVar[type[Options]] = Options
    SCHEMA: ClassVar[str]
    uses_responses: ClassVar[bool] = False

    def __init__(self, problem: Problem, *, seed: int, **options: Option) -> None:
        self._check(problem)
        self._problem, self._seed = problem, seed
        self._options = self._read(options)
        self._genes = Genes(problem.domain)
        self._design = self._begin()
        self._trials = self._generation = 0
        self._asked: dict[int, Genome] = {}
        self._waiting = Waiting()
        self._members = Members.none(problem.domain.dim, problem.num_objectives)

    @property
    @abstractmethod
    def generation_size(self) -> int:
        """How many members survive, and how many answers make a generation."""

    @abstractmethod
    def _check(self, problem: Problem) -> None:
        """Raises unless it can solve the problem."""

    @abstractmethod
    def _child(self, rng: np.random.Generator) -> Genomes:
        """One new genome, shape [1, genes], made of the members, of which there is at least one."""

    @abstractmethod
    def _survive(self, members: Members, rng: np.random.Generator) -> Members:
        """At most `generation_size` of the members and the latest answers together."""

    def _read(self, options: Mapping[str, Option]) -> Any:
        return read(self.Options, options)

    def _begin(self, drawn: int = 0) -> Design:
        """Where the first population comes from."""
        return Design(self._problem.domain, self._seed, drawn)

    def ask(self, n: int) -> list[Proposal]:
        if n < 0:
            raise ValueError(f"can ask for 0 or more proposals, got {n}")
        return [self._propose() for _ in range(n)]

    def _propose(self) -> Proposal:
        trial, self._trials = self._trials, self._trials + 1
        if len(self._members):
            genome = self._offspring(generator(self._seed, self.SCHEMA, "child", trial))
        else:
            genome = self._design.next()
        self._asked[trial] = genome
        return Proposal(trial, genome, self._generation)

    def _offspring(self, rng: np.random.Generator) -> Genome:
        for _ in range(ATTEMPTS):
            child = as_genome(self._genes.canonical(self._child(rng))[0])
            if not self._is_known(child):
                break
        return child

    def _is_known(self, genome: Genome) -> bool:
        among_members = (self._members.genomes == genome).all(axis=1).any()
        return bool(among_members) or genome in self._waiting.genomes or genome in self._asked.values()

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        for evaluation in evaluations:
            check_evaluation(evaluation, self._trials, self._problem.num_objectives)
        for evaluation in evaluations:
            genome = self._asked.pop(evaluation.trial, None)
            if genome is not None and evaluation.values is not None:
                self._waiting.add(genome, evaluation.values, evaluation.violation)
                self._close()

    def learn(self, genome: Genome, evaluation: Evaluation) -> None:
        check_foreign(evaluation, self._problem.num_objectives)
        if evaluation.values is not None and not self._is_known(genome):
            self._waiting.add(genome, evaluation.values, evaluation.violation)
            self._close()

    def _close(self) -> None:
        if len(self._waiting) < self.generation_size:
            return
        merged = self._members.join(self._latest())
        self._members = self._survive(merged, generator(self._seed, self.SCHEMA, "survival", self._generation))
        self._waiting = Waiting()
        self._generation += 1

    def _latest(self) -> Members:
        return self._waiting.members(self._problem.domain.dim, self._problem.num_objectives)

    def state(self) -> bytes:
        head = {
            "problem": self._problem.dump(),
            "seed": self._seed,
            "options": self._options.model_dump(),
            "trials": self._trials,
            "generation": self._generation,
            "drawn": self._design.drawn,
            "asked": list(self._asked),
        }
        asked = np.reshape(list(self._asked.values()), (-1, self._problem.domain.dim))
        arrays = {"asked": asked, **self._members.dump("members"), **self._latest().dump("waiting"), **self._more()}
        return pack(self.SCHEMA, head, arrays)

    def _restore(self, head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        self._trials, self._generation = head["trials"], head["generation"]
        self._design = self._begin(head["drawn"])
        self._asked = {t: as_genome(row) for t, row in zip(head["asked"], arrays["asked"], strict=True)}
        self._waiting = Waiting.load(Members.load("waiting", arrays))
        self._members = Members.load("members", arrays)

    def _more(self) -> dict[str, NDArray[Any]]:
        """Further arrays of the state; who adds some reads them in `_restore`."""
        return {}
