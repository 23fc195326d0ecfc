"""One number per evaluation: Deb's rules, failures, uncrowded hypervolume improvement."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.archive import improvement
from evomerge.candidate import Evaluation
from evomerge.optimizers.ranking import UncrowdedImprovement, costs

VALUE = st.floats(-1e6, 1e6)
VIOLATION = st.just(0.0) | st.floats(1e-12, 1e6)
EVALUATION = st.builds(Evaluation, st.just(0), st.none() | st.tuples(VALUE), VIOLATION)


def single(values):
    return values[:, 0]


def rank(evaluation):
    """Deb's order as a key: feasible by value, infeasible by violation, failed last."""
    if evaluation.values is None:
        return (2, 0.0)
    return (1, evaluation.violation) if evaluation.violation else (0, -evaluation.values[0])


@given(st.lists(EVALUATION, min_size=1, max_size=12).filter(lambda es: any(e.values for e in es)))
def test_costs_keep_debs_order(evaluations):
    cost = costs(evaluations, single)

    for a, cost_a in zip(evaluations, cost, strict=True):
        for b, cost_b in zip(evaluations, cost, strict=True):
            if rank(a) < rank(b):
                assert cost_a <= cost_b
            if rank(a)[0] < rank(b)[0]:
                assert cost_a < cost_b


def test_costs_of_a_small_generation_by_hand():
    evaluations = [
        Evaluation(0, (3.0,)),
        Evaluation(1, (1.0,)),
        Evaluation(2, (9.0,), violation=0.5),
        Evaluation(3, None),
        Evaluation(4, (2.0,), violation=2.0),
    ]

    # Worst feasible -1; infeasible -1 + 0.5 and -1 + 2; quartiles of (-3, -1, -0.5, 1) are -1.5 and -0.125.
    np.testing.assert_allclose(costs(evaluations, single), [-3.0, -1.0, -0.5, 1.0 + 1.375, 1.0])


def test_a_failure_is_worse_than_a_flat_rest():
    cost = costs([Evaluation(0, (1.0,)), Evaluation(1, (1.0,)), Evaluation(2, None)], single)

    assert cost.tolist() == [-1.0, -1.0, 0.0]


def progress(*points):
    archive = UncrowdedImprovement(len(points[0]))
    for trial, values in enumerate(points):
        archive.add(Evaluation(trial, values))
    return archive


def test_worth_by_hand():
    """Front (0, 1), (1, 0) of range 1: a new square, a point on the edge of what is dominated, a copy."""
    worth = progress((0.0, 1.0), (1.0, 0.0))(np.array([[0.5, 0.5], [0.0, 0.5], [0.0, 1.0]]))

    assert worth.tolist() == [0.25, 0.0, 0.0]


def test_a_point_beyond_the_reference_is_worth_its_way_back():
    """(-0.3, 1.2) is not dominated; it widens the first range to 1.3 and lies 0.3 / 1.3 below the front's worst."""
    worth = progress((0.0, 1.0), (1.0, 0.0))(np.array([[-0.3, 1.2]]))

    assert worth[0] == pytest.approx(-(0.3 / 1.3 - 0.1))


def test_the_distance_is_the_rise_that_all_objectives_need():
    archive = progress((0.0, 1.0), (1.0, 0.0), (0.6, 0.6))

    worth = archive(np.array([[0.5, 0.4], [0.2, 0.2], [0.3, 0.7]]))
    np.testing.assert_allclose(worth, [-0.1, -0.4, improvement((0.3, 0.7), archive.front.points, (-0.1, -0.1))])
    assert worth[2] > 0


@given(
    st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=1, max_size=10),
    st.tuples(st.integers(-9, 9), st.integers(-9, 9)),
    st.floats(0.01, 100.0),
)
def test_worth_is_positive_only_off_the_front_and_blind_to_scale(points, new, scale):
    worth = progress(*points)(np.array([new], dtype=float))[0]
    scaled = progress(*[(x, y * scale) for x, y in points])(np.array([[new[0], new[1] * scale]]))[0]

    dominated = any(x >= new[0] and y >= new[1] for x, y in points)
    assert worth <= 0 if dominated else worth > -20
    assert scaled == pytest.approx(worth, abs=1e-9)


def test_infeasible_and_failed_candidates_leave_no_trace():
    archive = UncrowdedImprovement(2)
    archive.add(Evaluation(0, (9.0, 9.0), violation=1.0))
    archive.add(Evaluation(1, None))

    assert archive.front.members == ()
    assert np.isinf(archive.low).all()


def test_the_first_generation_has_a_reference_of_its_own():
    worth = UncrowdedImprovement(2)(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))

    assert worth.argmin() == 2
    assert (worth > 0).all()
