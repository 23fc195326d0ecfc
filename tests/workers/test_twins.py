"""Candidates with the same recipe on the same items: one is asked, and answers for all."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from evomerge.errors import Failure, FailureReason
from evomerge.recipe.schema import Recipe
from evomerge.storage.store import CandidateQuery, CandidateRow, Store
from tests.workers import tiny_run
from tests.workers.tiny_run import run_spec
from workers.controller import Controller
from workers.drive import ControllerSettings
from workers.job import Job, JobResult, WorkerSpec
from workers.local import LocalPool
from workers.registry import Registry
from workers.twins import Twins

FIRST = len(tiny_run.BASELINES)
"""Number of the first search candidate: the start."""


class FourAtOnce(LocalPool):
    """Takes four jobs before it answers any, and fails some without a look.

    Args:
        failing: numbers of candidates.
        stop: is set as soon as the start is being asked.
    """

    def __init__(self, spec: WorkerSpec, failing: tuple[int, ...], stop: threading.Event | None) -> None:
        super().__init__(spec)
        self._stop = stop
        self.numbers: list[int] = []
        self._failing = failing
        self._failed: list[JobResult] = []

    @property
    def size(self) -> int:
        return 4

    def submit(self, job: Job) -> None:
        self.numbers.append(job.number)
        if job.number in self._failing:
            failure = Failure(FailureReason.OUT_OF_MEMORY, "no place")
            self._failed.append(JobResult(job.number, failure=failure))
        else:
            super().submit(job)

    def wait(self, timeout_s: float) -> list[JobResult]:
        if self._stop is not None and FIRST in self.numbers:
            self._stop.set()
            return []
        failed, self._failed = self._failed, []
        return failed or super().wait(timeout_s)


def searched(
    store: Store, registry: Registry, folder: Path, failing: tuple[int, ...] = (), *, interrupted: bool = False
) -> tuple[list[CandidateRow], list[int]]:
    """The start and its twin in a search that is given the start's recipe, but for what repair takes away, and who was
    asked."""
    near = {"method": "task_arithmetic", "sources": {"math": {"weight": 0.5000001}, "ja": {"weight": 0.5}}}
    models = {name: {"location": str(registry.model(name))} for name in ("base", "math", "ja")}
    given = {"base": models["base"], "sources": {n: models[n] for n in ("math", "ja")}, "merge": near}
    spec = run_spec(
        optimizer={"name": "cma_es", "options": {"population": 8}},
        seeds=[Recipe.model_validate(given).model_dump(mode="json", by_alias=True)],
        dtype="float32",
    )
    run = store.create_run(spec, "twins")[0].id
    if interrupted:
        stop = threading.Event()
        drive(store, registry, folder, run, (), stop)
        assert stop.is_set()
    pool = drive(store, registry, folder, run, failing)
    row = store.run(run)
    assert row is not None
    assert (row.state, row.reason) == ("succeeded", None)
    assert tiny_run.counted_once(tiny_run.events_of(store, run))
    rows = store.candidates(run, CandidateQuery(kind="search"))[0]
    return [row for row in rows if row.digest == rows[0].digest and row.generation == 0], pool.numbers


def drive(
    store: Store,
    registry: Registry,
    folder: Path,
    run: str,
    failing: tuple[int, ...],
    stop: threading.Event | None = None,
) -> FourAtOnce:
    """Drive a run until it is over, or until the start is being asked; the pool that it had."""
    pools = list[FourAtOnce]()

    def pool(worker: WorkerSpec, _: object) -> FourAtOnce:
        pools.append(FourAtOnce(worker, failing, stop))
        return pools[-1]

    controller = Controller(store, registry, pool, ControllerSettings(cache=folder / "cache", lease_s=5.0))
    lease = store.acquire(controller.owner, 5.0, run)
    assert lease is not None
    controller.drive(lease, stop or threading.Event())
    return pools[0]


def test_a_recipe_like_one_that_is_being_asked_waits_for_its_answers(
    store: Store, registry: Registry, tmp_path: Path
) -> None:
    (start, twin), asked = searched(store, registry, tmp_path)

    assert (start.number, twin.number) == (FIRST, FIRST + 1)
    assert start.number in asked
    assert twin.number not in asked
    assert (start.cached, twin.cached) == (False, True)
    assert (twin.scores, twin.answers) == (start.scores, start.answers)


def test_where_the_first_one_fails_the_next_one_is_asked(store: Store, registry: Registry, tmp_path: Path) -> None:
    (start, twin), asked = searched(store, registry, tmp_path, failing=(FIRST,))

    assert (start.state, twin.state) == ("failed", "scored")
    assert twin.number in asked
    assert not twin.cached


def test_a_run_that_is_taken_up_again_still_waits(store: Store, registry: Registry, tmp_path: Path) -> None:
    (start, twin), asked = searched(store, registry, tmp_path, interrupted=True)

    assert asked[0] == start.number
    assert twin.number not in asked
    assert twin.cached


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_who_answers_moves_on_with_each_failure(failing: int) -> None:
    twins, question = Twins(), ("digest", 0, 1.0)
    first = [twins.proposed(number, question) for number in range(4)]
    for number in range(failing):
        twins.failed(number)

    assert first == [None, 0, 0, 0]
    assert failing not in twins
    assert twins.scored(failing) == list(range(failing + 1, 4))
    assert [twins.scored(number) for number in range(failing + 1, 4)] == [[]] * (3 - failing)
    assert len(twins) == 0
    assert twins.proposed(9, question) == failing
    assert twins.proposed(10, ("digest", 1, 1.0)) is None
