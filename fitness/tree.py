"""One row an item: the shared context as a trunk, and all choices as branches that share their common beginnings.

    context ── 9 ── 7 ── + ──┬── 43 ── = ──┬── 150
                             │             └── 140
                             └── 49 ── = ───── 146

A node sees its ancestors only (a tree attention mask) and its position is its depth, so that each path from the root to
a leaf is computed as if it were alone in its row. The last token of a choice predicts nothing and is left out, and the
language model's head is needed only at nodes that have a successor outside the trunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fitness.encoding import Tokens


@dataclass(frozen=True, slots=True)
class Tree:
    """An item's row. L nodes, parents before children; E predicted tokens.

    Attributes:
        trunk: number of context tokens.
        tokens: [L] what the model reads.
        parents: [L] index of the node before; −1 for the first.
        predictors: [E] node whose output predicts a token.
        predicted: [E] the token.
        paths: for each choice the predictions, as indices below E, whose log-probabilities add up to its
            log-likelihood.
    """

    trunk: int
    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    predictors: tuple[int, ...]
    predicted: tuple[int, ...]
    paths: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.tokens)

    def depths(self) -> NDArray[np.int64]:
        """[L] distance from the root: position ids."""
        depths = np.arange(len(self), dtype=np.int64)
        for node in range(self.trunk, len(self)):
            depths[node] = depths[self.parents[node]] + 1
        return depths

    def ancestors(self) -> NDArray[np.bool_]:
        """[L, L] whether the row's node may attend to the column's: its ancestors and itself."""
        seen = np.eye(len(self), dtype=np.bool_)
        seen[: self.trunk, : self.trunk] = np.tri(self.trunk, dtype=np.bool_)
        for node in range(self.trunk, len(self)):
            seen[node] |= seen[self.parents[node]]
        return seen


def grow(context: Tokens, choices: Sequence[Tokens]) -> Tree:
    """The tree of an item.

    Args:
        context: at least one token.
        choices: at least one token each.

    >>> tree = grow((5, 6), [(1, 2), (1, 3)])
    >>> tree.tokens, tree.parents, tree.predictors, tree.predicted, tree.paths
    ((5, 6, 1), (-1, 0, 1), (1, 2, 2), (1, 2, 3), ((0, 1), (0, 2)))
    """
    tokens, parents = list(context), list(range(-1, len(context) - 1))
    nodes: dict[tuple[int, int], int] = {}  # (parent, token) → node
    edges: dict[tuple[int, int], int] = {}  # (predictor, predicted token) → its number
    paths = []
    for choice in choices:
        at, path = len(context) - 1, []
        for last, token in ((i == len(choice) - 1, t) for i, t in enumerate(choice)):
            path.append(edges.setdefault((at, token), len(edges)))
            if last:
                break
            if (at, token) not in nodes:
                nodes[at, token] = len(tokens)
                tokens.append(token)
                parents.append(at)
            at = nodes[at, token]
        paths.append(tuple(path))
    predictors, predicted = zip(*edges, strict=True)
    return Tree(len(context), tuple(tokens), tuple(parents), predictors, predicted, tuple(paths))
