"""Quasi-random search: the baseline that every other optimizer must beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

from pydantic import Field
from scipy.stats import qmc

from evomerge.candidate import Evaluation, Proposal
from evomerge.optimizers.checks import check_evaluation, check_problem
from evomerge.optimizers.domain import Problem
from evomerge.optimizers.options import Option, Options, read
from evomerge.optimizers.state import pack, unpack
from evomerge.seeds import generator


class SobolOptions(Options):
    """Options of `SobolSearch`."""

    generation_size: int = Field(default=16, ge=1, description="proposals that are scored on the same items")


class SobolSearch:
    """Scrambled Sobol points, which fill the space more evenly than independent draws.

    Trial 0 is the start itself, then come the seeds, then point after point of the sequence: a proposal depends
    on seed and number only, never on what was told. So it serves any number of objectives as it is.

    Args:
        problem: its start is the first proposal.
        seed: of the scrambling.
        options: see `SobolOptions`.

    Raises:
        InvalidInputError: an unknown option or a value out of range.
        ValueError: `start` is empty or leaves [0, 1].

    Source: Owen 1998, Scrambling Sobol' and Niederreiter-Xing points; as implemented by `scipy.stats.qmc.Sobol`.
    """

    Options: ClassVar[type[Options]] = SobolOptions
    SCHEMA: ClassVar[str] = "evomerge.optimizer.random/2"
    uses_responses: ClassVar[bool] = False

    def __init__(self, problem: Problem, *, seed: int, **options: Option) -> None:
        check_problem("random", problem, mixed=True)
        self._problem, self._seed = problem, seed
        self._options = read(SobolOptions, options)
        self._sequence = qmc.Sobol(problem.domain.dim, scramble=True, rng=generator(seed, "sobol"))
        self._first = (problem.start, *problem.domain.seeds)
        self._trials = 0

    @property
    def generation_size(self) -> int:
        return self._options.generation_size

    def ask(self, n: int) -> list[Proposal]:
        if n < 0:
            raise ValueError(f"can ask for 0 or more proposals, got {n}")
        return [self._propose() for _ in range(n)]

    def _propose(self) -> Proposal:
        trial, self._trials = self._trials, self._trials + 1
        # Points are drawn singly: a first draw that is no power of 2 makes scipy warn.
        first = self._first
        genome = first[trial] if trial < len(first) else tuple(self._sequence.random(1)[0].tolist())
        return Proposal(trial, genome, trial // self.generation_size)

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        for evaluation in evaluations:
            check_evaluation(evaluation, self._trials, self._problem.num_objectives)

    def state(self) -> bytes:
        head = {
            "problem": self._problem.dump(),
            "seed": self._seed,
            "trials": self._trials,
            "options": self._options.model_dump(),
        }
        return pack(self.SCHEMA, head, {})

    @classmethod
    def from_state(cls, state: bytes) -> Self:
        head, _ = unpack(cls.SCHEMA, state)
        search = cls(Problem.load(head["problem"]), seed=head["seed"], **head["options"])
        search._trials = head["trials"]
        if (drawn := search._trials - len(search._first)) > 0:
            search._sequence.fast_forward(drawn)
        return search
