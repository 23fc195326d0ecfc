"""Sparsifiers: which entries of a task vector survive."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

_DRAWS_PER_COUNT = 8
"""32-bit numbers in one Philox-4x64 counter value."""


def trim(delta: Tensor, threshold: float) -> Tensor:
    """Zero the entries below a threshold of magnitude; entries equal to it are kept.

    Source: Yadav et al. 2023, TIES-Merging, arXiv:2306.01708, step 1 (Trim).

    >>> trim(torch.tensor([3.0, -1.0, 0.5, -2.0]), threshold=2.0)
    tensor([ 3.,  0.,  0., -2.])
    """
    if threshold == 0:
        return delta
    below = np.nextafter(np.float32(threshold), np.float32(0))  # hardshrink keeps what is greater than its bound
    return torch.nn.functional.hardshrink(delta, float(below))


def resolved(density: float) -> float:
    """The probability that a mask of this density really has: a whole number of 2⁻³²."""
    return round(density * 2**32) / 2**32


def mask_key(seed: int, source: str, tensor: str) -> int:
    """The 128-bit key of a source's random numbers for one tensor."""
    text = "\x1f".join([str(seed), "mask", source, tensor])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")


def bernoulli(key: int, density: float, offset: int, length: int) -> Tensor:
    """A mask that keeps each entry with probability `resolved(density)`.

    Entry i of a tensor reads the i-th 32-bit number of Philox-4x64 under `key`, whatever block it is asked for in; an
    entry kept at one density is kept at every higher one.

    Args:
        key: from `mask_key`.
        density: in [0, 1].
        offset: index of the first entry.
        length: number of entries.

    Returns:
        float32 tensor of 0 and 1, of shape [length], on the CPU.

    Source: Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3 (Philox); the raw stream is one that NumPy
    promises to keep.
    """
    bound = round(resolved(density) * 2**32)
    if bound >= 2**32:
        return torch.ones(length)
    first, skipped = divmod(offset, _DRAWS_PER_COUNT)
    raw = np.random.Philox(key=key, counter=first).random_raw((skipped + length + 1) // 2)
    draws = raw.astype("<u8", copy=False).view("<u4")[skipped : skipped + length]
    return torch.from_numpy((draws < np.uint32(bound)).astype(np.float32))


def drop(delta: Tensor, keep: Tensor) -> Tensor:
    """Zero the entries that a mask of 0 and 1 does not keep; new memory."""
    return delta * keep.to(delta.device)
