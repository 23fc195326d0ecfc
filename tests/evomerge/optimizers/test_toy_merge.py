"""The benchmark in experiments/benchmarks/toy_merge as a regression test."""

import sys
from pathlib import Path
from statistics import mean

import pytest

pytest.importorskip("sklearn", reason="the toy's digits come from scikit-learn")
sys.path.insert(0, str(Path(__file__).parents[3] / "experiments" / "benchmarks" / "toy_merge"))

import compare_optimizers as benchmark
import digit_experts


@pytest.mark.slow
def test_two_hundred_evaluations_gain_three_points_over_the_plain_average():
    problem = digit_experts.ToyMerge()
    found = mean(problem.score(benchmark.search(problem, "cma_es", seed, 200)[-1]) for seed in benchmark.SEEDS)

    assert problem.score(digit_experts.AVERAGE) == pytest.approx(0.811, abs=0.005)
    assert found >= 0.84


@pytest.mark.slow
def test_twelve_workers_with_failures_stay_within_a_point_and_a_half():
    problem = digit_experts.ToyMerge()
    serial = mean(problem.score(benchmark.search(problem, "cma_es", seed, 300)[-1]) for seed in benchmark.SEEDS)
    crowd = mean(
        problem.score(benchmark.crowd(problem, "cma_es", seed, 300, workers=12, failures=0.1)[-1])
        for seed in benchmark.SEEDS
    )

    assert crowd >= serial - 0.015
