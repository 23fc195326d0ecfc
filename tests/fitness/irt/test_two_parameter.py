"""Items of the two-parameter model are found again, and agree with another library's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from evomerge.errors import InvalidInputError
from fitness.irt.two_parameter import NODES, fit_two_parameter
from tests.fitness.irt.simulated import answers_of_2pl, matrix_of

GOLDEN = Path(__file__).parents[2] / "golden" / "irt" / "mirt.json"
ABILITIES = np.linspace(-2.5, 2.5, 21)[:, None]


def test_simulated_parameters_are_recovered() -> None:
    y, a, beta = answers_of_2pl(300, 500, 0)
    found = fit_two_parameter(matrix_of(y))

    assert np.corrcoef(found.beta, beta)[0, 1] > 0.97
    assert np.corrcoef(found.a[:, 0], a)[0, 1] > 0.8


@pytest.mark.parametrize(
    ("name", "size", "seed", "far"),
    [("fewer", (1000, 40), 2, 0.03), pytest.param("many", (4000, 20), 1, 0.01, marks=pytest.mark.slow)],
)
def test_items_agree_with_an_independent_library(name: str, size: tuple[int, int], seed: int, far: float) -> None:
    """mirt has no priors, so that curves agree the better the more subjects there are."""
    theirs = json.loads(GOLDEN.read_text())[name]
    ours = fit_two_parameter(matrix_of(answers_of_2pl(*size, seed)[0]))

    curves = expit(ABILITIES * np.asarray(theirs["a"]) - np.asarray(theirs["beta"]))
    np.testing.assert_allclose(ours.probabilities(ABILITIES), curves, rtol=0, atol=far)


def test_the_order_of_items_and_subjects_does_not_matter() -> None:
    y, _, _ = answers_of_2pl(60, 40, 3)
    random = np.random.default_rng(0)
    items, subjects = random.permutation(40), random.permutation(60)
    found, turned = fit_two_parameter(matrix_of(y)), fit_two_parameter(matrix_of(y[np.ix_(subjects, items)]))

    np.testing.assert_allclose(turned.a, found.a[items], atol=1e-9)
    np.testing.assert_allclose(turned.beta, found.beta[items], atol=1e-9)


def test_answers_that_are_missing_at_random_change_little() -> None:
    y, _, _ = answers_of_2pl(600, 30, 4)
    gaps = np.where(np.random.default_rng(1).random(y.shape) < 0.3, np.nan, y)
    found, without = fit_two_parameter(matrix_of(y)), fit_two_parameter(matrix_of(gaps))

    difference = np.abs(found.probabilities(NODES[40:81, None]) - without.probabilities(NODES[40:81, None]))
    assert difference.mean() < 0.02


def test_items_that_all_answered_alike_are_held_by_the_priors() -> None:
    y, _, _ = answers_of_2pl(20, 10, 5)
    y[:, 3], y[:, 7] = 1.0, 0.0
    found = fit_two_parameter(matrix_of(y))
    p = found.probabilities(np.array([[-1.0], [0.0], [1.0]]))

    assert (found.a[[3, 7], 0] > 0.3).all()
    assert (found.a[[3, 7], 0] < 3).all()
    assert 0.85 < p[1, 3] < 0.995
    assert 0.005 < p[1, 7] < 0.15


@pytest.mark.parametrize("answer", [0.0, 1.0])
def test_a_bank_that_answered_everything_alike_has_items_of_finite_difficulty(answer: float) -> None:
    found = fit_two_parameter(matrix_of(np.full((5, 8), answer)), 200)

    assert np.abs(found.beta).max() < 6
    np.testing.assert_allclose(found.beta, found.beta[0])


def test_grades_between_right_and_wrong_are_fitted_to_their_means() -> None:
    random = np.random.default_rng(2)
    theta, beta = random.standard_normal(400), np.linspace(-1.5, 1.5, 25)
    grades = expit(theta[:, None] - beta + 0.1 * random.standard_normal((400, 25)))
    found = fit_two_parameter(matrix_of(grades))

    assert np.corrcoef(found.beta, beta)[0, 1] > 0.999
    average = found.probabilities(theta[:, None]).mean(axis=0)
    np.testing.assert_allclose(average, grades.mean(axis=0), atol=0.03)


@pytest.mark.parametrize("subjects", [1, 2, 3])
def test_banks_of_few_subjects_give_finite_items(subjects: int) -> None:
    found = fit_two_parameter(matrix_of(answers_of_2pl(subjects, 30, 6)[0]))
    p = found.probabilities(np.array([[-6.0], [0.0], [6.0]]))

    assert np.isfinite(p).all()
    assert ((p > 0) & (p < 1)).all()


def test_no_subjects_and_unbounded_answers_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="at least one subject"):
        fit_two_parameter(matrix_of(np.empty((0, 3))))
    with pytest.raises(InvalidInputError, match=r"\[0, 1\]"):
        fit_two_parameter(matrix_of([[0.0, -3.0], [1.0, 0.5]]))
