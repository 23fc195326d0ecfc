"""What every pool must do. Subclass `PoolContract` and give it the fixtures `spec` (tiny models) and `pool`."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.errors import FailureReason
from evomerge.recipe.schema import Merge, Recipe
from tests.workers.tiny import NUM_ITEMS
from workers.job import Job, JobResult, Pool, WorkerSpec

PATIENCE_S = 120.0
ALL = tuple(f"sum-{n}" for n in range(NUM_ITEMS))


def job(spec: WorkerSpec, number: int, math: float = 0.5, ja: float = 0.5, ids: tuple[str, ...] = ALL) -> Job:
    """Score a weighted sum of the fine-tunes' deltas."""
    merge = Merge(method="task_arithmetic", sources={"math": {"weight": math}, "ja": {"weight": ja}})
    return Job(number, _with(spec.recipe, merge), {"sums": ids}, deadline_s=PATIENCE_S)


def collect(pool: Pool, num_results: int) -> dict[int, JobResult]:
    """So many results, by number; each number once."""
    results: dict[int, JobResult] = {}
    end = time.monotonic() + PATIENCE_S
    while len(results) < num_results and time.monotonic() < end:
        for result in pool.wait(1.0):
            assert result.number not in results, "each job has one result"
            results[result.number] = result
    return results


class PoolContract:
    """Inherit, and add the fixtures `spec` and `pool`."""

    def test_every_job_comes_back_once_with_its_responses(self, pool: Pool, spec: WorkerSpec) -> None:
        numbers = range(2 * pool.size + 1)
        for n in numbers:
            pool.submit(job(spec, n, math=n / 10))
        results = collect(pool, len(numbers))

        assert sorted(results) == list(numbers)
        for result in results.values():
            assert result.failure is None
            assert result.responses["sums"].item_ids == ALL
            assert set(result.responses["sums"].values) >= {"accuracy", "log_likelihood", "choice_probability"}
            assert set(result.seconds) == {"materialize", "score"}
            assert result.worker
        assert pool.wait(0.0) == []

    def test_a_source_alone_scores_as_its_checkpoint_does_in_transformers(self, pool: Pool, spec: WorkerSpec) -> None:
        math = spec.recipe.sources["math"]
        alone = spec.recipe.model_copy(update={"sources": {"math": math}, "merge": Merge(method="passthrough")})
        pool.submit(Job(0, alone, {"sums": ALL}, deadline_s=PATIENCE_S))
        result = collect(pool, 1)[0]

        assert result.failure is None
        expected = [_log_likelihood(math.location, f"{n} + {n} =", f" {n + n}") for n in range(NUM_ITEMS)]
        assert result.responses["sums"].values["log_likelihood"] == pytest.approx(expected, abs=1e-4)

    def test_a_candidate_scores_the_same_whatever_came_before(self, pool: Pool, spec: WorkerSpec) -> None:
        for n, math in enumerate([0.5, -0.7, 0.5, 1.3, 0.5]):
            pool.submit(job(spec, n, math=math, ja=0.25))
        results = collect(pool, 5)
        values = [results[n].responses["sums"].values for n in range(5)]

        assert values[0] == values[2] == values[4]
        assert values[0] != values[1]

    def test_only_the_items_asked_for_are_scored(self, pool: Pool, spec: WorkerSpec) -> None:
        pool.submit(job(spec, 0, ids=("sum-7", "sum-3")))

        assert collect(pool, 1)[0].responses["sums"].item_ids == ("sum-7", "sum-3")

    def test_a_bad_recipe_is_a_failure_and_the_next_job_is_not(self, pool: Pool, spec: WorkerSpec) -> None:
        bad = replace(job(spec, 0), recipe=_with(spec.recipe, Merge(method="magic")))
        pool.submit(bad)
        pool.submit(job(spec, 1))
        results = collect(pool, 2)

        failure = results[0].failure
        assert failure is not None
        assert failure.reason is FailureReason.BAD_RECIPE
        assert "magic" in failure.message
        assert results[0].responses == {}
        assert results[1].failure is None

    def test_weights_that_overflow_are_a_failure_and_leave_no_trace(self, pool: Pool, spec: WorkerSpec) -> None:
        for n, math in enumerate([0.5, 1e41, 0.5]):
            pool.submit(job(spec, n, math=math, ja=math))
        results = collect(pool, 3)

        failure = results[1].failure
        assert failure is not None
        assert failure.reason is FailureReason.NON_FINITE
        assert results[0].responses["sums"].values == results[2].responses["sums"].values

    def test_an_unforeseen_error_is_a_failure_with_its_name(self, pool: Pool, spec: WorkerSpec) -> None:
        pool.submit(job(spec, 0, ids=("sum-0", "no such item")))
        failure = collect(pool, 1)[0].failure

        assert failure is not None
        assert failure.reason is FailureReason.BAD_RECIPE
        assert "KeyError" in failure.message
        assert "no such item" in failure.message

    def test_cancelled_jobs_give_no_results_and_later_ones_do(self, pool: Pool, spec: WorkerSpec) -> None:
        for n in range(2 * pool.size):
            pool.submit(job(spec, n))
        pool.cancel()
        pool.submit(job(spec, 99))

        assert sorted(collect(pool, 1)) == [99]
        assert pool.wait(0.5) == []

    def test_waiting_for_nothing_takes_the_time_given(self, pool: Pool) -> None:
        began = time.monotonic()

        assert pool.wait(0.2) == []
        assert time.monotonic() - began >= 0.19


def _with(recipe: Recipe, merge: Merge) -> Recipe:
    return recipe.model_copy(update={"merge": merge})


def _log_likelihood(checkpoint: str, context: str, choice: str) -> float:
    """The slow way: one forward pass for one choice."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    before, ids = len(tokenizer(context)["input_ids"]), tokenizer(context + choice)["input_ids"]
    with torch.no_grad():
        log_p = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(log_p[at - 1, ids[at]]) for at in range(before, len(ids)))
