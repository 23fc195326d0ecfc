"""Whole tensors some rows at a time, so that what is made on the way stays small."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

_ENTRIES = 1 << 16
"""Entries worked on at a time on a CPU: a handful of them fit in a core's second-level cache."""
_DEVICE_ENTRIES = 1 << 26


def row_slices(tensor: Tensor) -> Iterator[slice]:
    """Consecutive slices of the first dimension, of about `_ENTRIES` entries, one row at least."""
    if not tensor.numel():
        return
    length = max(1, (_ENTRIES if tensor.device.type == "cpu" else _DEVICE_ENTRIES) // tensor[0].numel())
    for begin in range(0, len(tensor), length):
        yield slice(begin, begin + length)
