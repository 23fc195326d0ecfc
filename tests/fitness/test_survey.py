"""Samples out of proportion have errors of their own, and counts say what the mean does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fitness.survey import Design, difference_mean, stratified_mean


def draw(random: np.random.Generator, asked: tuple[int, int], sizes: tuple[int, int]) -> tuple[np.ndarray, Design]:
    places = [random.choice(size, n, replace=False) for n, size in zip(asked, sizes, strict=True)]
    strata = np.repeat([0, 1], asked).astype(np.intp)
    whole = np.asarray(sizes, dtype=np.float64)
    design = Design(np.ones(sum(asked)), strata, whole, whole / whole.sum())
    return np.concatenate([places[0], sizes[0] + places[1]]), design


def test_variances_of_strata_count_by_themselves_where_shares_are_not_in_proportion() -> None:
    """Most items are asked where answers vary (Neyman): one variance for all would claim far too large an error."""
    random = np.random.default_rng(0)
    values = np.concatenate([random.random(400) < 0.03, random.random(100) < 0.5]).astype(float)
    means, separate, pooled = [], [], []
    for _ in range(1500):
        places, design = draw(random, (15, 25), (400, 100))
        answers = values[None, places]
        mean, error = stratified_mean(answers, replace(design, separate=True), bounds=(0, 1))
        means.append(mean[0])
        separate.append(error[0])
        pooled.append(stratified_mean(answers, design, bounds=(0, 1))[1][0])

    assert np.mean(means) == pytest.approx(values.mean(), abs=0.003)
    assert np.std(means) < np.mean(separate) < np.mean(pooled)
    assert np.mean(separate) < 0.8 * np.mean(pooled)


def test_counts_are_what_each_answer_does_to_the_mean() -> None:
    design = Design(np.array([1.0, 3, 2]), np.array([0, 0, 1], dtype=np.intp), np.array([5.0, 5]), np.array([0.6, 0.4]))
    values = np.random.default_rng(1).random((4, 3))

    np.testing.assert_allclose(stratified_mean(values, design)[0], values @ design.counts)
    assert design.counts.tolist() == pytest.approx([0.15, 0.45, 0.4])


def test_several_subjects_have_the_numbers_that_each_has_alone() -> None:
    random = np.random.default_rng(2)
    places, design = draw(random, (10, 6), (40, 20))
    values, control = (random.random((5, 16)) < 0.6).astype(float), (random.random(16) < 0.6).astype(float)
    values[3] = random.random(16)
    together = difference_mean(values, control, 0.6, design, bounds=(0.0, 1.0))

    for k, row in enumerate(values):
        alone = difference_mean(row[None], control, 0.6, design, bounds=(0.0, 1.0))
        assert (alone[0][0], alone[1][0]) == (pytest.approx(together[0][k]), pytest.approx(together[1][k]))
    assert len(places) == 16
