"""The gate: shut for small banks, open where models rank well, and the same answer for the same question."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.errors import InvalidInputError
from fitness.irt.contracts import Bank
from fitness.irt.fits import Fits
from fitness.irt.gate import LEAST_BLUP, Offset, gate
from fitness.irt.recommendation import (
    error_variance,
    expected_best,
    recommend,
    recommended_number,
    reliability,
    variance_from_tau,
)
from fitness.matrix import make_matrix


def bank_of(num_subjects: int, *, one_ability: bool = True, seed: int = 0, num_items: int = 90) -> Bank:
    """Answers of a two-parameter model, or coin tosses that say nothing of any other answer; two parents."""
    rng = np.random.default_rng(seed)
    theta = rng.normal(0, 1.5, num_subjects) if one_ability else np.zeros(num_subjects)
    a, beta = rng.lognormal(0, 0.4, num_items), rng.normal(0, 1.5 if one_ability else 0, num_items)
    values = (rng.random((num_subjects, num_items)) < 1 / (1 + np.exp(beta - np.outer(theta, a)))).astype(np.float64)
    names = [f"m{i}" for i in range(num_subjects)]
    return Bank(make_matrix(values, names, [f"i{i}" for i in range(num_items)]), (0, 1) if one_ability else ())


@pytest.mark.parametrize("num_subjects", [2, 5, 9])
def test_too_few_subjects_shut_it_whatever_they_show(num_subjects: int) -> None:
    found = gate(bank_of(num_subjects), 10, "hybrid", 0)  # two of them are parents, and no evidence

    assert not found.open
    assert found.method == "difference"
    assert "models need 8" in found.reasons[0]
    assert np.isnan(found.tau_m)


def test_an_empty_bank_is_shut() -> None:
    empty = Bank(make_matrix(np.empty((0, 4)), [], list("abcd")))

    assert gate(empty, 2, "random", 0).method == "stratified"


def test_it_opens_where_a_model_ranks_better_than_sampling() -> None:
    bank = bank_of(50)
    found = gate(bank, 12, "hybrid", 0)

    assert found.open
    assert found.method in ("eap", "blup")
    assert found.tau_m >= found.tau_u
    assert 0 < found.mse_m < 0.02
    assert any("blup: Kendall" in reason for reason in found.reasons)
    assert found == gate(bank, 12, "hybrid", 0)


def test_linear_prediction_waits_for_a_larger_bank() -> None:
    found = gate(bank_of(LEAST_BLUP - 1), 12, "greedy", 0)

    assert found.method in ("eap", "difference")
    assert any(f"needs {LEAST_BLUP}" in reason for reason in found.reasons)


def test_it_shuts_where_answers_tell_nothing_of_each_other() -> None:
    shut = [not gate(bank_of(16, one_ability=False, seed=seed), 12, "adaptive", 0).open for seed in range(6)]

    # No method ranks anything here: which τ is higher is a coin's toss, but it must not always be the model's.
    assert sum(shut) >= 2


def test_an_offset_that_was_not_applied_shuts_it() -> None:
    bank = bank_of(50)

    fits = Fits(bank, iterations=4)

    assert not gate(fits, 12, "hybrid", 0, offset=Offset(0.08, 0.02, applied=False)).open
    assert gate(fits, 12, "hybrid", 0, offset=Offset(0.03, 0.02, applied=False)).open
    assert gate(fits, 12, "hybrid", 0, offset=Offset(0.08, 0.02)).open


def test_answers_outside_of_the_unit_interval_leave_linear_prediction() -> None:
    bank = bank_of(50)
    matrix = bank.matrix
    wide = Bank(make_matrix(matrix.values * 7, matrix.subjects, matrix.items), bank.parents)
    few = Bank(wide.matrix.of(np.arange(12)), bank.parents)

    assert gate(wide, 12, "greedy", 0).method == "blup"
    assert not gate(few, 12, "greedy", 0).open


def test_impossible_requests_are_errors() -> None:
    with pytest.raises(InvalidInputError, match=r"subset\.n"):
        gate(bank_of(20), 0, "random", 0)


def test_reliability_follows_from_spreads() -> None:
    # Merges that differ by 1.7 points: 20 of 1000 items tell hardly anything, differences to parents three times more.
    plain, differences = (error_variance(square**0.5, 20, 10**9) for square in (0.214, 0.063))

    assert reliability(0.017, plain) == pytest.approx(0.026, abs=0.001)
    assert reliability(0.017, differences) == pytest.approx(0.084, abs=0.001)
    assert reliability(0.0, 0.0) == 0.0
    assert error_variance(0.5, 100, 100) == 0.0


def test_error_variance_and_rank_correlation_agree_on_normal_variables() -> None:
    from scipy import stats

    rng = np.random.default_rng(0)
    truth = rng.normal(0, 2.0, 6000)
    tau = stats.kendalltau(truth, truth + rng.normal(0, 1.5, 6000)).statistic

    assert variance_from_tau(tau, 2.0) == pytest.approx(1.5**2, rel=0.1)
    assert variance_from_tau(-0.1, 2.0) == np.inf


def test_the_best_of_more_candidates_lies_higher() -> None:
    assert expected_best(1) == pytest.approx(0.0, abs=1e-6)
    assert expected_best(2) == pytest.approx(1 / np.sqrt(np.pi), abs=1e-6)


def test_more_items_are_recommended_for_candidates_that_are_alike() -> None:
    alike, unlike = (recommended_number(spread, 0.25, 1000).n for spread in (0.01, 0.1))

    assert alike > 2 * unlike
    assert recommended_number(0.1, 0.25, 1000, overhead=1000.0).n > recommended_number(0.1, 0.25, 1000, overhead=1.0).n
    with pytest.raises(ValueError, match="no methods"):
        recommend([], 0.1)
