"""Shrinkage: how far, and that noise which all subjects share is not taken for differences between them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate

from fitness.irt.contracts import Bank, Scores, Selection
from fitness.irt.estimators import make_estimator
from fitness.irt.shrinkage import Shrunk, kept
from fitness.matrix import Floats
from tests.fitness.irt.simulated import answers_of_2pl, matrix_of, simple


@pytest.mark.parametrize("number", [1, 5, 40])
@pytest.mark.parametrize("squares", [0.3, 4.0, 60.0])
def test_what_is_kept_is_the_posterior_mean(number: int, squares: float) -> None:
    def likelihood(b: float, power: float) -> float:
        return float(b ** (number / 2 + power) * np.exp(-b * squares / 3.0))

    noise = integrate.quad(likelihood, 0, 1, args=(1.0,))[0] / integrate.quad(likelihood, 0, 1, args=(0.0,))[0]

    assert kept(squares, 1.5, number) == pytest.approx(1 - noise, rel=1e-7)


def test_what_is_kept_at_the_ends() -> None:
    assert kept(0.0, 1.0, 1) == pytest.approx(0.4)
    assert kept(1e-9, 1.0, 800) == pytest.approx(1 / 402, rel=1e-3)
    assert kept(1e9, 1.0, 3) == pytest.approx(1.0, abs=1e-6)
    assert kept(1.0, 0.0, 3) == 1.0
    assert kept(1.0, 1.0, 0) == 1.0


class Known:
    """Three subjects at 0.4, 0.5, 0.9 with an error of 0.2, of which 0.1 is that of their mean."""

    name = "known"

    def estimate(self, selection: Selection, answers: Floats) -> Scores:
        if len(answers) == 1:
            return Scores(np.array([0.6]), np.array([0.1]), True)
        return Scores(np.array([0.4, 0.5, 0.9]), np.full(3, 0.2), True)


def test_the_mean_and_differences_from_it_are_drawn_apart() -> None:
    found = Shrunk(Known(), 0.5).estimate(simple([0], 8), np.zeros((3, 1)))
    mean = 0.5 + kept(0.01, 0.01, 1) * 0.1

    np.testing.assert_allclose(found.means, mean + kept(0.14, 0.03, 2) * np.array([-0.2, -0.1, 0.3]))
    assert np.isnan(found.errors).all()


def test_a_population_that_is_better_than_expected_is_not_drawn_back_as_one_subject_would_be() -> None:
    """All answered the same twenty items: how far forty lie from the prior together is known better than of each."""
    y, _, _ = answers_of_2pl(160, 400, 4)
    order = np.argsort(y.mean(axis=1))
    bank, better = Bank(matrix_of(y[order[:120]])), y[order[120:]]
    random, bias = np.random.default_rng(0), []
    prior = float(bank.matrix.full_scores.mean())
    for _ in range(60):
        places = random.choice(400, 20, replace=False)
        found = make_estimator("shrunk", bank).estimate(simple(places, 400), better[:, places])
        bias.append(float((found.means - better.mean(axis=1)).mean()))
    distance = float(better.mean()) - prior

    assert distance > 0.1
    assert abs(np.mean(bias)) < 0.25 * distance
