"""The linear model against dense algebra and another library."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf

from evomerge.errors import InvalidInputError
from fitness.irt.linear import fit_linear
from tests.fitness.irt.simulated import answers_of_2pl, matrix_of


def test_the_covariance_is_ledoit_and_wolfs() -> None:
    y, _, _ = answers_of_2pl(50, 30, 0)
    model = fit_linear(matrix_of(y))
    theirs, shrinkage = ledoit_wolf(y)

    assert model.shrinkage == pytest.approx(shrinkage)
    np.testing.assert_allclose(model.covariance(np.arange(30)), theirs, atol=1e-12)
    np.testing.assert_allclose(model.variances, np.diag(theirs))
    np.testing.assert_allclose(model.with_score, theirs @ model.weights)


def test_predictions_are_the_gaussian_conditional() -> None:
    y, _, _ = answers_of_2pl(40, 25, 1)
    weights = np.linspace(1, 3, 25)
    model = fit_linear(matrix_of(y, weights.tolist()))
    places, rest = np.array([3, 7, 8, 20]), np.setdiff1d(np.arange(25), [3, 7, 8, 20])
    means, variance = model.predict(places, y[:5][:, places])

    c, w = model.covariance(np.arange(25)), weights / weights.sum()
    gains = c[np.ix_(rest, places)] @ np.linalg.inv(c[np.ix_(places, places)])
    expected = model.mean[rest] + (y[:5][:, places] - model.mean[places]) @ gains.T
    left = c[np.ix_(rest, rest)] - gains @ c[np.ix_(places, rest)]
    np.testing.assert_allclose(means, y[:5][:, places] @ w[places] + expected @ w[rest])
    assert variance == pytest.approx(w[rest] @ left @ w[rest])


def test_greedy_takes_the_item_that_leaves_the_least_variance() -> None:
    model = fit_linear(matrix_of(answers_of_2pl(40, 15, 2)[0]))
    chosen = model.greedy(4)

    for step in range(4):
        left = [
            model.predict(np.array([*chosen[:step], i]), np.zeros((1, step + 1)))[1] if i not in chosen[:step] else 9.0
            for i in range(15)
        ]
        assert left[chosen[step]] == pytest.approx(min(left))


def test_greedy_keeps_to_the_items_it_may_choose_and_knows_what_is_asked_anyway() -> None:
    model = fit_linear(matrix_of(answers_of_2pl(40, 15, 2)[0]))
    first = model.greedy(4)

    assert set(model.greedy(3, among=np.array([1, 5, 9]))) == {1, 5, 9}
    assert model.greedy(2, given=first[:2]).tolist() == first[2:].tolist()
    with pytest.raises(InvalidInputError, match="0 to 3"):
        model.greedy(4, among=np.array([1, 5, 9]))


def test_ten_thousand_items_are_no_problem() -> None:
    model = fit_linear(matrix_of(answers_of_2pl(100, 10_000, 3)[0]))
    start = time.process_time()
    chosen = model.greedy(20)
    _, variance = model.predict(chosen, model.mean[None, chosen])

    assert time.process_time() - start < 5
    assert variance < 0.5 * float(model.with_score @ model.weights)


@pytest.mark.parametrize("values", [[[1.0, 0.0, 1.0]], [[1.0, 1.0, 0.0]] * 3])
def test_a_bank_without_variance_predicts_its_mean_with_an_error(values: list[list[float]]) -> None:
    model = fit_linear(matrix_of(values))
    means, variance = model.predict(np.array([1]), np.array([[0.5]]))

    assert np.isfinite(means).all()
    assert variance > 0


def test_gaps_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="complete"):
        fit_linear(matrix_of([[1.0, np.nan]]))
