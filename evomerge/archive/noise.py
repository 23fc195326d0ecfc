"""Normal noise that is a function of (seed, tensor name, number of the entry): nothing of it has to be stored."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

_DRAWS_PER_COUNT = 4
"""64-bit numbers in one Philox-4x64 counter value."""


def normal(seed: int, tensor: str, first: int, length: int) -> npt.NDArray[np.float64]:
    """Independent standard normal numbers for consecutive entries of a tensor.

    Entry i reads the i-th 64-bit number of Philox-4x64 under a key of seed and name, whatever block it is asked for
    in: of its upper 53 bits the middle of an interval of [0, 1], of that the quantile.

    Source: Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3 (Philox); the raw stream is one that NumPy
    promises to keep.

    >>> bool((normal(7, "w", 0, 10)[3:5] == normal(7, "w", 3, 2)).all())
    True
    """
    text = "\x1f".join([str(seed), "noise", tensor])
    key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")
    count, skipped = divmod(first, _DRAWS_PER_COUNT)
    raw = np.random.Philox(key=key, counter=count).random_raw(skipped + length)[skipped:]
    found: npt.NDArray[np.float64] = ndtri(((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53)
    return found
