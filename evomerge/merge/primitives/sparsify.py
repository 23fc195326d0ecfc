"""Sparsifiers: which entries of a task vector survive."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

from evomerge.merge.primitives import philox
from evomerge.merge.primitives.philox import RESOLUTION

CPU = torch.device("cpu")


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


def above(delta: Tensor, threshold: float) -> Tensor:
    """Zero the entries whose magnitude is not greater than a threshold.

    >>> above(torch.tensor([3.0, -1.0, 0.5]), threshold=1.0)
    tensor([3., 0., 0.])
    """
    return torch.nn.functional.hardshrink(delta, threshold)


def band(delta: Tensor, low: float, high: float) -> Tensor:
    """Zero the entries whose magnitude lies below `low` or above `high`; entries equal to either are kept.

    Source: Davari & Belilovsky 2023, Model Breadcrumbs, arXiv:2312.06795, section 3.

    >>> band(torch.tensor([3.0, -1.0, 0.5, -2.0]), low=1.0, high=2.0)
    tensor([ 0., -1.,  0., -2.])
    """
    kept = trim(delta, low)
    if math.isinf(high):
        return kept
    return torch.le(delta.abs(), high, out=torch.empty_like(delta)).mul_(kept)


def resolved(density: float) -> float:
    """The probability that a mask of this density really has: a whole number of 2⁻³²."""
    return round(density * RESOLUTION) / RESOLUTION


def mask_key(seed: int, source: str, tensor: str) -> int:
    """The 128-bit key of a source's random numbers for one tensor."""
    text = "\x1f".join([str(seed), "mask", source, tensor])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")


def bernoulli(key: int, density: float, offset: int, length: int, device: torch.device = CPU) -> Tensor:
    """A mask that keeps each entry with probability `resolved(density)`.

    Entry i of a tensor has the i-th 32-bit number of `evomerge.merge.primitives.philox` under `key`, whatever block it
    is asked for in and on whatever device; it is kept where that is below density · 2³². So an entry kept at one
    density is kept at every higher one.

    Args:
        key: from `mask_key`.
        density: in [0, 1].
        offset: index of the first entry.
        length: number of entries.

    Returns:
        float32 tensor of 0 and 1, of shape [length].
    """
    bound = round(resolved(density) * RESOLUTION)
    if bound in (0, RESOLUTION):
        return torch.full((length,), float(bound > 0), device=device)
    mask = torch.empty(length, device=device)
    for part, drawn in philox.numbers(key, offset, length, device):
        mask[part] = drawn < bound
    return mask


def probabilities_by_rank(delta: Tensor, density: float, epsilon: float) -> Tensor:
    """The probability that an entry is kept: from `density − epsilon` for the smallest magnitude of its row to
    `density + epsilon` for the largest, linear in the rank between; equal magnitudes in memory order.

    Args:
        delta: [rows, columns].
        density, epsilon: density ± epsilon in [0, 1].

    Returns:
        float64, of delta's shape; whole numbers of 2⁻³². `density` for rows of one entry.

    Source: Deep et al. 2024, DELLA-Merging, arXiv:2406.11617, section 3.1 (window size = 2 epsilon).
    """
    order = _ascending(delta)
    bounds = bounds_by_rank(delta.shape[1], density, epsilon).to(delta.device) / RESOLUTION
    return torch.empty_like(delta, dtype=torch.float64).scatter_(1, order, bounds.expand_as(delta))


def bounds_by_rank(columns: int, density: float, epsilon: float) -> Tensor:
    """What a 32-bit number must be below to keep the entry of each rank of a row, the smallest first; see
    `probabilities_by_rank`.

    Returns:
        float64 tensor of whole numbers, of shape [columns].

    >>> (bounds_by_rank(3, density=0.5, epsilon=0.25) / 2**32).tolist()
    [0.25, 0.5, 0.75]
    """
    position = torch.arange(columns, dtype=torch.float64) / max(columns - 1, 1)
    by_rank = density + epsilon * (2 * position - 1 if columns > 1 else position)
    return (by_rank * RESOLUTION).round()


def _ascending(delta: Tensor) -> Tensor:
    """Indices that sort the magnitudes of every row, equal ones in memory order."""
    columns = delta.shape[1]
    if delta.device.type != "cpu" or columns > RESOLUTION:
        return delta.abs().argsort(dim=1, stable=True)
    # bits of non-negative floats order like the floats; NumPy sorts such keys several times faster than indices
    keys = delta.abs().view(torch.int32).numpy().astype(np.int64) << 32
    keys |= np.arange(columns, dtype=np.int64)
    keys.sort(axis=1)
    return torch.from_numpy(keys & (RESOLUTION - 1))


def bernoulli_of(key: int, probabilities: Tensor, offset: int) -> Tensor:
    """A mask as `bernoulli` makes it, every entry with a probability of its own (a whole number of 2⁻³²).

    Returns:
        float32 tensor of 0 and 1, of the probabilities' shape, where they are.
    """
    mask = torch.empty(probabilities.numel(), device=probabilities.device)
    for part, drawn in philox.numbers(key, offset, mask.numel(), mask.device):
        mask[part] = drawn < probabilities.reshape(-1)[part] * RESOLUTION
    return mask.view(probabilities.shape)


def drop(delta: Tensor, keep: Tensor) -> Tensor:
    """Zero the entries that a mask of 0 and 1 does not keep; new memory."""
    return delta * keep
