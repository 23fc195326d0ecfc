"""Chunks of a tensor's entries in order, with a number each."""

from __future__ import annotations

import torch
from torch import Tensor


def num_chunks(size: int, wanted: int) -> int:
    """How many chunks of length ⌈size / wanted⌉ there are; the last may be shorter.

    >>> num_chunks(10, 3), num_chunks(10, 6), num_chunks(2, 5)
    (3, 5, 2)
    """
    length = -(-size // max(1, min(wanted, size)))
    return max(1, -(-size // length)) if size else 1


def per_entry(numbers: Tensor, size: int, begin: int = 0, end: int | None = None) -> Tensor:
    """Numbers of chunks, as many as `num_chunks` says → those of entries begin:end of `size`.

    >>> per_entry(torch.tensor([1.0, 2.0]), 5).tolist()
    [1.0, 1.0, 1.0, 2.0, 2.0]
    """
    length = max(1, -(-size // len(numbers)))
    return numbers[torch.arange(begin, size if end is None else end, device=numbers.device) // length]
