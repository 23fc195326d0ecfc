"""The process over genomes and items: against a dense posterior, its invariances, and whether its errors are true."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.stats import multivariate_normal

from evomerge.optimizers.item_process import FLAT, GRID, JITTER, USUAL, ItemProcess, Prior

Floats = NDArray[np.float64]


def kernel(a: Floats, b: Floats, reach: float) -> Floats:
    scaled = np.sqrt(3) * cdist(a, b) / np.sqrt(a.shape[1]) / reach
    return np.asarray((1 + scaled) * np.exp(-scaled))


def dense(points: Floats, prior: Prior) -> tuple[Floats, Floats]:
    """Covariances of a genome's level, and of what it has with an item, for all points."""
    one = np.eye(len(points))
    level = FLAT + prior.common**2 * kernel(points, points, prior.reach) + JITTER * one
    own = prior.own**2 * kernel(points, points, prior.own_reach) + (prior.noise**2 + JITTER) * one
    return level, prior.item**2 + own


def asked_at_random(rng: np.random.Generator, genomes: int, items: int) -> Floats:
    """Answers of which a part was asked: single ones, whole columns, and columns with the same genomes."""
    answers = rng.random((genomes, items))
    answers[rng.random(answers.shape) < 0.6] = np.nan
    answers[:, 1] = rng.random(genomes)
    answers[:, 3] = np.where(np.isfinite(answers[:, 2]), rng.random(genomes), np.nan)
    answers[0, 0] = 0.3
    return answers[:, np.isfinite(answers).any(axis=0)]


PRIOR = Prior(0.4, 0.7, 0.5, 0.2, 0.6, 0.3)


@pytest.mark.parametrize("seed", range(3))
def test_the_posterior_is_that_of_one_large_normal_distribution(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points, answers = rng.random((10, 2)), asked_at_random(rng, 7, 12)
    num_items = answers.shape[1] + 5  # of which nobody was asked five
    shares = np.full(answers.shape[1], 1 / num_items)
    process = ItemProcess(points[:7], answers, shares)

    rows, columns = np.nonzero(np.isfinite(answers))
    y = answers[rows, columns]
    z = (y - y.mean()) / y.std()
    level, own = dense(points, PRIOR)
    seen = level[np.ix_(rows, rows)] + (columns[:, None] == columns) * own[np.ix_(rows, rows)]
    cross = level[:, rows] + own[:, rows] / num_items
    mean = y.mean() + y.std() * cross @ np.linalg.solve(seen, z)
    covariance = y.var() * (level + own / num_items - cross @ np.linalg.solve(seen, cross.T))
    found = process.posterior(PRIOR, points[7:])

    np.testing.assert_allclose(found.mean, mean, atol=1e-9)
    np.testing.assert_allclose(found.covariance, covariance, atol=1e-9)
    other = replace(PRIOR, common=0.2, item=0.25, noise=0.1)
    level, own = dense(points, other)
    rival = level[np.ix_(rows, rows)] + (columns[:, None] == columns) * own[np.ix_(rows, rows)]
    gain = multivariate_normal(np.zeros(len(z)), seen).logpdf(z) - multivariate_normal(np.zeros(len(z)), rival).logpdf(
        z
    )
    assert process.log_likelihood(PRIOR) - process.log_likelihood(other) == pytest.approx(gain, abs=1e-7)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 100), st.floats(-10, 10))
def test_the_posterior_moves_with_unit_and_order_of_answers(seed: int, scale: float, shift: float) -> None:
    rng = np.random.default_rng(seed)
    points, answers = rng.random((6, 2)), asked_at_random(rng, 6, 9)
    shares = np.full(answers.shape[1], 1 / 20)
    rows, columns = rng.permutation(6), rng.permutation(answers.shape[1])

    plain = ItemProcess(points, answers, shares).posterior(PRIOR)
    changed = ItemProcess(points[rows], shift + scale * answers[rows][:, columns], shares[columns]).posterior(PRIOR)
    np.testing.assert_allclose(changed.mean, shift + scale * plain.mean[rows], rtol=1e-6, atol=1e-6 * scale)
    np.testing.assert_allclose(changed.deviations, scale * plain.deviations[rows], rtol=1e-4)


def test_models_that_lie_nowhere_say_how_hard_items_are_and_not_how_good_anybody_is() -> None:
    rng = np.random.default_rng(2)
    answers = np.full((3, 40), np.nan)
    hard = rng.random(40)
    answers[0, :10], answers[1, 10:20] = hard[:10], hard[10:20]  # genome 0 got other items than genome 1
    answers[2] = hard
    points = np.array([[0.2, 0.2], [0.8, 0.8], [np.nan, np.nan]])
    shares = np.full(40, 1 / 40)
    alone = ItemProcess(points[:2], answers[:2, :20], shares[:20]).posterior(PRIOR)
    beside = ItemProcess(points, answers, shares).posterior(PRIOR)

    gap = answers[0, :10].mean() - answers[1, 10:20].mean()
    assert abs(beside.mean[0] - beside.mean[1]) < 0.5 * abs(alone.mean[0] - alone.mean[1]) < abs(gap)
    assert beside.deviations[0] < alone.deviations[0]


def test_scores_of_the_whole_are_a_plain_process_with_their_errors() -> None:
    rng = np.random.default_rng(6)
    points, scores, errors = rng.random((8, 2)), rng.random(6), rng.uniform(0.1, 0.3, 6)
    answers = np.where(np.eye(6, dtype=bool), scores, np.nan)
    found = ItemProcess(points[:6], answers, np.zeros(6), errors).posterior(PRIOR, points[6:])

    level, _ = dense(points, PRIOR)
    z, noise = (scores - scores.mean()) / scores.std(), np.diag((errors / scores.std()) ** 2)
    mean = level[:, :6] @ np.linalg.solve(level[:6, :6] + noise, z)
    covariance = level - level[:, :6] @ np.linalg.solve(level[:6, :6] + noise, level[:6])
    np.testing.assert_allclose(found.mean, scores.mean() + scores.std() * mean, atol=1e-9)
    np.testing.assert_allclose(found.covariance, scores.var() * covariance, atol=1e-9)


def test_who_answered_everything_is_known() -> None:
    rng = np.random.default_rng(3)
    answers = rng.random((4, 30))
    answers[1:, 10:] = np.nan

    found = ItemProcess(rng.random((4, 2)), answers, np.full(30, 1 / 30)).posterior(PRIOR)
    assert found.mean[0] == pytest.approx(answers[0].mean(), abs=1e-4)
    assert found.deviations[0] < 2e-3
    assert (found.deviations[1:] > 0.01).all()


def drawn(rng: np.random.Generator, prior: Prior, genomes: int, items: int) -> tuple[Floats, Floats]:
    """Genomes and all of their answers, as the prior has them."""
    points = rng.random((genomes, 3))
    level, own = dense(points, prior)
    good = np.linalg.cholesky(level - FLAT + JITTER) @ rng.standard_normal(genomes)
    return points, 0.5 + 0.4 * (good[:, None] + np.linalg.cholesky(own) @ rng.standard_normal((genomes, items)))


def ten_each(rng: np.random.Generator, prior: Prior) -> tuple[ItemProcess, Floats, Floats]:
    """Of 30 genomes that answered ten items of 80 each; the means of these, and the worth."""
    points, everything = drawn(rng, prior, 30, 80)
    answers = np.full(everything.shape, np.nan)
    for genome in range(30):
        items = rng.permutation(80)[:10]
        answers[genome, items] = everything[genome, items]
    columns = np.isfinite(answers).any(axis=0)
    process = ItemProcess(points, answers[:, columns], np.full(int(columns.sum()), 1 / 80))
    return process, np.nanmean(answers, axis=1), everything.mean(axis=1)


def test_errors_are_true() -> None:
    prior = Prior(0.4, 0.4, 0.7, 0.4, 0.45, 0.35)  # variances that add up to 1
    inside = []
    for seed in range(60):
        process, _, worth = ten_each(np.random.default_rng(seed), prior)
        found = process.posterior(prior)
        inside.append(np.abs(found.mean - worth) < 1.96 * found.deviations)

    assert 0.92 < np.mean(inside) < 0.98


def test_a_prior_that_is_learnt_says_more_than_means_and_hardly_too_much() -> None:
    prior, inside, errors = Prior(0.4, 0.4, 0.7, 0.4, 0.45, 0.35), [], []
    for seed in range(8):
        process, means, worth = ten_each(np.random.default_rng(seed), prior)
        found = process.posterior(process.likeliest(USUAL))
        inside.append(np.abs(found.mean - worth) < 1.96 * found.deviations)
        errors.append([np.mean((found.mean - worth) ** 2), np.mean((means - worth) ** 2)])

    ours, plain = np.sqrt(np.mean(errors, axis=0))
    assert ours < 0.7 * plain
    assert np.mean(inside) > 0.8


def test_the_likeliest_prior_lies_on_the_grid_and_is_no_less_likely() -> None:
    rng = np.random.default_rng(5)
    points, everything = drawn(rng, Prior(0.4, 0.8, 0.25, 0.4, 0.25, 0.1), 20, 30)
    process = ItemProcess(points, everything, np.full(30, 1 / 30))
    found = process.likeliest(USUAL)

    assert all(value in GRID[name] for name, value in asdict(found).items())
    assert process.log_likelihood(found) > process.log_likelihood(USUAL)
    assert process.likeliest(found) == found


def test_equal_answers_are_no_burden_for_numbers() -> None:
    for answers in (np.full((2, 2), 0.5), np.array([[0.5, np.nan], [np.nan, 0.5]])):
        found = ItemProcess(np.array([[0.1], [0.9]]), answers, np.full(2, 0.5)).posterior(USUAL)

        np.testing.assert_allclose(found.mean, 0.5)
        assert np.isfinite(found.draw(np.random.default_rng(0), 3)).all()
