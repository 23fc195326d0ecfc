"""The pool without Ray: one worker in a thread of this process. The same contract, for tests and small searches."""

from __future__ import annotations

import queue
import threading
import time

from workers.job import Job, JobResult, WorkerSpec


class LocalPool:
    """One job after the other, in the order submitted. Models are loaded with the first job.

    A job in this process cannot be interrupted: its deadline is not enforced, `cancel` drops its result when it comes,
    and `close` waits for it. A search that must survive hanging or dying evaluations needs the Ray pool.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._jobs: queue.SimpleQueue[tuple[int, Job] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[int, JobResult]] = queue.SimpleQueue()
        self._round = 0  # `cancel` begins a new one; jobs and results of older rounds are dropped
        self._thread: threading.Thread | None = None

    @property
    def size(self) -> int:
        """One."""
        return 1

    @property
    def device(self) -> str:
        """This process's."""
        from workers.resident_worker import device_of  # as in `_work`

        return device_of(self._spec.device)

    def submit(self, job: Job) -> None:
        """Hand over a job."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="local-worker", daemon=True)
            self._thread.start()
        self._jobs.put((self._round, job))

    def wait(self, timeout_s: float) -> list[JobResult]:
        """Finished jobs, at least one unless the time runs out."""
        end = time.monotonic() + timeout_s
        results: list[JobResult] = []
        while True:
            left = 0.0 if results else max(0.0, end - time.monotonic())
            try:
                turn, result = self._results.get(timeout=left) if left else self._results.get_nowait()
            except queue.Empty:
                if results or time.monotonic() >= end:
                    return results
            else:
                if turn == self._round:
                    results.append(result)

    def cancel(self) -> None:
        """Drop all jobs; the one at hand runs on unseen."""
        self._round += 1

    def close(self) -> None:
        """End the thread, after the job at hand."""
        self.cancel()
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        from workers.resident_worker import Worker  # seconds of imports, which those who only submit are spared

        worker = Worker(self._spec, "local")
        while (entry := self._jobs.get()) is not None:
            turn, job = entry
            if turn == self._round:
                self._results.put((turn, worker.run(job)))
