"""What can go wrong, as values and exceptions with a message for a person."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class EvomergeError(Exception):
    """Something in the world (a file, a model, a request) is not as it must be. The message is for a person."""


class InvalidInputError(EvomergeError):
    """A field holds a value that is not allowed.

    Args:
        field: where, as a dotted path or JSON pointer (`budget.candidates`, `recipe.yaml:12 merge.method`).
        value: what it was.
        allowed: what would be accepted, in words.
    """

    def __init__(self, field: str, value: object, allowed: str) -> None:
        self.field, self.value, self.allowed = field, value, allowed
        super().__init__(f"{field}: got {value!r}; expected {allowed}")


class CheckpointError(EvomergeError):
    """A model directory or weights file is missing, corrupt or incomplete."""


class ArchitectureError(EvomergeError):
    """A model's family is unknown, or models that should be merged do not fit together."""


class HashMismatchError(EvomergeError):
    """The weights on disk are not the ones that the recipe names."""


class NonFiniteError(EvomergeError):
    """NaN or infinity in weights."""


class StoreError(EvomergeError):
    """The database refused: away, fenced out by a newer controller, or of another schema version."""


class LeaseLostError(StoreError):
    """Another controller owns the run now; this one must stop writing."""


class FailureReason(StrEnum):
    """Why a candidate has no score."""

    OUT_OF_MEMORY = "out_of_memory"
    NON_FINITE = "non_finite"
    TIMEOUT = "timeout"
    WORKER_LOST = "worker_lost"
    BAD_RECIPE = "bad_recipe"


@dataclass(frozen=True, slots=True)
class Failure:
    """A candidate that could not be built or scored: told to the optimizer as failed, shown to the user."""

    reason: FailureReason
    message: str
