"""Which errors of a scoring are a candidate's failure, not a fault of the program."""

from __future__ import annotations

import torch

from evomerge.errors import Failure, FailureReason


class NonFiniteOutputError(ArithmeticError):
    """The model's output is NaN or infinite."""


def failure_of(error: Exception) -> Failure | None:
    """The failure that an error stands for, or None if it is none and must be raised again."""
    if isinstance(error, NonFiniteOutputError):
        return Failure(FailureReason.NON_FINITE, str(error))
    # Torch's CPU allocator has no exception of its own.
    cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    if cpu or isinstance(error, MemoryError | torch.OutOfMemoryError):
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        first = str(error).strip().splitlines()[0] if str(error).strip() else "no memory left"
        return Failure(FailureReason.OUT_OF_MEMORY, f"{first} (a smaller `workers.batch_tokens` needs less)")
    return None
