"""One row an item: the shared context as a trunk, and all choices as branches that share their common beginnings.

    context ── 9 ── 7 ── + ──┬── 43 ── = ──┬── 150
                             │             └── 140
                             └── 49 ── = ───── 146

A node sees its ancestors only (a tree attention mask) and its position is its depth, so that each path from the root to
a leaf is computed as if it were alone in its row. The last token of a choice predicts nothing and is left out, and the
language model's head is needed only at nodes that have a successor outside the trunk.

Choices with contexts of their own share what these have in common; where that is nothing, the row holds several roots.
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
        trunk: number of tokens that all contexts begin with; all other nodes stand behind them.
        tokens: [L] what the model reads.
        parents: [L] index of the node before; −1 for the first.
        predictors: [E] node whose output predicts a token.
        predicted: [E] the token.
        paths: for each choice the predictions, as indices below E, whose log-probabilities add up to its
            log-likelihood.
        start: tokens that stand before the row and were read elsewhere.
    """

    trunk: int
    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    predictors: tuple[int, ...]
    predicted: tuple[int, ...]
    paths: tuple[tuple[int, ...], ...]
    start: int = 0

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def is_chain(self) -> bool:
        """Whether nothing branches off."""
        return self.parents == tuple(range(-1, len(self) - 1))

    def depths(self) -> NDArray[np.int64]:
        """[L] distance from the text's first token: position ids."""
        depths = np.arange(self.start, self.start + len(self), dtype=np.int64)
        for node in range(self.trunk, len(self)):
            parent = self.parents[node]
            depths[node] = self.start if parent < 0 else depths[parent] + 1
        return depths

    def ancestors(self) -> NDArray[np.bool_]:
        """[L, L] whether the row's node may attend to the column's: its ancestors and itself."""
        seen = np.eye(len(self), dtype=np.bool_)
        seen[: self.trunk, : self.trunk] = np.tri(self.trunk, dtype=np.bool_)
        for node in range(self.trunk, len(self)):
            if self.parents[node] >= 0:
                seen[node] |= seen[self.parents[node]]
        return seen

    def chains(self) -> list[list[int]]:
        """The nodes from a root to each leaf."""
        inner, found = set(self.parents), []
        for leaf in range(len(self)):
            if leaf not in inner:
                path = [leaf]
                while self.parents[path[-1]] >= 0:
                    path.append(self.parents[path[-1]])
                found.append(path[::-1])
        return found

    def behind(self, n: int) -> Tree:
        """The row without its first n tokens, fewer than the trunk's, which are read elsewhere."""
        assert 0 <= n < self.trunk, "a prediction needs its node"
        return Tree(
            self.trunk - n,
            self.tokens[n:],
            tuple(max(-1, parent - n) for parent in self.parents[n:]),
            tuple(node - n for node in self.predictors),
            self.predicted,
            self.paths,
            self.start + n,
        )


def grow(context: Tokens, choices: Sequence[Tokens]) -> Tree:
    """The tree of choices behind one context, see `plant`.

    >>> tree = grow((5, 6), [(1, 2), (1, 3)])
    >>> tree.tokens, tree.parents, tree.predictors, tree.predicted, tree.paths
    ((5, 6, 1), (-1, 0, 1), (1, 2, 2), (1, 2, 3), ((0, 1), (0, 2)))
    """
    return plant([(context, choice) for choice in choices])


def plant(pairs: Sequence[tuple[Tokens, Tokens]]) -> Tree:
    """The tree, or trees in one row, of choices with a context each.

    Args:
        pairs: (context, choice), at least one token each.

    >>> row = plant([((5, 6), (1, 2)), ((5, 7), (1, 2))])
    >>> row.tokens, row.parents, row.predictors, row.predicted, row.paths
    ((5, 6, 1, 7, 1), (-1, 0, 1, 0, 3), (1, 2, 3, 4), (1, 2, 1, 2), ((0, 1), (2, 3)))
    """
    first = pairs[0][0]
    trunk = min((common_length(first, context) for context, _ in pairs), default=len(first))
    tokens, parents = list(first[:trunk]), list(range(-1, trunk - 1))
    nodes: dict[tuple[int, int], int] = {}  # (parent, token) → node
    edges: dict[tuple[int, int], int] = {}  # (predictor, predicted token) → its number
    paths = []
    for context, choice in pairs:
        at, path = trunk - 1, []
        for place, token in enumerate((*context, *choice)[trunk:], start=trunk):
            if place >= len(context):
                path.append(edges.setdefault((at, token), len(edges)))
            if place == len(context) + len(choice) - 1:
                break
            if (at, token) not in nodes:
                nodes[at, token] = len(tokens)
                tokens.append(token)
                parents.append(at)
            at = nodes[at, token]
        paths.append(tuple(path))
    predictors, predicted = zip(*edges, strict=True)
    return Tree(trunk, tuple(tokens), tuple(parents), predictors, predicted, tuple(paths))


def common_length(a: Sequence[object], b: Sequence[object]) -> int:
    """Number of tokens, or characters, that two texts begin with alike.

    >>> common_length((1, 2, 3), (1, 2, 4)), common_length((1,), (1, 2))
    (2, 1)
    """
    return next((n for n, (left, right) in enumerate(zip(a, b, strict=False)) if left != right), min(len(a), len(b)))
