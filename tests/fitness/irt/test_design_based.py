"""Unbiased estimators: exactly so over all samples, right about their errors, and clear about what they cannot do."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from evomerge.errors import InvalidInputError
from fitness.estimate import UNBOUNDED, estimate_difference, estimate_mean
from fitness.irt.contracts import Bank, Estimator, Selection
from fitness.irt.estimators import ESTIMATORS, make_estimator
from fitness.irt.fits import Fits
from fitness.irt.intervals import intervals
from fitness.irt.strata import quantile_strata
from fitness.items import Item
from fitness.matrix import Floats
from fitness.subset import Subset
from tests.fitness.irt.simulated import answers_of_2pl, by_strata, empty_bank, hybrid, matrix_of, simple

SUBJECTS = np.array([[1.0, 0, 0, 1, 1, 1, 0, 1], [0.3, 0.9, 0.1, 0.4, 1, 0, 0, 0.7], [1.0] * 8])
"""Answers to 8 items of three subjects: a usual one, a graded one, and one that is better than the bank."""

UNBIASED = ["mean", "stratified", "difference", "greg", "doubly_robust"]


def small_bank() -> Bank:
    return Bank(matrix_of(answers_of_2pl(6, 8, 1)[0]), parents=(0, 3))


def mean_over(estimator: Estimator, selections: list[Selection], subjects: Floats) -> Floats:
    found = [estimator.estimate(s, subjects[:, s.places]) for s in selections]
    assert all(f.unbiased for f in found)
    return np.asarray(np.mean([f.means for f in found], axis=0))


@pytest.mark.parametrize("name", UNBIASED)
def test_over_all_simple_random_samples_the_mean_is_the_full_score(name: str) -> None:
    samples = [simple(places, 8) for places in combinations(range(8), 3)]
    found = mean_over(make_estimator(name, small_bank()), samples, SUBJECTS)

    np.testing.assert_allclose(found, SUBJECTS.mean(axis=1), atol=1e-12)


@pytest.mark.parametrize("name", UNBIASED[1:])
def test_over_all_samples_beside_chosen_items_too(name: str) -> None:
    rest = [i for i in range(8) if i not in (2, 5)]
    samples = [hybrid((2, 5), places, 8) for places in combinations(rest, 2)]
    found = mean_over(make_estimator(name, small_bank()), samples, SUBJECTS)

    np.testing.assert_allclose(found, SUBJECTS.mean(axis=1), atol=1e-12)


@pytest.mark.parametrize("name", UNBIASED[1:])
def test_over_all_samples_from_strata_out_of_proportion_too(name: str) -> None:
    columns = [0, 1, 0, 1, 1, 1, 0, 1]
    strata = [[i for i in range(8) if columns[i] == h] for h in (0, 1)]
    draws = product(combinations(strata[0], 2), combinations(strata[1], 2))
    samples = [by_strata([*one, *two], columns) for one, two in draws]
    found = mean_over(make_estimator(name, small_bank()), samples, SUBJECTS)

    np.testing.assert_allclose(found, SUBJECTS.mean(axis=1), atol=1e-12)


@pytest.mark.parametrize("name", UNBIASED)
def test_all_items_give_the_exact_score_without_an_error(name: str) -> None:
    weights = [1.0, 2, 3, 4, 1, 2, 3, 4]
    bank = Bank(matrix_of(answers_of_2pl(6, 8, 1)[0], weights), parents=(0, 3))
    found = make_estimator(name, bank).estimate(simple(range(8), 8), SUBJECTS)

    np.testing.assert_allclose(found.means, SUBJECTS @ bank.matrix.weights, atol=1e-12)
    np.testing.assert_allclose(found.errors, 0, atol=1e-7)


def test_weights_and_strata_count() -> None:
    """By hand: strata weigh 0.4 and 0.6; in the first an answer of weight 3 and one of weight 1."""
    bank = Bank(matrix_of(np.empty((0, 4)), [3.0, 1.0, 4.0, 2.0]))
    selection = by_strata([0, 1, 2], [0, 0, 1, 1])
    found = make_estimator("stratified", bank).estimate(selection, np.array([[1.0, 0.0, 0.5]]))

    assert found.means[0] == pytest.approx(0.4 * 0.75 + 0.6 * 0.5)


def test_strata_of_items_whose_weights_differ_are_refused_where_nothing_says_who_is_in_them() -> None:
    bank = Bank(matrix_of(np.empty((0, 4)), [3.0, 1.0, 4.0, 2.0]))
    known = by_strata([0, 2], [0, 0, 1, 1])
    blind = Selection(known.places, known.strata, known.sizes, known.random)
    with pytest.raises(InvalidInputError, match=r"selection\.columns"):
        make_estimator("stratified", bank).estimate(blind, np.zeros((1, 2)))


@pytest.mark.parametrize(
    ("y", "x"), [([1.0, 0, 1, 1, 0], [1.0, 1, 0, 1, 0]), ([0.2, 0.7, 1, 0, 0.4], [1.0, 1, 0, 1, 0])]
)
def test_numbers_are_the_runs_own(y: list[float], x: list[float]) -> None:
    """A simple random sample, one parent: what a run's estimates and these say are the same arithmetic."""
    items = [Item(f"i{k}", "c", (" a", " b"), 0) for k in range(12)]
    subset = Subset(tuple(f"i{k}" for k in range(5)), ("",) * 5)
    parent = np.array([[*x, 1, 1, 0, 1, 0, 1, 1]])
    bank, selection, answers = Bank(matrix_of(parent), (0,)), simple(range(5), 12), np.array([y])
    plain = estimate_mean(y, subset, items, bounds=(0.0, 1.0))
    beside = estimate_difference(y, x, float(parent.mean()), subset, items, bounds=UNBOUNDED if 0.2 in y else (0, 1))
    mean = make_estimator("mean", bank).estimate(selection, answers)
    difference = make_estimator("difference", bank).estimate(selection, answers)

    assert (mean.means[0], mean.errors[0]) == (pytest.approx(plain.mean), pytest.approx(plain.se))
    assert (difference.means[0], difference.errors[0]) == (pytest.approx(beside.mean), pytest.approx(beside.se))


def test_chosen_items_alone_claim_nothing() -> None:
    selection = hybrid((1, 4, 6), (), 8)
    for name in UNBIASED:
        found = make_estimator(name, small_bank()).estimate(selection, SUBJECTS[:, [1, 4, 6]])
        assert not found.unbiased
        assert np.isnan(found.errors).all()
        assert np.isfinite(found.means).all()


def siblings(seed: int) -> tuple[Bank, Floats]:
    """Two parents in a bank of 40, and 30 merges that follow one of them on nine items of ten."""
    random = np.random.default_rng(seed)
    y, _, _ = answers_of_2pl(40, 300, seed)
    source = random.integers(0, 2, (30, 300))
    merged = np.where(source == 0, y[0], y[1])
    turned = random.random(merged.shape) < 0.1
    return Bank(matrix_of(y), (0, 1)), np.where(turned, 1 - merged, merged)


@pytest.mark.parametrize("name", UNBIASED)
@pytest.mark.parametrize("n", [20, 60])
def test_ninety_percent_intervals_hold_what_they_say(name: str, n: int) -> None:
    bank, subjects = siblings(2)
    estimator, truth = make_estimator(name, bank), subjects.mean(axis=1)
    random, inside = np.random.default_rng(n), []
    for _ in range(60):
        places = random.choice(300, n, replace=False)
        found = estimator.estimate(simple(places, 300), subjects[:, places])
        low, high = intervals(found)
        inside.append((low <= truth) & (truth <= high))

    assert 0.87 <= np.mean(inside) <= 0.96


@pytest.mark.parametrize("name", ["mean", "stratified"])
def test_intervals_of_few_answers_hold_for_subjects_that_get_nearly_all_right_too(name: str) -> None:
    """Ten answers, all right, have no variance; Student's t about an imagined one held 99 %."""
    random, inside = np.random.default_rng(5), []
    subjects = (random.random((40, 300)) < random.uniform(0.75, 0.95, (40, 1))).astype(np.float64)
    for _ in range(150):
        places = random.choice(300, 10, replace=False)
        found = make_estimator(name, empty_bank(300)).estimate(simple(places, 300), subjects[:, places])
        low, high = intervals(found)
        assert ((low >= 0) & (high <= 1)).all()
        inside.append((low <= subjects.mean(axis=1)) & (subjects.mean(axis=1) <= high))

    assert 0.87 <= np.mean(inside) <= 0.96


@pytest.mark.parametrize("name", ["greg", "doubly_robust"])
def test_the_bank_says_how_widely_answers_usually_vary_where_few_were_given(name: str) -> None:
    """Two items from each of five strata: five degrees of freedom, and two more from the bank."""
    y, _, _ = answers_of_2pl(80, 300, 7)
    fits, subjects, random, inside = Fits(Bank(matrix_of(y[:40]))), y[40:], np.random.default_rng(1), []
    columns = quantile_strata(fits.bank, 5)
    for _ in range(60):
        places = np.concatenate([random.choice(np.flatnonzero(columns == h), 2, replace=False) for h in range(5)])
        found = make_estimator(name, fits).estimate(by_strata(places, columns), subjects[:, places])
        low, high = intervals(found)
        inside.append((low <= subjects.mean(axis=1)) & (subjects.mean(axis=1) <= high))

    assert found.freedom == 7
    assert 0.87 <= np.mean(inside) <= 0.96


def test_usual_variances_are_the_banks_within_strata_by_hand() -> None:
    """Two rows, so that each is compared with the other; items 0 and 1 are a stratum, 4 is chosen."""
    fits = Fits(Bank(matrix_of([[1.0, 0, 1, 1, 0], [1.0, 1, 0, 0, 1]])))
    columns = np.array([0, 0, 1, 1, 1])
    selection = Selection(
        np.array([0, 2, 4]), np.array([0, 1, 1]), {0: 2, 1: 3}, np.array([True, True, False]), columns
    )
    first, second = fits.matrix.values
    left = np.stack([first - fits.slope * second, second - fits.slope * first])
    expected = [2 * left[:, :2].var(axis=1).mean(), 2 * left[:, 2:4].var(axis=1).mean()]

    assert fits.usual_variance(selection) == pytest.approx(sum(expected) / 4)
    assert Fits(Bank(matrix_of([[1.0, 0.0]]))).usual_variance(simple([0], 2)) is None


def test_controls_and_shrinkage_take_noise_away() -> None:
    bank, subjects = siblings(3)
    truth, random = subjects.mean(axis=1), np.random.default_rng(0)
    missed: dict[str, list[float]] = {name: [] for name in ("mean", "greg", "difference", "shrunk")}
    for _ in range(40):
        places = random.choice(300, 30, replace=False)
        for name in missed:
            found = make_estimator(name, bank).estimate(simple(places, 300), subjects[:, places])
            missed[name].append(float(np.abs(found.means - truth).mean()))
    mean, greg, difference, shrunk = (np.mean(missed[name]) for name in missed)

    assert shrunk < difference < greg < mean
    assert difference < 0.9 * mean


@pytest.mark.parametrize("name", list(ESTIMATORS))
@pytest.mark.parametrize("rows", [0, 1, 2, 3])
def test_degenerate_banks_give_scores_or_say_what_is_missing(name: str, rows: int) -> None:
    """All answers alike, a column of each kind, few rows: never NaN."""
    values = np.array([[1.0, 1, 0, 0, 1, 0], [1.0, 1, 0, 1, 1, 0], [1.0] * 6])[:rows]
    bank = Bank(matrix_of(values), (0,) if rows else ()) if rows else empty_bank(6)
    info = ESTIMATORS[name]
    if rows < info.rows or (info.parents and not rows):
        with pytest.raises(InvalidInputError, match="bank"):
            make_estimator(name, bank)
        return
    estimator = make_estimator(name, bank)
    for answers in (np.ones((1, 3)), np.zeros((4, 3)), np.array([[0.5, 1.0, 0.0]])):
        found = estimator.estimate(simple([0, 2, 3], 6), answers)
        assert found.means.shape == found.errors.shape == (len(answers),)
        assert np.isfinite(found.means).all()
        assert info.published or name == "shrunk" or np.isfinite(found.errors).all()
        assert found.unbiased == info.unbiased


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_wrong_answers_and_places_are_named(name: str) -> None:
    estimator = make_estimator(name, small_bank())
    with pytest.raises(InvalidInputError, match="an answer to every item"):
        estimator.estimate(simple([0, 1], 8), np.array([[1.0, np.nan]]))
    with pytest.raises(InvalidInputError, match="one column for each"):
        estimator.estimate(simple([0, 1], 8), np.ones((1, 3)))
    with pytest.raises(InvalidInputError, match="the bank's 8 items"):
        estimator.estimate(simple([0, 8], 8), np.ones((1, 2)))


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_nobody_to_score_is_no_mistake(name: str) -> None:
    found = make_estimator(name, small_bank()).estimate(simple([0, 1, 5], 8), np.empty((0, 3)))

    assert found.means.shape == found.errors.shape == (0,)


def test_unknown_estimators_list_the_known_ones() -> None:
    with pytest.raises(InvalidInputError, match="recentred_blup"):
        make_estimator("blub", small_bank())
    with pytest.raises(InvalidInputError, match="complete rows"):
        make_estimator("eap", Bank(matrix_of([[1.0, np.nan], [0.0, 1.0]])))
