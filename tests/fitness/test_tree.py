"""The tree of an item: sharing, positions and what a node sees."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fitness.tree import Tree, grow

token = st.integers(0, 3)
choice = st.lists(token, min_size=1, max_size=6).map(tuple)


def path_tokens(tree: Tree, node: int) -> list[int]:
    found = []
    while node >= 0:
        found.append(tree.tokens[node])
        node = tree.parents[node]
    return found[::-1]


@given(st.lists(token, min_size=1, max_size=6).map(tuple), st.lists(choice, min_size=1, max_size=6))
def test_every_prediction_is_made_after_exactly_the_tokens_before_it(
    context: tuple[int, ...], choices: list[tuple[int, ...]]
) -> None:
    tree = grow(context, choices)

    for tokens, path in zip(choices, tree.paths, strict=True):
        assert [tree.predicted[edge] for edge in path] == list(tokens)
        for i, edge in enumerate(path):
            assert path_tokens(tree, tree.predictors[edge]) == [*context, *tokens[:i]]


@given(st.lists(token, min_size=1, max_size=6).map(tuple), st.lists(choice, min_size=1, max_size=6))
def test_a_node_sees_its_path_and_its_position_is_the_paths_length(
    context: tuple[int, ...], choices: list[tuple[int, ...]]
) -> None:
    tree = grow(context, choices)
    seen, depths = tree.ancestors(), tree.depths()

    for node in range(len(tree)):
        assert [tree.tokens[i] for i in np.flatnonzero(seen[node])] == path_tokens(tree, node)
        assert depths[node] == seen[node].sum() - 1
        assert not seen[node, node + 1 :].any()


def test_common_beginnings_are_read_once() -> None:
    tree = grow((9, 9), [(1, 2, 3), (1, 2, 4), (5,)])

    assert tree.tokens == (9, 9, 1, 2)
    assert len(tree.predicted) == 5
