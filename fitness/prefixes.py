"""Beginnings that many items have in common (instructions, examples) are read once a call, not once an item.

Which beginnings these are is fixed before anything is asked, by all items that may be (`common_beginnings`). So an item
is always read in the same pieces: its numbers do not depend on what else is asked.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Cache

from fitness.encoding import Tokens
from fitness.tree import common_length

LEAST_SHARED = 16
"""Tokens; shorter beginnings are read again with every item."""

LEAST_CHARACTERS = 32
"""Of a text that is worth a look for more than `LEAST_SHARED` tokens."""

GROUP_COST = 200
"""What a group costs, in characters: a forward pass for its beginning, and batches of its own."""


def common_beginnings(texts: Sequence[str]) -> list[str]:
    """The beginnings that save the most characters when each is read once for the texts that have it.

    Neighbours in lexical order have the longest common beginnings, so groups are stretches of that order; a dynamic
    program finds the best ones. A text has one beginning: groups within groups are not looked for.

    >>> common_beginnings(["Q: one", "2. " + 99 * "x" + " two", "2. " + 99 * "x" + " three", "2. " + 99 * "x" + "."])
    ['2. xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx']
    """
    ordered = sorted(texts)
    shared = np.asarray([common_length(*pair) for pair in pairwise(ordered)], dtype=np.int64)
    ends = [*(np.flatnonzero(shared < LEAST_CHARACTERS) + 1).tolist(), len(ordered)]  # no group goes beyond these
    cuts = [
        (begin + first, begin + end)
        for begin, stop in pairwise([0, *ends])
        for first, end in _best_cuts(shared[begin : stop - 1], stop - begin)
    ]
    return [ordered[first][: shared[first : end - 1].min()] for first, end in cuts if end - first > 1]


def _best_cuts(shared: NDArray[np.int64], n: int) -> list[tuple[int, int]]:
    """Stretches [first, end) of n texts in lexical order.

    Args:
        shared: [n − 1] characters that neighbours have in common.
    """
    best, cut = np.zeros(n + 1, dtype=np.int64), np.zeros(n + 1, dtype=np.int64)
    common = np.zeros(n, dtype=np.int64)  # of the texts from each first one to the current one
    for end in range(1, n + 1):
        if end > 1:
            common[end - 2] = shared[end - 2]
            np.minimum(common[: end - 1], shared[end - 2], out=common[: end - 1])
        others = np.arange(end - 1, -1, -1)
        saved = others * common[:end] - GROUP_COST
        saved[-1] = 0  # alone
        value = best[:end] + saved
        cut[end] = end - 1 - int(np.argmax(value[::-1]))  # of equals the shortest
        best[end] = value[cut[end]]
    found, end = [], n
    while end:
        found.append((int(cut[end]), end))
        end = int(cut[end])
    return found[::-1]


class Beginnings:
    """The beginnings that are known, in tokens."""

    def __init__(self) -> None:
        self.known: list[Tokens] = []

    def add(self, tokens: Tokens) -> None:
        """One more, if it is long enough."""
        if len(tokens) >= LEAST_SHARED and tokens not in self.known:
            self.known = sorted([*self.known, tokens])

    def of(self, tokens: Tokens) -> tuple[int, int] | None:
        """(number of the beginning that has most tokens in common with these, how many), None where few have."""
        near = bisect(self.known, tokens)  # in lexical order the nearest are the longest
        found = [(common_length(self.known[n], tokens), n) for n in (near - 1, near) if 0 <= n < len(self.known)]
        length, number = max(found, default=(0, 0))
        return (number, length) if length >= LEAST_SHARED else None


class Beginning(Cache):
    """Keys and values of one row's tokens, kept once and put before those of every row that is read after `close`.

    Nothing that is read after it is kept, and nothing is dropped for sliding windows: masks say what is seen.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._length = 0

    def close(self, length: int, layers: int) -> bool:
        """The beginning is read, padding behind it is dropped; whether every layer left keys and values here."""
        if len(self._kept) != layers or any(k.dim() != 4 or k.shape[2] < length for k, _ in self._kept.values()):
            return False
        self._cut(length)
        return True

    def first(self, length: int) -> Beginning:
        """Its first tokens; nothing is copied."""
        shorter = Beginning()
        shorter._kept = self._kept
        shorter._cut(length)
        return shorter

    def _cut(self, length: int) -> None:
        self._kept = {layer: (k[:, :, :length], v[:, :, :length]) for layer, (k, v) in self._kept.items()}
        self._length = length

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values [rows, heads, tokens, width] that a layer attends to."""
        if not self._length:
            self._kept[layer_idx] = (key_states, value_states)
            return key_states, value_states
        keys, values = (part.expand(len(key_states), -1, -1, -1) for part in self._kept[layer_idx])
        return torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens that stand before a row."""
        return self._length
