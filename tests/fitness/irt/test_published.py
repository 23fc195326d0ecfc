"""Published estimators: their formulas by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import RidgeCV

from evomerge.errors import InvalidInputError
from fitness.irt.ability import ml_abilities
from fitness.irt.anchors import anchors, chosen, embeddings, top_disagreement
from fitness.irt.contracts import Bank
from fitness.irt.estimators import make_estimator
from fitness.irt.fits import Fits
from fitness.irt.published import PENALTIES, Anchor, GpIrt, MpIrt, PIrt, blend_weight, ridge
from fitness.irt.two_parameter import ItemParameters
from tests.fitness.irt.simulated import answers_of_2pl, hybrid, matrix_of, simple

ITEMS = ItemParameters(np.ones((4, 1)), np.array([-1.0, 1.0, 0.0, 0.5]))


def blank(items: int = 4) -> Fits:
    return Fits(Bank(matrix_of(np.zeros((1, items))), (0,)))


def test_p_irt_by_hand() -> None:
    """One right of two items of β ∓ 1 and slope 1: θ = 0 by symmetry; the other two are expected at it."""
    found = PIrt(blank(), ITEMS).estimate(simple([0, 1], 4), np.array([[1.0, 0.0]]))

    assert found.means[0] == pytest.approx((1 + expit(0.0) + expit(-0.5)) / 4, abs=1e-5)
    assert np.isnan(found.errors[0])


def test_the_weight_of_gp_irt_by_hand() -> None:
    assert blend_weight(0.05, 0.2, 20) == pytest.approx(0.0025 / (0.0025 + 0.0025))
    assert blend_weight(0.0, 0.2, 20) == 0
    assert blend_weight(0.05, 0.2, 2000) > 0.99


def test_gp_irt_by_hand() -> None:
    """b² = 0.01 and v/4n = 0.02: two thirds p-IRT, one third the plain mean of a random sample."""
    selection, answers = simple([0, 1], 4), np.array([[1.0, 0.0]])
    irt = PIrt(blank(), ITEMS).estimate(selection, answers).means[0]
    found = GpIrt(blank(), ITEMS, irt_error=0.1, variance=0.16).estimate(selection, answers)

    assert found.means[0] == pytest.approx(2 / 3 * irt + 1 / 3 * 0.5)


def test_mp_irt_by_hand() -> None:
    """One parent at θ = 2: λ = 0 explains the answers best. Half of gmp-IRT is the plain mean."""
    selection, answers, parents = simple([0, 1], 4), np.array([[1.0, 0.0]]), np.array([[2.0]])
    expected = (1 + expit(0.0) + expit(-0.5)) / 4
    whole = MpIrt(blank(), ITEMS, parents, 0.0, "mp_irt").estimate(selection, answers)
    half = MpIrt(blank(), ITEMS, parents, 0.5, "gmp_irt").estimate(selection, answers)

    assert whole.means[0] == pytest.approx(expected, abs=1e-5)
    assert half.means[0] == pytest.approx((expected + 0.5) / 2, abs=1e-5)


def test_mp_irt_stays_where_the_parents_can_reach() -> None:
    """Two parents of one skill: an answer that shows another one goes for nothing, and the first item's wrong answer
    takes θ to −∞ where all other items have a slope."""
    items = ItemParameters(np.array([[1.0, 0.0], [1.0, 0.3], [0.0, 1.0], [0.4, 1.0]]), np.zeros(4))
    parents = np.array([[1.0, 0.0], [2.0, 0.0]])
    found = MpIrt(blank(), items, parents, 0.0, "mp_irt").estimate(simple([1, 2], 4), np.array([[0.0, 1.0]]))
    theta = ml_abilities(items, np.array([1, 2]), np.array([[0.0, 1.0]]))

    assert abs(theta[0, 1]) > 3
    assert found.means[0] == pytest.approx(1 / 4, abs=0.01)


def test_anchors_are_the_centres_of_clusters_and_weigh_as_much() -> None:
    points = np.array([[0.0], [0.1], [0.2], [5.0], [5.1], [9.0]])
    weights = np.array([1.0, 1, 1, 2, 2, 3]) / 10
    places, counts = anchors(points, weights, 3)

    assert places.tolist()[0] == 1
    assert places.tolist()[2] == 5
    np.testing.assert_allclose(counts, [0.3, 0.4, 0.3])
    with pytest.raises(InvalidInputError, match="1 to 6"):
        anchors(points, weights, 7)


def test_anchors_are_the_same_every_time_and_never_twice_one_item() -> None:
    points = np.repeat(np.eye(3), 4, axis=0)
    one, two = (anchors(points, np.full(12, 1 / 12), 6) for _ in range(2))

    assert one[0].tolist() == two[0].tolist()
    assert len(set(one[0].tolist())) == 6
    assert one[1].sum() == pytest.approx(1)


def test_anchors_answers_weigh_by_their_clusters_and_others_by_what_is_next_to_them() -> None:
    fits = Fits(Bank(matrix_of([[0, 0, 0, 1, 1, 1.0], [0, 0, 0, 1, 1, 0]])))
    estimator = Anchor(fits, embeddings(fits.bank), "anchor_correctness")
    places, counts = anchors(embeddings(fits.bank), fits.matrix.weights, 3)
    answers = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    found = estimator.estimate(chosen(places, 6), answers)
    drawn = estimator.estimate(simple([4, 0], 6), np.array([[1.0, 0.0]]))

    np.testing.assert_allclose(found.means, counts[:2])
    assert drawn.means[0] == pytest.approx(3 / 6)  # items 3 and 4 are as 4, item 5 is as near to it as to item 0


def test_ridge_agrees_with_another_library() -> None:
    random = np.random.default_rng(0)
    x, asked = random.standard_normal((40, 12)), random.standard_normal((5, 12))
    y = x @ random.standard_normal(12) + random.standard_normal(40)
    size = ((x - x.mean(axis=0)) ** 2).sum() / 40
    theirs = RidgeCV(alphas=PENALTIES * size).fit(x, y)

    np.testing.assert_allclose(ridge(x, y[:, None], asked)[:, 0], theirs.predict(asked), rtol=1e-6)


def test_items_of_the_largest_disagreement_are_those_that_halve_the_bank() -> None:
    values = np.array([[1.0, 1, 0, 1], [1, 0, 0, 1], [1, 1, 0, 0], [1, 0, 0, 1]])

    assert top_disagreement(Bank(matrix_of(values)), 2).tolist() == [1, 3]


@pytest.mark.parametrize(
    "name", ["p_irt", "gp_irt", "mp_irt", "gmp_irt", "anchor_correctness", "anchor_irt", "ridge", "aipw"]
)
def test_published_estimators_find_most_of_the_truth(name: str) -> None:
    y, _, _ = answers_of_2pl(110, 200, 9)
    fits, subjects = Fits(Bank(matrix_of(y[:80]), (0, 1, 2))), y[80:]
    truth, found = subjects.mean(axis=1), make_estimator(name, fits)
    places = np.random.default_rng(1).choice(200, 60, replace=False)
    scores = found.estimate(simple(places.tolist(), 200), subjects[:, places])

    assert np.isnan(scores.errors).all()
    assert not scores.unbiased
    assert np.abs(scores.means - truth).mean() < 0.06
    assert np.corrcoef(scores.means, truth)[0, 1] > 0.9


def test_published_estimators_take_chosen_items() -> None:
    y, _, _ = answers_of_2pl(70, 60, 10)
    fits = Fits(Bank(matrix_of(y[:64]), (0, 1)))
    for name in ("ridge", "aipw", "gmp_irt", "p_irt"):
        scores = make_estimator(name, fits).estimate(hybrid(range(0, 60, 3), (), 60), y[64:, ::3])
        assert np.isfinite(scores.means).all()
