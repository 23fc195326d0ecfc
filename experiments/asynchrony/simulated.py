"""A pool of workers without models: answers come from a function of the recipe, after log-normal latencies."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable

import numpy as np

from evomerge.errors import Failure, FailureReason
from evomerge.recipe.schema import Recipe
from evomerge.recipe.written import read
from fitness.evaluator import Responses
from workers.job import Job, JobResult

Answer = Callable[[Recipe, dict[str, tuple[str, ...]]], dict[str, Responses]]


class SimulatedPool:
    """Fulfils `workers.job.Pool`, in real time.

    Args:
        size: workers.
        answer: responses of a recipe to items.
        median_s: of the latencies, which are log-normal with sigma 0.7 (their mean is 1.28 times the median).
        failures: share of jobs that end as out of memory.
        seed: of latencies and failures.
    """

    def __init__(self, size: int, answer: Answer, *, median_s: float, failures: float, seed: int) -> None:
        self.size, self.device = size, "cpu"
        self.busy_s = 0.0
        self._answer, self._median_s, self._failures = answer, median_s, failures
        self._rng = np.random.default_rng(seed)
        self._running: list[tuple[float, int, Job]] = []

    def submit(self, job: Job) -> None:
        """Begin a job now."""
        latency = self._median_s * float(self._rng.lognormal(0.0, 0.7))
        self.busy_s += latency
        heapq.heappush(self._running, (time.perf_counter() + latency, job.number, job))

    def wait(self, timeout_s: float) -> list[JobResult]:
        """All jobs that have ended, one at least unless the time runs out."""
        if not self._running:
            return []
        time.sleep(min(timeout_s, max(0.0, self._running[0][0] - time.perf_counter())))
        results = []
        while self._running and self._running[0][0] <= time.perf_counter():
            _, number, job = heapq.heappop(self._running)
            results.append(self._end(number, job))
        return results

    def _end(self, number: int, job: Job) -> JobResult:
        if self._rng.random() < self._failures:
            return JobResult(number, failure=Failure(FailureReason.OUT_OF_MEMORY, "simulated"))
        return JobResult(number, self._answer(read(job.recipe), job.items), worker="simulated")

    def cancel(self) -> None:
        """Nothing comes of what is running."""
        self._running.clear()

    def close(self) -> None:
        """Nothing to stop."""
