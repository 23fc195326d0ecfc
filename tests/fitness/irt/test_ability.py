"""Abilities agree with integrals and optima found by brute force."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.special import expit

from evomerge.errors import InvalidInputError
from fitness.irt.ability import eap, map_abilities, ml_abilities
from fitness.irt.multidimensional import fit_multidimensional
from fitness.irt.two_parameter import ItemParameters
from fitness.matrix import Floats, ResponseMatrix
from tests.fitness.irt.simulated import answers_of_2pl, matrix_of


def make_items(number: int, dimensions: int = 1) -> ItemParameters:
    random = np.random.default_rng(number)
    return ItemParameters(np.exp(random.normal(0, 0.4, (number, dimensions))), random.normal(0, 1, number))


@pytest.mark.parametrize("asked", [1, 20, 600])
def test_expected_abilities_agree_with_numerical_integration(asked: int) -> None:
    items, random = make_items(1000), np.random.default_rng(asked)
    places = random.choice(1000, asked, replace=False)
    y = (random.random(asked) < expit(0.7 * items.a[places, 0] - items.beta[places])).astype(float)

    def density(theta: float) -> float:
        z = items.a[places, 0] * theta - items.beta[places]
        return float(np.exp(y @ z - np.logaddexp(0, z).sum() - theta**2 / 2 - peak))

    at = np.linspace(-4, 4, 801)
    z = at[:, None] * items.a[places, 0] - items.beta[places]
    peak = float((z @ y - np.logaddexp(0, z).sum(axis=1) - at**2 / 2).max())
    whole, first, second = (
        quad(lambda t, k=k: t**k * density(t), -6, 6, points=[0.5, 0.7, 0.9], limit=200)[0] for k in range(3)
    )
    theta, error = eap(items, places, y[None])

    assert theta[0] == pytest.approx(first / whole, abs=1e-5)
    assert error[0] == pytest.approx(np.sqrt(second / whole - (first / whole) ** 2), abs=1e-5)


def test_most_probable_abilities_are_where_the_posterior_is_highest() -> None:
    items, random = make_items(30, 3), np.random.default_rng(1)
    places, y = np.arange(5, 25), (random.random((4, 20)) < 0.5).astype(float)
    theta, covariance = map_abilities(items, places, y)

    def loss(t: np.ndarray, row: np.ndarray) -> float:
        z = items.a[places] @ t - items.beta[places]
        return float(np.logaddexp(0, z).sum() - row @ z + t @ t / 2)

    for found, row in zip(theta, y, strict=True):
        np.testing.assert_allclose(found, minimize(loss, np.zeros(3), args=(row,), tol=1e-10).x, atol=1e-4)
    assert (np.linalg.eigvalsh(covariance) > 0).all()
    assert (np.linalg.eigvalsh(covariance) <= 1).all()


def test_without_a_prior_abilities_that_cannot_be_told_run_away() -> None:
    items = make_items(30, 3)
    ml, prior = (found(items, np.arange(4), np.ones((1, 4))) for found in (ml_abilities, map_abilities))

    assert np.linalg.norm(ml) > 3 * np.linalg.norm(prior[0])
    assert np.isfinite(ml).all()


def two_skills() -> tuple[ResponseMatrix, Floats]:
    """Each skill for half of the items: one dimension cannot hold them."""
    random = np.random.default_rng(3)
    theta, skill = random.standard_normal((200, 2)), np.arange(80) % 2
    p = expit(2 * theta[:, skill] - random.normal(0, 1, 80))
    return matrix_of((random.random(p.shape) < p).astype(float)), p


def test_several_dimensions_predict_answers_of_several_skills() -> None:
    matrix, p = two_skills()
    missed = []
    for dimensions in (1, 2):
        items = fit_multidimensional(matrix, dimensions)
        abilities, _ = map_abilities(items, np.arange(80), matrix.values)
        missed.append(np.abs(items.probabilities(abilities) - p).mean())

    assert missed[1] < 0.6 * missed[0]


def test_fits_in_several_dimensions_have_standard_abilities_and_the_same_numbers_every_time() -> None:
    matrix, _ = two_skills()
    one, two = fit_multidimensional(matrix, 2), fit_multidimensional(matrix, 2)
    abilities, _ = map_abilities(one, np.arange(80), matrix.values)

    assert np.array_equal(one.a, two.a)
    np.testing.assert_allclose(abilities.mean(axis=0), 0, atol=0.1)
    np.testing.assert_allclose(np.cov(abilities.T, bias=True), np.eye(2), atol=0.2)


def test_several_dimensions_are_refused_to_few_subjects_unless_forced() -> None:
    few = matrix_of(answers_of_2pl(8, 30, 8)[0])
    with pytest.raises(InvalidInputError, match="64 subjects"):
        fit_multidimensional(few)

    assert np.isfinite(fit_multidimensional(few, force=True).a).all()
