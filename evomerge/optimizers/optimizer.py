"""The contract of every optimizer: ask any number at any time, tell in any order, resume exactly.

`evomerge.testing.optimizer.OptimizerContract` holds these properties as tests that every implementation inherits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

from evomerge.candidate import Evaluation, Genome, Proposal


class Optimizer(Protocol):
    """Proposes genomes in [0, 1]^dim; larger objective values are better."""

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


class OptimizerFactory(Protocol):
    """Makes a fresh optimizer; registered by name in `evomerge.optimizers.OPTIMIZERS`."""

    def __call__(
        self, *, start: Genome, num_objectives: int, seed: int, **options: float | int | bool | str
    ) -> Optimizer:
        """A fresh optimizer of dimension `len(start)` that begins near `start`."""
        ...
