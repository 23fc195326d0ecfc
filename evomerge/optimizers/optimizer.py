"""The contract of every optimizer: ask any number at any time, tell in any order, resume exactly.

`evomerge.testing.optimizer.OptimizerContract` holds these properties as tests that every implementation inherits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol, Self, TypeGuard, runtime_checkable

from evomerge.candidate import Estimate, Evaluation, Genome, ItemAnswers, Proposal
from evomerge.optimizers.domain import Problem
from evomerge.optimizers.options import Option, Options


class Optimizer(Protocol):
    """Proposes genomes in [0, 1]^dim, or descents in a lineage; larger objective values are better.

    Attributes:
        Options: its own options, each with default, range and description.
    """

    Options: ClassVar[type[Options]]

    @property
    def uses_responses(self) -> bool:
        """Whether it learns from scores on single items (`Evaluation.responses`)."""
        ...

    def __init__(self, problem: Problem, *, seed: int, **options: Option) -> None:
        """A fresh optimizer.

        Raises:
            InvalidInputError: an unknown option, a value out of range, or a problem that it does not solve (genes that
                are no real numbers, several objectives, a lineage, …), under the field `optimizer.name`.
            ValueError: a start that leaves [0, 1].
        """
        ...

    def ask(self, n: int) -> list[Proposal]:
        """The next `n` proposals. Never blocks and never waits for outstanding evaluations."""
        ...

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """Learn. In any order, any subset, failures included; a trial told twice counts once."""
        ...

    def state(self) -> bytes:
        """Everything that the future depends on, random generator included; npz or JSON, never a pickle."""
        ...

    @classmethod
    def from_state(cls, state: bytes) -> Self:
        """An optimizer that asks what the original would ask, given the same tells.

        Raises:
            EvomergeError: the bytes are not a state of this optimizer and version.
        """
        ...


@runtime_checkable
class GradientUser(Protocol):
    """An optimizer that may ask for `Evaluation.gradients`; others have no such attribute."""

    @property
    def uses_gradients(self) -> bool:
        """Whether it does. Answers without any are still legal."""
        ...


@runtime_checkable
class Mixer(Protocol):
    """An optimizer that mixes what the domain's seeds hold, so that these should hold each source alone."""

    @property
    def mixes_sources(self) -> bool:
        """Whether it does. Others have no such attribute."""
        ...


@runtime_checkable
class Learner(Protocol):
    """An optimizer that also learns from evaluations of genomes that it did not propose."""

    def learn(self, genome: Genome, evaluation: Evaluation) -> None:
        """Learn from what somebody else proposed.

        Args:
            genome: legal in the problem's domain: choices at their places, closed gates at the start's value.
            evaluation: of a candidate that did not fail; its trial is the other's number and means nothing here.

        Raises:
            ValueError: values that cannot be compared.
        """
        ...


@runtime_checkable
class ItemUser(Protocol):
    """An optimizer that may learn from answers to single items (`Evaluation.answers`), whoever was asked what, and
    believes something of its candidates; others have no such attribute."""

    @property
    def uses_items(self) -> bool:
        """Whether it does. Evaluations without any answers are still legal."""
        ...

    def know(self, answers: tuple[ItemAnswers, ...]) -> None:
        """Learn from the answers of a model that is no genome, one for each objective."""
        ...

    def believed(self, genomes: Sequence[Genome], objective: int = 0) -> list[Estimate | None]:
        """What each is worth in the light of all answers, larger is better, and how many answers it gave; None where
        nothing is known. Objectives are counted from 0."""
        ...


@runtime_checkable
class Explained(Protocol):
    """An optimizer that chose something by itself and says what, for the run's log; others have no such attribute."""

    @property
    def explanation(self) -> str:
        """One line for a person."""
        ...


def explanation_of(optimizer: Optimizer) -> str | None:
    """What an optimizer says of its choices, if it made any."""
    return optimizer.explanation if isinstance(optimizer, Explained) else None


def uses_gradients(optimizer: Optimizer | type[Optimizer]) -> bool:
    """Whether an optimizer, or every one of a kind, learns from gradients."""
    return isinstance(optimizer, GradientUser) and optimizer.uses_gradients is True


def uses_items(optimizer: Optimizer) -> TypeGuard[ItemUser]:
    """Whether an optimizer learns from answers to single items."""
    return getattr(optimizer, "uses_items", False) is True  # asked for every candidate: `isinstance` takes 25 µs


def mixes_sources(optimizer: type[Optimizer]) -> bool:
    """Whether every optimizer of a kind mixes the domain's seeds."""
    return isinstance(optimizer, Mixer) and optimizer.mixes_sources is True
