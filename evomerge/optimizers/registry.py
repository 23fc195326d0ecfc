"""Optimizers by name."""

from __future__ import annotations

from typing import Any

from evomerge.candidate import Genome
from evomerge.errors import InvalidInputError
from evomerge.optimizers.cma_es import CmaEs
from evomerge.optimizers.options import Option
from evomerge.optimizers.random import SobolSearch

OPTIMIZERS: dict[str, type[SobolSearch] | type[CmaEs]] = {"random": SobolSearch, "cma_es": CmaEs}
"""Every optimizer that a run may name."""


def _find(name: str) -> type[Any]:
    if name not in OPTIMIZERS:
        raise InvalidInputError("optimizer.name", name, f"one of {', '.join(sorted(OPTIMIZERS))}")
    return OPTIMIZERS[name]


def make(name: str, *, start: Genome, num_objectives: int, seed: int, **options: Option) -> SobolSearch | CmaEs:
    """A fresh optimizer.

    Raises:
        InvalidInputError: an unknown name or option, or a value out of range.
        ValueError: `start` is empty or leaves [0, 1].
    """
    optimizer: SobolSearch | CmaEs = _find(name)(start=start, num_objectives=num_objectives, seed=seed, **options)
    return optimizer


def restore(name: str, state: bytes) -> SobolSearch | CmaEs:
    """The optimizer that `state` was taken from.

    Raises:
        InvalidInputError: an unknown name.
        EvomergeError: the bytes are not a state of this optimizer.
    """
    optimizer: SobolSearch | CmaEs = _find(name).from_state(state)
    return optimizer
