"""The pool of Ray actors under the pool contract, and what happens when its processes die, hang or must go."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from evomerge.errors import FailureReason, InvalidInputError
from tests.workers.pool_contract import PATIENCE_S, PoolContract, collect, job
from tests.workers.tiny import make_spec
from workers import ray_runtime
from workers.job import WorkerSpec
from workers.ray_pool import RayPool

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> WorkerSpec:
    return make_spec(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def runtime() -> Iterator[None]:
    """One runtime for the module; room for a pool of two and another beside it."""
    assert ray_runtime.start(count=3)
    yield
    ray_runtime.stop()


@pytest.fixture(scope="module")
def pool(runtime: None, spec: WorkerSpec) -> Iterator[RayPool]:
    pool = RayPool(spec, count=2)
    yield pool
    pool.close()


def started(pool: RayPool) -> tuple[int, ...]:
    """The processes of all workers, once all have loaded."""
    end = time.monotonic() + PATIENCE_S
    while len(pool.pids) < pool.size and time.monotonic() < end:
        assert pool.wait(0.1) == []
    assert len(pool.pids) == pool.size
    return pool.pids


def ends(pid: int) -> bool:
    """Whether a process ends soon; a zombie has ended."""
    limit = time.monotonic() + 30
    while time.monotonic() < limit:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
    return False


class TestRayPool(PoolContract):
    pass


def test_workers_are_processes_that_work_side_by_side(pool: RayPool, spec: WorkerSpec) -> None:
    pids = started(pool)
    for n in range(pool.size):
        pool.submit(job(spec, n))
    results = collect(pool, pool.size)

    assert len({*pids, os.getpid()}) == pool.size + 1
    assert len({result.worker for result in results.values()}) == pool.size


def test_a_killed_worker_is_reported_and_the_pool_goes_on(pool: RayPool, spec: WorkerSpec) -> None:
    killed, *_ = started(pool)
    os.kill(killed, signal.SIGSTOP)  # so that its job is certainly unfinished when it dies
    for n in range(pool.size):
        pool.submit(job(spec, n))
    os.kill(killed, signal.SIGKILL)
    results = collect(pool, pool.size)
    pool.submit(job(spec, 9))
    later = collect(pool, 1)

    failure = results[0].failure
    assert failure is not None
    assert failure.reason is FailureReason.WORKER_LOST
    assert results[1].failure is None
    assert later[9].failure is None
    assert killed not in started(pool)


def test_a_hung_worker_is_given_up_at_the_deadline(pool: RayPool, spec: WorkerSpec) -> None:
    hung, *_ = started(pool)
    os.kill(hung, signal.SIGSTOP)
    for n in range(pool.size):
        pool.submit(replace(job(spec, n), deadline_s=2.0 if n == 0 else PATIENCE_S))
    results = collect(pool, pool.size)
    pool.submit(job(spec, 9))
    after = collect(pool, 1)

    failure = results[0].failure
    assert failure is not None
    assert failure.reason is FailureReason.TIMEOUT
    assert "2 s" in failure.message
    assert results[1].failure is None
    assert after[9].failure is None
    assert ends(hung)


def test_a_worker_that_dies_while_it_loads_gives_its_job_back(runtime: None, spec: WorkerSpec, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "items.jsonl")  # whoever reads it waits for a writer
    pool = RayPool(replace(spec, eval_sets={"sums": str(tmp_path / "items.jsonl")}), count=1, start_s=1.0)
    pool.submit(job(spec, 5))
    failure = collect(pool, 1)[5].failure
    pool.close()

    assert failure is not None
    assert failure.reason is FailureReason.WORKER_LOST
    assert "did not start within 1 s" in failure.message
    assert ray_runtime.capacity("CPU") >= 3  # the runtime was not the pool's and lives on


def test_more_workers_than_cores_are_refused(runtime: None, spec: WorkerSpec) -> None:
    with pytest.raises(InvalidInputError, match=r"workers\.count"):
        RayPool(spec, count=1000)


def test_gpu_workers_without_a_gpu_are_refused(runtime: None, spec: WorkerSpec) -> None:
    if ray_runtime.capacity("GPU"):
        pytest.skip("this machine has a GPU")
    with pytest.raises(InvalidInputError, match="0 GPUs"):
        RayPool(replace(spec, device="cuda"))


def test_a_runtime_without_authentication_is_refused() -> None:
    code = "from workers import ray_runtime; ray_runtime.start(1)"
    ended = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"RAY_AUTH_MODE": "disabled"}, capture_output=True, text=True
    )

    assert ended.returncode != 0
    assert "RAY_AUTH_MODE" in ended.stderr


OWNER = """
import os, pickle, signal, sys
from pathlib import Path
from tests.workers.pool_contract import collect, job
from workers.ray_pool import RayPool

def note(number, frame): pass
signal.signal(signal.SIGTERM, note)
spec = pickle.loads(Path(sys.argv[1]).read_bytes())
pool = RayPool(spec, count=1)
assert signal.getsignal(signal.SIGTERM) is note, "Ray took SIGTERM"
pool.submit(job(spec, 0))
result = collect(pool, 1)[0]
assert result.failure.reason == "bad_recipe" and "gone.jsonl" in result.failure.message, result.failure
assert len(pool.pids) == 1, pool.pids
children = {int(p) for t in Path("/proc/self/task").iterdir() for p in (t / "children").read_text().split()}
assert len(children) >= 2, children
assert os.getpriority(os.PRIO_PROCESS, pool.pids[0]) == os.getpriority(os.PRIO_PROCESS, 0)
print("processes:", *pool.pids, *children)
pool.close()
assert signal.getsignal(signal.SIGTERM) is note, "Ray took SIGTERM"
left = [pid for pid in children if Path(f"/proc/{pid}").exists()]
assert not left, left
"""


def test_workers_that_cannot_load_fail_their_jobs_and_a_pools_own_runtime_ends_with_it(
    spec: WorkerSpec, tmp_path: Path
) -> None:
    pickled = tmp_path / "spec"
    pickled.write_bytes(pickle.dumps(replace(spec, eval_sets={"sums": str(tmp_path / "gone.jsonl")})))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["HOME"] = str(tmp_path / "no such home")
    command = [sys.executable, "-c", OWNER, str(pickled)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith("processes:")]  # Ray prints, too
    pids = [int(pid) for pid in line.split()[1:]]

    assert len(pids) >= 3
    assert all(map(ends, pids))
