"""Grids of elites, against their definition spelled out slowly."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.archive import elite_grids

VALUES = st.integers(1, 3).flatmap(
    lambda k: st.lists(st.tuples(*[st.integers(-8, 8).map(lambda n: n / 4)] * k), min_size=1, max_size=15)
)


@given(VALUES, st.integers(1, 5), st.booleans())
def test_every_cell_has_the_earliest_of_its_best(values: list[tuple[float, ...]], bins: int, costs: bool) -> None:
    num_objectives = len(values[0])
    sign = -1.0 if costs else 1.0
    grids = elite_grids(values, bins, signs=[sign] * num_objectives)

    assert [grid.quality for grid in grids] == list(range(num_objectives))
    for grid in grids:
        seen: dict[tuple[int, ...], list[int]] = {}
        for row, value in enumerate(values):
            cell = tuple(_bin(value[axis], bins, *bounds) for axis, bounds in zip(grid.axes, grid.ranges, strict=True))
            seen.setdefault(cell, []).append(row)
        best = {cell: max(rows, key=lambda r: (sign * values[r][grid.quality], -r)) for cell, rows in seen.items()}
        assert grid.elites == best
        assert grid.coverage == len(seen) / bins ** (num_objectives - 1)


def _bin(value: float, bins: int, low: float, high: float) -> int:
    low_, width = Fraction(low), Fraction(high) - Fraction(low)
    return sum(Fraction(value) >= low_ + width * i / bins for i in range(1, bins)) if width else 0


def test_a_perfect_score_and_what_lies_outside_belong_to_the_nearest_bin() -> None:
    first, _ = elite_grids([[0.1, 1.0], [0.2, 1.7], [0.3, -4.0]], 10, ranges=[(0, 1), (0, 1)])

    assert first.elites == {(0,): 2, (9,): 1}
    assert first.coverage == 0.2


def test_one_objective_has_one_cell() -> None:
    (grid,) = elite_grids([[0.2], [0.9], [0.9]], 15)

    assert (grid.elites, grid.cells, grid.coverage) == ({(): 1}, 1, 1.0)


def test_no_candidates_are_no_elites() -> None:
    grids = elite_grids(np.empty((0, 2)), 4)

    assert [(grid.elites, grid.coverage, grid.ranges) for grid in grids] == [({}, 0.0, ((0.0, 1.0),))] * 2


def test_elites_in_coarser_grids_are_elites_in_finer_ones() -> None:
    values = np.random.default_rng(0).random((200, 3))
    for coarse, fine in zip(elite_grids(values, 4), elite_grids(values, 8), strict=True):
        assert set(coarse.elites.values()) <= set(fine.elites.values())
        assert len(fine.elites) <= 64
        assert all(0 <= place < 8 for place in itertools.chain(*fine.elites))


@pytest.mark.parametrize(
    "wrong",
    [
        {"bins": 0},
        {"values": [[np.nan, 0.0]]},
        {"ranges": [(1.0, 0.0), (0.0, 1.0)]},
        {"ranges": [(0.0, 1.0)]},
        {"values": [0.5]},
    ],
)
def test_what_is_no_grid_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"bin|finite|range|shape"):
        elite_grids(**{"values": [[0.5, 0.5]], "bins": 3, **wrong})
