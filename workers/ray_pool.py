"""The pool of Ray actors: one resident worker a core or GPU. Retries are the controller's, so Ray makes none; a worker
that dies or hangs is replaced, and its job comes back as `worker_lost` or `timeout`."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.exceptions

from evomerge.errors import Failure, FailureReason, InvalidInputError
from workers import ray_runtime
from workers.job import Job, JobResult, WorkerSpec

log = logging.getLogger(__name__)

START_S = 600.0
"""A worker that has not loaded its models after this long is given up."""
_CLOSE_S = 10.0


class _Actor:
    """A worker in a process of its own."""

    def __init__(self, spec: WorkerSpec, name: str) -> None:
        from workers.resident_worker import Worker  # seconds of imports, which the controller is spared

        self._worker = Worker(spec, name)

    def start(self) -> tuple[str, int, Failure | None]:
        """Load; the node and process that this is, and what went wrong with loading."""
        return ray.get_runtime_context().get_node_id(), os.getpid(), self._worker.start()

    def run(self, job: Job) -> JobResult:
        return self._worker.run(job)


@dataclass(slots=True)
class _Slot:
    """A place for one actor.

    `actor` None: there is none. `task` None: it is idle. `job` None: the task is its start. `pid` 0: it has not
    started, or it runs on another machine.
    """

    name: str
    actor: Any = None
    task: Any = None
    job: Job | None = None
    gives_up: float = 0.0
    ready: bool = False
    pid: int = 0


class RayPool:
    """Workers as Ray actors. Use from one thread.

    Args:
        spec: what each worker keeps resident; device `auto` is a GPU where the cluster has one.
        count: workers; None is one a GPU with `cuda`, else one a core.
        address: an existing cluster, `HOST:PORT`; None starts a runtime on this machine that ends with `close`. A
            process that is connected already keeps its connection.
        namespace: Ray namespace.
        start_s: time that a worker has to load the models.

    Raises:
        InvalidInputError: more workers than the cluster has cores or GPUs for.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        count: int | None = None,
        *,
        address: str | None = None,
        namespace: str = ray_runtime.NAMESPACE,
        start_s: float = START_S,
    ) -> None:
        self._start_s = start_s
        self._owns_runtime = ray_runtime.start(count, address, namespace)
        self._waiting: deque[Job] = deque()
        self._finished: list[JobResult] = []
        self._slots: list[_Slot] = []
        try:
            self._spec = replace(spec, device=_device(spec.device))
            self._node = ray.get_runtime_context().get_node_id()
            resource = "GPU" if self._spec.device.startswith("cuda") else "CPU"
            size = _size(count, resource)
            options = {"num_cpus": 1, "num_gpus": int(resource == "GPU"), "max_restarts": 0, "max_task_retries": 0}
            self._actor_class = ray.remote(_Actor).options(**options)
            self._slots = [_Slot(f"ray-{n}") for n in range(size)]
            for slot in self._slots:  # all at once: loading takes seconds
                self._start(slot)
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        """The number of workers."""
        return len(self._slots)

    @property
    def device(self) -> str:
        """That every worker uses."""
        return self._spec.device

    @property
    def pids(self) -> tuple[int, ...]:
        """Processes of the workers on this machine that have started."""
        return tuple(slot.pid for slot in self._slots if slot.pid)

    def submit(self, job: Job) -> None:
        """Hand over a job; it begins when a worker is free, and so does its deadline."""
        self._waiting.append(job)
        self._dispatch()

    def wait(self, timeout_s: float) -> list[JobResult]:
        """Finished jobs, at least one unless the time runs out."""
        end = time.monotonic() + timeout_s
        while True:
            self._settle(0.0 if self._finished else end - time.monotonic())
            self._dispatch()
            if self._finished or time.monotonic() >= end:
                results, self._finished = self._finished, []
                return results

    def cancel(self) -> None:
        """Give up all jobs: their workers are ended and new ones started."""
        self._waiting.clear()
        self._finished.clear()
        for slot in self._slots:
            if slot.job is not None:
                self._replace(slot)

    def close(self) -> None:
        """End all workers, and the runtime if it is this pool's."""
        pids = self.pids
        for slot in self._slots:
            self._end(slot)
        self._waiting.clear()
        self._finished.clear()
        self._slots = []
        if self._owns_runtime:
            ray_runtime.stop()
            self._owns_runtime = False
        _wait_for_end(pids)

    def _dispatch(self) -> None:
        for slot in self._slots:
            if not self._waiting:
                return
            if slot.actor is None:
                self._start(slot)
            elif slot.task is None:
                slot.job = self._waiting.popleft()
                slot.task = slot.actor.run.remote(slot.job)
                slot.gives_up = time.monotonic() + slot.job.deadline_s

    def _settle(self, timeout_s: float) -> None:
        """Wait for the first task to end, or for the first deadline, and take note of all that ended."""
        tasks = {slot.task: slot for slot in self._slots if slot.task is not None}
        limits = [slot.gives_up - time.monotonic() for slot in tasks.values()]
        patience = max(0.0, min([timeout_s, *limits]))
        if not tasks:
            time.sleep(patience)
            return
        ray.wait(list(tasks), num_returns=1, timeout=patience)
        ended, _ = ray.wait(list(tasks), num_returns=len(tasks), timeout=0)
        for task in ended:
            self._take(tasks[task])
        for slot in tasks.values():
            if slot.task is not None and time.monotonic() >= slot.gives_up:
                self._give_up(slot)

    def _take(self, slot: _Slot) -> None:
        """The outcome of a task that ended."""
        task, job = slot.task, slot.job
        slot.task = slot.job = None
        try:
            outcome = ray.get(task)
        except ray.exceptions.RayError as error:
            self._lost(slot, job, _reason(error))
            return
        if job is None:
            node, pid, failure = outcome
            slot.ready, slot.pid = True, pid if node == self._node else 0
            if failure is not None:  # each job that is sent there will try again and say the same
                log.warning("worker %s could not load: %s", slot.name, failure.message)
            return
        self._finished.append(outcome)
        if outcome.failure is not None and outcome.failure.reason is FailureReason.WORKER_LOST:
            self._replace(slot)  # it answered, but its device is gone

    def _give_up(self, slot: _Slot) -> None:
        job = slot.job
        if job is None:
            message = f"worker {slot.name} did not start within {self._start_s:g} s"
            self._lost(slot, None, Failure(FailureReason.WORKER_LOST, message))
        else:
            message = f"worker {slot.name} gave no answer within {job.deadline_s:g} s"
            self._lost(slot, job, Failure(FailureReason.TIMEOUT, message))

    def _lost(self, slot: _Slot, job: Job | None, failure: Failure) -> None:
        """A worker is gone. Its job comes back; so does a job that waits when no worker is left to take it."""
        log.warning("worker %s (process %s) lost: %s", slot.name, slot.pid or "unknown", failure.message)
        self._end(slot)
        if job is None and self._waiting and not any(other.ready for other in self._slots):
            job = self._waiting.popleft()
        if job is not None:
            self._finished.append(JobResult(job.number, failure=failure, worker=slot.name))
            self._start(slot)

    def _replace(self, slot: _Slot) -> None:
        self._end(slot)
        self._start(slot)

    def _start(self, slot: _Slot) -> None:
        slot.actor = self._actor_class.remote(self._spec, slot.name)
        slot.task = slot.actor.start.remote()
        slot.gives_up = time.monotonic() + self._start_s

    def _end(self, slot: _Slot) -> None:
        if slot.actor is not None:
            ray.kill(slot.actor)
        if slot.pid:
            with suppress(ProcessLookupError):  # a stopped process does not hear Ray
                os.kill(slot.pid, signal.SIGKILL)
        slot.actor = slot.task = slot.job = None
        slot.ready, slot.pid = False, 0


def _device(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    return "cuda" if ray_runtime.capacity("GPU") else "cpu"


def _size(count: int | None, resource: str) -> int:
    room = ray_runtime.capacity(resource)
    if room < 1 or (count or 0) > room:
        raise InvalidInputError("workers.count", count, f"at most the {room} {resource}s that Ray has")
    return count or room


def _reason(error: ray.exceptions.RayError) -> Failure:
    text = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return Failure(
            FailureReason.OUT_OF_MEMORY, f"Ray ended the worker because the machine's memory ran out: {text}"
        )
    if isinstance(error, ray.exceptions.RayTaskError):
        return Failure(FailureReason.BAD_RECIPE, f"unexpected error in the worker: {error.cause!r}")
    return Failure(FailureReason.WORKER_LOST, f"the worker ended ({type(error).__name__}): {text}")


def _wait_for_end(pids: tuple[int, ...]) -> None:
    end = time.monotonic() + _CLOSE_S
    while any(map(_runs, pids)) and time.monotonic() < end:
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    """Whether a process of ours has not ended; one that only waits for its parent's notice has."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
