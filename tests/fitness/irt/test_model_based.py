"""Model-based scores: honest errors, and a bias that recentring takes away."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from evomerge.errors import InvalidInputError
from fitness.irt.contracts import Bank
from fitness.irt.cross_validation import ask, ask_for_each, estimate_each
from fitness.irt.estimators import make_estimator
from fitness.irt.fits import Fits, eap_scores
from fitness.irt.information import ask_batches
from fitness.irt.item_quality import item_quality
from fitness.irt.selection import Stream, select
from fitness.irt.two_parameter import NODES
from fitness.matrix import Floats
from tests.fitness.irt.simulated import hybrid, matrix_of, simple

ITEMS = 300


def skilled(theta: Floats, seed: int) -> Floats:
    """Answers of two skills, so that no one-dimensional model is right: θ, and one that has nothing to do with it."""
    random = np.random.default_rng(seed)
    items = np.random.default_rng(99)
    a, beta, other = np.exp(items.normal(0, 0.4, ITEMS)), items.normal(0, 1, ITEMS), items.normal(0, 0.7, ITEMS)
    z = np.outer(theta, a) + np.outer(random.standard_normal(len(theta)), other) - beta
    return (random.random(z.shape) < expit(z)).astype(np.float64)


@pytest.fixture(scope="module")
def fits() -> Fits:
    return Fits(Bank(matrix_of(skilled(np.random.default_rng(1).standard_normal(100), 1))))


@pytest.fixture(scope="module")
def subjects() -> Floats:
    return skilled(np.random.default_rng(2).standard_normal(60), 2)


def samples(n: int, draws: int) -> list[list[int]]:
    random = np.random.default_rng(n)
    return [random.choice(ITEMS, n, replace=False).tolist() for _ in range(draws)]


@pytest.mark.parametrize("name", ["eap", "blup", "recentred_eap", "recentred_blup", "combined_eap", "combined_blup"])
@pytest.mark.parametrize("n", [20, 60])
def test_ninety_percent_intervals_hold_what_they_say(name: str, n: int, fits: Fits, subjects: Floats) -> None:
    estimator, truth, inside = make_estimator(name, fits), subjects.mean(axis=1), []
    for places in samples(n, 25):
        found = estimator.estimate(simple(places, ITEMS), subjects[:, places])
        inside.append(np.abs(found.means - truth) <= 1.645 * found.errors)

    assert not found.unbiased
    assert 0.87 <= np.mean(inside) <= 0.985


def test_intervals_of_greedily_chosen_items_hold_though_the_bank_chose_them(fits: Fits, subjects: Floats) -> None:
    inside, own = [], []
    for n in (10, 20, 40, 80):
        places = fits.linear.greedy(n)
        found = make_estimator("blup", fits).estimate(hybrid(places.tolist(), (), ITEMS), subjects[:, places])
        missed = np.abs(found.means - subjects.mean(axis=1))
        inside.append(missed <= 1.645 * found.errors)
        own.append(missed <= 1.645 * np.sqrt(fits.linear.predict(places, subjects[:, places])[1]))

    assert 0.84 <= np.mean(inside) <= 0.98
    assert np.mean(own) < np.mean(inside)


def test_intervals_of_adaptive_items_hold_though_the_answers_that_are_scored_chose_them() -> None:
    """The bank's rows are asked what suits them, fold by fold; what suits greedy items is another error."""
    inside: dict[str, list[Floats]] = {"eap": [], "blup": [], "eap, as if greedy": [], "each": []}
    for seed in range(8):
        random = np.random.default_rng(seed)
        fits = Fits(Bank(matrix_of(skilled(random.standard_normal(40), 1000 + seed))), iterations=6)
        answers = skilled(random.standard_normal(25), 2000 + seed)
        asked = ask(fits, answers, "adaptive", 40, Stream(seed))
        y = answers[:, asked.places]
        found = {name: make_estimator(name, fits).estimate(asked, y) for name in ("eap", "blup")}
        found["eap, as if greedy"] = make_estimator("eap", fits).estimate(replace(asked, rule="greedy"), y)
        found["each"] = estimate_each(fits, ask_for_each(fits, answers, 40), answers)
        for name, scores in found.items():
            inside[name].append(np.abs(scores.means - answers.mean(axis=1)) <= 1.645 * scores.errors)
    covered = {name: float(np.mean(values)) for name, values in inside.items()}

    assert 0.86 <= covered["eap"] <= 0.96
    assert 0.86 <= covered["blup"] <= 0.96
    assert 0.86 <= covered["each"] <= 0.96
    assert covered["eap, as if greedy"] > covered["eap"]


def test_adaptive_items_are_chosen_anew_by_the_other_folds_curves_and_the_held_out_answers(fits: Fits) -> None:
    selection = select(fits.bank, 30, "adaptive", Stream(0), curves=fits.items)
    values, expected = fits.matrix.values, np.empty(100)
    for rows, items in zip(fits.folds, fits.crossed_items, strict=True):
        others = Bank(fits.matrix.of(np.setdiff1d(np.arange(100), rows)))
        places = ask_batches(items, 30, item_quality(others).sound, values[rows])
        curves = items.probabilities(NODES[:, None]).T
        means, _ = eap_scores(items, curves, fits.matrix.weights, np.sort(places), values[rows][:, np.sort(places)])
        expected[rows] = means - fits.matrix.full_scores[rows]

    assert (
        len({tuple(sorted(ask_batches(items, 30, np.ones(ITEMS, bool), values))) for items in fits.crossed_items}) > 1
    )
    np.testing.assert_allclose(fits.eap_residuals(selection), expected, atol=1e-12)


def test_models_make_more_of_the_same_answers(fits: Fits, subjects: Floats) -> None:
    truth = subjects.mean(axis=1)
    missed: dict[str, list[float]] = {name: [] for name in ("mean", "greg", "eap", "blup", "combined_blup")}
    for places in samples(20, 25):
        for name in missed:
            found = make_estimator(name, fits).estimate(simple(places, ITEMS), subjects[:, places])
            missed[name].append(float(np.abs(found.means - truth).mean()))
    error = {name: np.mean(found) for name, found in missed.items()}

    assert max(error["eap"], error["blup"]) < 0.85 * error["mean"]
    assert error["combined_blup"] < error["greg"]


@pytest.mark.parametrize("rows", [2, 4])
def test_curves_of_a_handful_of_rows_rank_as_well_as_the_mean_and_err_less(rows: int, subjects: Floats) -> None:
    """Every other item is answered alike by all of such a bank; without a slope it would say nothing of others."""
    truth, missed = subjects.mean(axis=1), []
    for seed in range(6):
        bank = Bank(matrix_of(skilled(np.random.default_rng(seed).standard_normal(rows), 10 + seed)))
        places = samples(20 + seed, 1)[0]
        for name in ("eap", "mean"):
            found = make_estimator(name, bank).estimate(simple(places, ITEMS), subjects[:, places])
            missed.append((np.abs(found.means - truth).mean(), np.corrcoef(found.means, truth)[0, 1]))
    eap, mean = np.mean(missed[::2], axis=0), np.mean(missed[1::2], axis=0)

    assert eap[0] < 0.95 * mean[0]
    assert eap[1] > mean[1] - 0.02


@pytest.mark.parametrize("name", ["eap", "blup"])
def test_recentring_takes_the_bias_away_where_subjects_are_better_than_the_bank(name: str, fits: Fits) -> None:
    better = skilled(np.random.default_rng(3).normal(2.5, 0.3, 40), 4)
    truth, bias = better.mean(axis=1), {name: 0.0, f"recentred_{name}": 0.0}
    draws = samples(20, 40)
    for places in draws:
        for each in bias:
            found = make_estimator(each, fits).estimate(simple(places, ITEMS), better[:, places])
            bias[each] += float((found.means - truth).mean()) / len(draws)

    assert bias[name] < -0.03
    assert abs(bias[f"recentred_{name}"]) < 0.01


def test_one_subject_recentred_has_the_unbiased_score(fits: Fits, subjects: Floats) -> None:
    places = samples(20, 1)[0]
    selection, answers = simple(places, ITEMS), subjects[:1, places]
    unbiased = make_estimator("greg", fits).estimate(selection, answers)
    found = make_estimator("recentred_eap", fits).estimate(selection, answers)

    assert found.means[0] == pytest.approx(unbiased.means[0])
    assert found.errors[0] == pytest.approx(unbiased.errors[0])


def test_a_model_of_no_use_is_given_little_weight(subjects: Floats) -> None:
    """A bank of coin tossers: predictions are its mean, and cross-validation does not know that others are no coins;
    two rows, and the model's error is what the two say."""
    random = np.random.default_rng(5)
    bank = Fits(Bank(matrix_of((random.random((40, ITEMS)) < random.random((40, 1))).astype(float))))
    places = samples(60, 1)[0]
    selection, answers = simple(places, ITEMS), subjects[:, places]
    unbiased = make_estimator("greg", bank).estimate(selection, answers).means
    model = make_estimator("recentred_blup", bank).estimate(selection, answers).means
    found = make_estimator("combined_blup", bank).estimate(selection, answers).means

    share = (found - unbiased) / (model - unbiased)
    assert np.ptp(share) < 1e-6
    assert 0 < share[0] < 1


@pytest.mark.parametrize("name", ["recentred_eap", "combined_blup"])
def test_chosen_items_alone_cannot_be_recentred(name: str, fits: Fits, subjects: Floats) -> None:
    with pytest.raises(InvalidInputError, match="drawn at random"):
        make_estimator(name, fits).estimate(hybrid((1, 2, 3), (), ITEMS), subjects[:, [1, 2, 3]])


def test_item_curves_refuse_answers_without_bounds(fits: Fits) -> None:
    with pytest.raises(InvalidInputError, match="answers in"):
        make_estimator("eap", fits).estimate(simple([0, 1], ITEMS), np.array([[-4.0, 0.3]]))


def test_real_valued_answers_are_no_problem_elsewhere() -> None:
    """Log-likelihoods: a common level of each subject, and noise."""
    random = np.random.default_rng(6)
    level, hard = random.normal(-5, 1, (90, 1)), random.normal(0, 2, 200)
    y = level + hard + random.normal(0, 0.5, (90, 200))
    bank, subjects = Fits(Bank(matrix_of(y[:60]))), y[60:]
    places = random.choice(200, 10, replace=False)
    for name, most in (("mean", 1.5), ("greg", 0.3), ("blup", 0.3), ("recentred_blup", 0.3), ("combined_blup", 0.3)):
        found = make_estimator(name, bank).estimate(simple(places.tolist(), 200), subjects[:, places])
        missed = np.abs(found.means - subjects.mean(axis=1))
        assert missed.mean() < most
        assert np.mean(missed <= 1.645 * found.errors) > 0.8
