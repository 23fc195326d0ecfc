"""The study's bars on real answers: 218 models on ARC-Challenge, twenty of 1172 items (experiments/few_items)."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evomerge.seeds import generator
from fitness.irt.accuracy import Accuracy, accuracy
from fitness.irt.contracts import Bank
from fitness.irt.cross_validation import Approach, predict
from fitness.irt.fits import Fits
from fitness.irt.selection import Stream
from fitness.matrix import ResponseMatrix

STUDY = Path(__file__).parents[3] / "experiments" / "few_items"


def loader() -> Callable[[str], ResponseMatrix]:
    spec = importlib.util.spec_from_file_location("few_items_load", STUDY / "load.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[[str], ResponseMatrix] = module.load
    return found


def test_the_matrices_are_what_their_readme_says() -> None:
    arc = loader()("arc_challenge")

    assert arc.values.shape == (218, 1172)
    assert set(np.unique(arc.values)) == {0.0, 1.0}
    assert arc.full_scores.mean() == pytest.approx(0.522, abs=0.001)
    assert "01-ai/Yi-1.5-34B" in arc.subjects


def measured(
    approaches: list[tuple[str, str]], splits: int, draws: int, name: str = "arc_challenge"
) -> dict[str, Accuracy]:
    """Means over splits at n = 20."""
    matrix, found = loader()(name), {}
    for split in range(splits):
        order = generator(split, "test").permutation(len(matrix.subjects))
        bank = order[: round(0.75 * len(order))]
        fits, tested = Fits(Bank(matrix.of(bank)), iterations=6), matrix.of(order[len(bank) :])
        for policy, estimator in approaches:
            approach = Approach(policy, estimator)  # type: ignore[arg-type]
            number = draws if policy in ("random", "hybrid") else 1
            scores = [predict(fits, tested.values, approach, 20, Stream(split, draw)) for draw in range(number)]
            result = accuracy(tested.full_scores, scores, generator(0))
            found.setdefault(approach.name, []).append(result)
    return {
        name: Accuracy(*(float(np.mean([getattr(one, field) for one in rows])) for field in Accuracy.__slots__[:-1]), 0)
        for name, rows in found.items()
    }


@pytest.mark.slow
def test_the_bars_on_arc_challenge_hold() -> None:
    found = measured(
        [("random", "mean"), ("random", "greg"), ("random", "eap"), ("greedy", "blup"), ("hybrid", "eap"),
         ("hybrid", "recentred_eap"), ("each", "eap")], 8, 10,
    )  # fmt: skip

    assert found["mean, random"].mae >= 0.08
    assert found["eap, random"].mae <= 0.05
    assert found["blup, greedy"].mae <= 0.03
    assert found["eap, each"].mae <= 0.026
    assert found["blup, greedy"].tau > found["mean, random"].tau + 0.08
    for name in ("eap, random", "blup, greedy", "eap, hybrid", "recentred_eap, hybrid"):
        assert 0.87 <= found[name].coverage <= 0.96, name


@pytest.mark.slow
def test_intervals_of_items_that_follow_the_answers_hold_on_gsm8k() -> None:
    found = measured([("adaptive", "eap"), ("adaptive", "blup"), ("each", "eap")], 16, 1, "gsm")

    for name, accuracy_ in found.items():
        assert 0.86 <= accuracy_.coverage <= 0.96, name


@pytest.mark.slow
def test_recentring_takes_the_bias_off_the_best_quarter() -> None:
    arc = loader()("arc_challenge")
    ranked = np.argsort(arc.full_scores, kind="stable")
    fits, tested = Fits(Bank(arc.of(ranked[:163])), iterations=6), arc.of(ranked[163:])
    bias = {}
    for name in ("eap", "recentred_eap", "blup", "recentred_blup"):
        scores = [predict(fits, tested.values, Approach("random", name), 20, Stream(0, draw)) for draw in range(60)]
        bias[name] = accuracy(tested.full_scores, scores, generator(0)).bias

    assert bias["blup"] < -0.04
    assert bias["eap"] < -0.02
    assert abs(bias["recentred_eap"]) <= 0.01
    assert abs(bias["recentred_blup"]) <= 0.01
