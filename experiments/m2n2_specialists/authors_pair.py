"""The two random networks that the authors' specialists begin as: jax.random.normal under the key 42, split in two.

Their program makes one pair for all of its runs, so the pair decides the level of all of their curves. Here are the
same numbers without JAX: Threefry-2×32 of 20 rounds, laid out over an array as JAX did up to version 0.4 (theirs is
0.4.31).

Source: Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3; the layout was checked against jax 0.10.2 with
jax_threefry_partitionable off.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfinv

Words = NDArray[np.uint32]

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = np.uint32(0x1BD11BDA)


def threefry(key: Words, counts: Words) -> Words:
    """Random words for an even number of counts, the first half of which is paired with the second."""
    keys = (key[0], key[1], key[0] ^ key[1] ^ PARITY)
    x, y = np.split(counts, 2)
    x, y = x + keys[0], y + keys[1]
    for block in range(5):
        for turn in ROTATIONS[block % 2]:
            x = x + y
            y = (y << np.uint32(turn) | y >> np.uint32(32 - turn)) ^ x
        x = x + keys[(block + 1) % 3]
        y = y + keys[(block + 2) % 3] + np.uint32(block + 1)
    return np.concatenate([x, y])


def normal(key: Words, size: int) -> NDArray[np.float32]:
    """Standard normal numbers, an even number of them."""
    bits = threefry(key, np.arange(size, dtype=np.uint32))
    uniform = (bits >> np.uint32(9) | np.uint32(0x3F800000)).view(np.float32) - np.float32(1)
    low = np.nextafter(np.float32(-1), np.float32(0))
    spread: NDArray[np.float32] = np.maximum(low, uniform * (np.float32(1) - low) + low)
    return (np.sqrt(2) * erfinv(spread.astype(float))).astype(np.float32)


def authors_start(half: int, weights: int) -> NDArray[np.float32]:
    """The random network that specialist 0 or 1 is trained from."""
    keys = threefry(np.array([0, 42], np.uint32), np.arange(4, dtype=np.uint32)).reshape(2, 2)
    return normal(keys[half], weights) * np.float32(0.01)
