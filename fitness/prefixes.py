"""Beginnings that many rows have in common (instructions, examples) are read once, not once a row."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Cache

from fitness.encoding import Tokens
from fitness.tree import common_length

LEAST_SHARED = 16
"""Tokens; shorter beginnings are read again with every row."""

GROUP_COST = 64
"""What a group costs in tokens: a forward pass for its beginning, and batches of its own."""


def grouped(beginnings: Sequence[Tokens]) -> list[tuple[int, list[int]]]:
    """Rows in groups that save the most tokens, when a group's common beginning is read once.

    Neighbours in lexical order have the longest common beginnings, so groups are stretches of that order; a dynamic
    program finds the best ones. One beginning a row: groups within groups are not looked for.

    Args:
        beginnings: of each row the tokens that may be read elsewhere.

    Returns:
        (length of the common beginning, places of its rows) for each group, 0 for all rows without one.

    >>> grouped([(7, *range(90)), (8, 9), (7, *range(95))])
    [(0, [1]), (91, [0, 2])]
    """
    order = sorted(range(len(beginnings)), key=lambda place: (beginnings[place], place))
    shared = [common_length(beginnings[a], beginnings[b]) for a, b in itertools.pairwise(order)]
    cuts = _best_cuts(np.asarray(shared, dtype=np.int64), len(order))
    alone, groups = [], []
    for first, end in cuts:
        if end - first == 1:
            alone.append(order[first])
        else:
            groups.append((min(shared[first : end - 1]), sorted(order[first:end])))
    return ([(0, sorted(alone))] if alone else []) + groups


def _best_cuts(shared: np.ndarray[Any, np.dtype[np.int64]], n: int) -> list[tuple[int, int]]:
    """Stretches [first, end) of n rows in lexical order.

    Args:
        shared: [n − 1] tokens that neighbours have in common.
    """
    best, cut = np.zeros(n + 1, dtype=np.int64), np.zeros(n + 1, dtype=np.int64)
    common = np.empty(n, dtype=np.int64)  # of the rows from each first row to the current one
    for end in range(1, n + 1):
        if end > 1:
            np.minimum(common[: end - 1], shared[end - 2], out=common[: end - 1])
        common[end - 1] = 0
        if end > 1:
            common[end - 2] = shared[end - 2]
        rows = end - np.arange(end)
        saved = np.where(common[:end] >= LEAST_SHARED, (rows - 1) * common[:end] - GROUP_COST, -1)
        saved[end - 1] = 0  # alone
        value = np.where(saved >= 0, best[:end] + saved, -1)
        cut[end] = end - 1 - int(np.argmax(value[::-1]))  # of equals the shortest
        best[end] = value[cut[end]]
    found, end = [], n
    while end:
        found.append((int(cut[end]), end))
        end = int(cut[end])
    return found[::-1]


class Beginning(Cache):
    """Keys and values of one row's tokens, kept once and put before those of every row that is read after `close`.

    Nothing that is read after it is kept, and nothing is dropped for sliding windows: masks say what is seen.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._length = 0

    def close(self, length: int, layers: int) -> bool:
        """The beginning is read; whether every layer left keys and values of all its tokens here."""
        self._length = length
        shapes = [part.shape for pair in self._kept.values() for part in pair]
        return len(self._kept) == layers and all(len(s) == 4 and s[0] == 1 and s[2] == length for s in shapes)

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
