"""Dominance, hypervolume and the growing front, against definitions spelled out slowly."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.archive import (
    FrontChange,
    ParetoArchive,
    front_probabilities,
    hypervolume,
    improvement,
    non_dominated,
)

GRID = st.integers(0, 4).map(float)


def fronts(num_objectives: int, max_size: int = 12):
    return st.lists(st.tuples(*[GRID] * num_objectives), max_size=max_size)


def dominates(a, b):
    return all(x >= y for x, y in zip(a, b, strict=True)) and a != b


def volume_by_counting(points, num_objectives):
    """Unit cells of the grid [0, 4]^m that some point covers; exact for integer points and reference 0."""
    cells = itertools.product(range(4), repeat=num_objectives)
    return float(sum(any(all(p > c for p, c in zip(point, cell, strict=True)) for point in points) for cell in cells))


@given(st.integers(1, 3).flatmap(fronts))
def test_non_dominated_agrees_with_the_definition(points):
    mask = non_dominated(points)

    expected = [
        not any(dominates(other, point) for other in points) and point not in points[:i]
        for i, point in enumerate(points)
    ]
    assert mask.tolist() == expected


@given(st.integers(1, 3).flatmap(lambda m: st.tuples(st.just(m), fronts(m))))
def test_hypervolume_agrees_with_counting_cells(case):
    num_objectives, points = case

    assert hypervolume(points, [0.0] * num_objectives) == volume_by_counting(points, num_objectives)


@given(fronts(3), st.tuples(GRID, GRID, GRID))
def test_improvement_is_the_growth_of_the_hypervolume(points, new):
    origin = (0.0, 0.0, 0.0)
    growth = hypervolume([*points, new], origin) - hypervolume(points, origin)

    assert improvement(new, points, origin) == growth


def test_improvement_keeps_its_digits_next_to_a_huge_front():
    assert improvement((1e-9, 2e8), [(1e8, 1e8)], (0.0, 0.0)) == pytest.approx(0.1, rel=1e-9)


def test_points_beyond_the_reference_add_nothing():
    assert hypervolume([(2.0, -1.0), (0.0, 5.0)], (0.0, 0.0)) == 0.0


def test_a_shifted_front_has_the_hypervolume_of_the_original():
    points = np.array([(1.0, 4.0), (2.0, 2.0), (4.0, 1.0)])

    assert hypervolume(points - 7, (-7.0, -7.0)) == hypervolume(points, (0.0, 0.0)) == 4 + 2 + 2


def test_many_objectives_are_approximated_closely():
    corner = np.ones((1, 7))

    assert hypervolume(corner, [0.0] * 7) == pytest.approx(1.0, rel=0.02)


@given(fronts(2, max_size=20))
def test_the_archive_holds_what_no_other_dominates_whatever_the_order(points):
    archive = ParetoArchive(2, reference=(0.0, 0.0))
    for number, point in enumerate(points):
        archive.add(number, point)

    assert archive.members == tuple(np.flatnonzero(non_dominated(points)).tolist())
    assert archive.hypervolume == hypervolume(points, (0.0, 0.0))


@given(fronts(3, max_size=20))
def test_changes_add_up_to_the_members(points):
    archive, members = ParetoArchive(3), set()
    for number, point in enumerate(points):
        change = archive.add(number, point)
        members = members - set(change.removed) | set(change.added)

        assert set(archive.members) == members


def test_an_equal_point_changes_nothing():
    archive = ParetoArchive(2)
    archive.add(0, (1.0, 2.0))

    assert archive.add(1, (1.0, 2.0)) == FrontChange()
    assert not archive.add(2, (0.5, 2.0))
    assert archive.members == (0,)


def test_one_objective_keeps_the_best():
    archive = ParetoArchive(1, reference=(0.25,))
    for number, value in enumerate((0.5, 0.75, 0.6)):
        archive.add(number, (value,))

    assert archive.members == (1,)
    assert archive.hypervolume == 0.5


def test_the_reference_can_move():
    archive = ParetoArchive(2)
    archive.add(0, (1.0, 1.0))

    assert (archive.reference, archive.hypervolume) == (None, 0.0)
    archive.set_reference((0.0, 0.5))
    assert (archive.reference, archive.hypervolume) == ((0.0, 0.5), 0.5)
    archive.set_reference((-1.0, 0.0))
    assert archive.hypervolume == 2.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_cannot_be_compared_are_refused(bad):
    archive = ParetoArchive(2, reference=(0.0, 0.0))

    with pytest.raises(ValueError, match="finite"):
        archive.add(0, (1.0, bad))
    with pytest.raises(ValueError, match="finite"):
        archive.set_reference((0.0, bad))
    with pytest.raises(ValueError, match="finite"):
        hypervolume([(1.0, bad)], (0.0, 0.0))
    with pytest.raises(ValueError, match="finite"):
        non_dominated([(1.0, bad)])
    assert archive.members == ()


def test_a_member_or_a_wrong_number_of_values_is_refused():
    archive = ParetoArchive(2)
    archive.add(3, (1.0, 1.0))

    with pytest.raises(ValueError, match="3 is on the front"):
        archive.add(3, (2.0, 2.0))
    with pytest.raises(ValueError, match="shape"):
        archive.add(4, (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="at least 1"):
        ParetoArchive(0)


def test_the_chance_to_be_on_the_front_of_two_is_that_of_the_difference() -> None:
    found = front_probabilities(
        [[0.6], [0.5], [0.0]], [[0.1], [0.1], [0.01]], draws=20_000, stream=np.random.default_rng(1)
    )

    assert found[0] == pytest.approx(0.760, abs=0.01)  # Φ(0.1 / (0.1 √2))
    assert found.sum() == pytest.approx(1)
    assert found[2] == 0


def test_exact_values_are_on_the_front_or_not() -> None:
    values = [[1.0, 2.0], [2.0, 1.0], [0.5, 0.5], [1.5, 1.5]]
    found = front_probabilities(values, np.zeros((4, 2)), draws=8, stream=np.random.default_rng(1))

    assert found.tolist() == [1.0, 1.0, 0.0, 1.0]
    assert front_probabilities([], [], stream=np.random.default_rng(1)).tolist() == []
