"""Calibration reports: what was put into a simulated bank is found in its report, as JSON, as text and by command."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from api.cli import app
from evomerge.errors import InvalidInputError
from evomerge.seeds import generator
from fitness.irt.accuracy import accuracy, kendall
from fitness.irt.calibration import SCHEMA, ItemReport, item_report
from fitness.irt.contracts import Bank, Scores
from fitness.irt.curves import diagram, drift
from fitness.irt.fits import Fits
from fitness.irt.intervals import half_width
from fitness.irt.report_text import render
from fitness.irt.selection import Stream, select
from fitness.matrix import ResponseMatrix, make_matrix


def simulated(num_subjects: int, num_items: int = 120, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(1)
    a, beta = rng.lognormal(0, 0.4, num_items), rng.normal(0, 1.2, num_items)
    rng = np.random.default_rng(seed)
    theta = rng.normal(shift, 1.2, num_subjects)
    return (rng.random((num_subjects, num_items)) < 1 / (1 + np.exp(beta - np.outer(theta, a)))).astype(np.float64)


def matrix_of(values: np.ndarray) -> ResponseMatrix:
    return make_matrix(values, [f"m{i}" for i in range(len(values))], [f"i{i}" for i in range(values.shape[1])])


@pytest.fixture(scope="module")
def matrix() -> ResponseMatrix:
    values = simulated(40, 90)
    values[:, 3] = 1.0
    values[np.argsort(values.sum(axis=1)), 5] = np.arange(40) < 20
    return matrix_of(values)


@pytest.fixture(scope="module")
def report(matrix: ResponseMatrix) -> ItemReport:
    return item_report(Bank(matrix, (0, 1)), eval_set="toy", numbers=(10, 40, 500))


def test_it_counts_subjects_items_and_defects(report: ItemReport) -> None:
    assert (report.subjects, report.items) == (40, 90)
    assert "i3" in report.constant
    assert "i5" in report.negative
    assert {one.n for one in report.methods} == {10, 40}


def test_more_items_are_more_exact_and_choice_beats_chance(report: ItemReport) -> None:
    found = {(one.policy, one.estimator, one.n): one.accuracy for one in report.methods}
    key = ("random", "mean")

    assert found[(*key, 40)].mae < found[(*key, 10)].mae
    assert found["random", "eap", 10].mae < found[(*key, 10)].mae
    assert found["greedy", "blup", 10].tau > found[(*key, 10)].tau - 0.05
    assert ("parent_neyman", "difference", 10) in found
    assert all(one.regret >= 0 for one in found.values())
    assert all(0.6 < one.coverage <= 1 for one in found.values() if not math.isnan(one.coverage))


def test_the_best_quarter_is_predicted_from_the_others(report: ItemReport) -> None:
    found = {(one.policy, one.estimator, one.n): one.accuracy for one in report.top_quartile}

    assert found["random", "eap", 10].bias < 0  # drawn to a bank that is weaker
    assert ("random", "recentred_eap", 10) in found
    assert found["random", "eap", 10].num_estimates == 4 * 10


def test_item_curves_of_their_own_model_are_calibrated(report: ItemReport) -> None:
    assert report.reliability is not None
    assert sum(one.count for one in report.reliability.bins) == 38 * 50
    assert report.reliability.error < 0.06


def test_it_recommends_what_the_gate_allows(report: ItemReport) -> None:
    assert report.recommended is not None
    assert report.recommended.n in (10, 40)
    assert 0 < report.recommended.reliability <= 1
    assert [one.n for one in report.gates] == [10, 40]


def test_it_is_json_without_nan_and_the_same_each_time(matrix: ResponseMatrix, report: ItemReport) -> None:
    found = report.to_dict()

    assert found["schema"] == SCHEMA == "evomerge.item_report/1"
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    again = item_report(Bank(matrix, (0, 1)), eval_set="toy", numbers=(40,))
    assert again.to_dict()["methods"] == [one for one in found["methods"] if one["n"] == 40]


def test_the_text_has_a_line_for_each_method(report: ItemReport) -> None:
    text = render(report)

    assert "Item bank of toy: 40 subjects, 90 items" in text
    assert sum(line.startswith("recentred_eap") for line in text.splitlines()) == 4
    assert "Recommended: " in text
    assert max(map(len, text.splitlines())) < 200


def test_small_banks_and_wide_metrics_leave_models_out() -> None:
    values = simulated(7, 60)
    small = item_report(Bank(matrix_of(values)), numbers=(10,))
    wide = item_report(Bank(matrix_of(9 * values)), numbers=(10,))

    assert {one.estimator for one in small.methods} == {"mean", "stratified", "greg"}
    assert wide.reliability is None
    assert not small.gates[0].open
    assert render(small)
    with pytest.raises(InvalidInputError, match="at least 3"):
        item_report(Bank(matrix_of(values[:2])))


def test_drift_is_seen_where_items_have_changed() -> None:
    bank = Bank(matrix_of(simulated(40)))
    fits = Fits(bank, iterations=4)
    same, other = [], []
    for generation in range(8):
        fresh = simulated(12, seed=50 + generation, shift=0.5)
        hybrid = select(bank, 40, "hybrid", Stream(0, generation))
        changed = fresh.copy()
        # Another prompt: what is drawn is answered worse than the items that ability is taken from.
        drawn = hybrid.places[hybrid.random]
        changed[:, drawn] *= np.random.default_rng(generation).random((12, len(drawn))) < 0.3
        same.append((generation, hybrid, fresh[:, hybrid.places]))
        other.append((generation, hybrid, changed[:, hybrid.places]))
    calm, stale = drift(fits, same), drift(fits, other)

    assert not any(one.stale for one in calm)
    assert all(one.z < 0 for one in stale)
    assert sum(one.stale for one in stale) >= 5
    few = Bank(bank.matrix.of(np.arange(9)))
    found = item_report(few, numbers=(10,), generations=other)
    assert found.stale == found.drift[-1].stale
    assert ("STALE" in render(found)) == any(one.stale for one in found.drift)


def test_generations_without_chosen_items_tell_nothing_of_drift(matrix: ResponseMatrix) -> None:
    bank = Bank(matrix)
    random, answers = select(bank, 30, "random", Stream(0)), simulated(10, 90, seed=9)

    assert drift(Fits(bank), [(0, random, answers[:, random.places])]) == ()


def test_a_diagram_of_known_numbers() -> None:
    found = diagram(np.array([0.05, 0.05, 0.95, 1.0]), np.array([0.0, 1.0, 1.0, 1.0]))

    assert [one.count for one in found.bins] == [2, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert found.bins[0].observed == 0.5
    assert found.error == pytest.approx((2 * 0.45 + 2 * 0.025) / 4)


def test_accuracy_of_known_estimates() -> None:
    truth = np.array([0.1, 0.2, 0.3, 0.4])
    high = Scores(truth + 0.05, np.full(4, 0.04), False)
    wrong = Scores(truth[::-1].copy(), np.full(4, 0.01), False)
    found = accuracy(truth, [high], generator(0))
    other = accuracy(truth, [wrong], generator(0))
    constant = accuracy(truth, [Scores(np.full(4, 0.25), np.full(4, np.nan), False)], generator(0))

    assert (found.mae, found.bias, found.rmse) == pytest.approx((0.05, 0.05, 0.05))
    assert (found.tau, found.regret, found.coverage) == pytest.approx((1.0, 0.0, 1.0))
    assert found.inflation == pytest.approx(0.05)
    assert (other.tau, other.regret, other.inflation) == pytest.approx((-1.0, 0.3, 0.3))
    assert math.isnan(constant.tau)
    assert math.isnan(constant.coverage)
    assert math.isnan(kendall(truth, np.zeros(4)))
    assert half_width(5) > half_width(50) > half_width(None)
    with pytest.raises(ValueError, match="sets of 4"):
        accuracy(truth, [], generator(0))


def test_the_command_prints_a_report(matrix: ResponseMatrix, tmp_path: Path) -> None:
    path = tmp_path / "toy.npz"
    matrix.save(path)
    plain = CliRunner().invoke(app, ["items", "report", str(path), "--parents", "m0", "--numbers", "10"])
    matrix.of(np.arange(7)).save(path)
    as_json = CliRunner().invoke(app, ["items", "report", str(path), "--numbers", "10", "--json"])

    assert plain.exit_code == 0, plain.output
    assert "Item bank of toy" in plain.output
    assert json.loads(as_json.output)["schema"] == SCHEMA
    for wrong in (["--parents", "nobody"], ["--numbers", "10,x"]):
        result = CliRunner().invoke(app, ["items", "report", str(path), *wrong])
        assert isinstance(result.exception, InvalidInputError)
