"""The benchmark in experiments/benchmarks/toy_merge as a regression test."""

import sys
from pathlib import Path
from statistics import mean

import pytest

pytest.importorskip("sklearn", reason="the toy's digits come from scikit-learn")
sys.path.insert(0, str(Path(__file__).parents[3] / "experiments" / "benchmarks" / "toy_merge"))

import compare_optimizers as benchmark
import digit_experts


@pytest.fixture(scope="module")
def toy():
    return digit_experts.ToyMerge()


def found(toy, name, evaluations, **options):
    """Train accuracy after so many evaluations, mean over seeds."""
    return mean(benchmark.search(toy, name, seed, evaluations, **options)[-1].score for seed in benchmark.SEEDS)


@pytest.mark.slow
def test_two_hundred_evaluations_gain_three_points_over_the_plain_average(toy):
    assert toy.score(digit_experts.AVERAGE) == pytest.approx(0.811, abs=0.005)
    assert found(toy, "cma_es", 200) >= 0.84


@pytest.mark.slow
@pytest.mark.parametrize("evaluations", [50, 200])
def test_auto_and_the_portfolio_are_as_good_as_the_best_of_others(toy, evaluations):
    best = max(found(toy, name, evaluations) for name in ("cma_es", "m2n2", "nsga2"))

    assert found(toy, "auto", evaluations) >= best - 0.005
    assert found(toy, "portfolio", evaluations) >= best - 0.005


@pytest.mark.slow
def test_twelve_workers_with_failures_stay_within_a_point_and_a_half(toy):
    serial, crowd = (found(toy, "cma_es", 300, **more) for more in ({}, {"workers": 12, "failures": 0.1}))

    assert crowd >= serial - 0.015


@pytest.mark.slow
@pytest.mark.parametrize("lineage", [False, True], ids=["genes", "lineages"])
def test_m2n2_gains_as_much_and_loses_nothing_to_24_workers_with_failures(toy, lineage):
    serial, crowd = (
        found(toy, "m2n2", 500, lineage=lineage, **more) for more in ({}, {"workers": 24, "failures": 0.1})
    )

    assert found(toy, "m2n2", 200, lineage=lineage) >= 0.84
    assert crowd >= serial - 0.01


@pytest.mark.slow
def test_without_competition_and_attraction_m2n2_is_a_weak_genetic_algorithm(toy):
    assert found(toy, "m2n2", 200, lineage=True, alpha=0.0, attraction="none") < 0.82
