"""Random numbers that are functions of a key and of an entry's index, whatever block, machine or device asks for them:
Philox-4x32-10. A change here would change the bytes of every recipe that drops entries at random, as the step from
Philox-4x64 (NumPy's) to this generator did: this one vector units can compute.

Source: Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3 (section 4.3).
"""

# N entries, C counters, G groups

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BITS = 32
RESOLUTION = 1 << BITS
"""Numbers are whole, at least 0, and below this."""
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
INCREMENTS = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10
LANES = 16
"""Consecutive counters of a group."""
GROUP = 4 * LANES
"""Numbers of a group: the first word of every counter, then the second ones, and so on, so that compiled loops find
those of neighbouring entries in one vector."""

_LOW = RESOLUTION - 1
_GROUPS, _DEVICE_GROUPS = 1 << 12, 1 << 18
"""Groups that are made at a time."""


def words(key: int, counters: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four numbers of each counter.

    Args:
        key: 128 bits: the lower half is the generator's key, the upper half the upper one of the counter, so that no
            two keys share numbers.
        counters: int64 [C], the counter's lower half.

    Returns:
        Four int64 tensors [C], where the counters are.
    """
    a, b, third, fourth = (key >> BITS * i & _LOW for i in range(4))
    x0, x1 = counters & _LOW, counters >> BITS & _LOW
    x2, x3 = torch.full_like(x0, third), torch.full_like(x0, fourth)
    first, second = torch.empty_like(x0), torch.empty_like(x0)
    for _ in range(ROUNDS):
        torch.mul(x0, MULTIPLIERS[0], out=first)  # wraps: its bits are those of the unsigned product
        torch.mul(x2, MULTIPLIERS[1], out=second)
        torch.bitwise_right_shift(second, BITS, out=x0)
        torch.bitwise_right_shift(first, BITS, out=x2)
        x0.bitwise_xor_(x1).bitwise_xor_(a).bitwise_and_(_LOW)
        x2.bitwise_xor_(x3).bitwise_xor_(b).bitwise_and_(_LOW)
        x1, second, x3, first = second, x1, first, x3
        a, b = (a + INCREMENTS[0]) & _LOW, (b + INCREMENTS[1]) & _LOW
    return x0, x1 & _LOW, x2, x3 & _LOW


def numbers(key: int, offset: int, length: int, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
    """The numbers of consecutive entries, some at a time.

    Args:
        offset: index of the first entry.
        length: number of entries.

    Yields:
        Which of the entries (a slice of [0, length)), and int64 [their number].
    """
    step = _GROUPS if device.type == "cpu" else _DEVICE_GROUPS
    for group in range(offset // GROUP, -(-(offset + length) // GROUP), step):
        begin, end = max(group * GROUP, offset), min((group + step) * GROUP, offset + length)
        groups = -(-end // GROUP) - group
        counters = torch.arange(group * LANES, (group + groups) * LANES, device=device)
        found = torch.stack([word.view(groups, LANES) for word in words(key, counters)], dim=1)
        yield slice(begin - offset, end - offset), found.view(-1)[begin - group * GROUP : end - group * GROUP]
