"""The pool in this process under the pool contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workers.pool_contract import PoolContract, collect, job
from tests.workers.tiny import make_spec
from workers.job import WorkerSpec
from workers.local import LocalPool


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> WorkerSpec:
    return make_spec(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def pool(spec: WorkerSpec) -> Iterator[LocalPool]:
    pool = LocalPool(spec)
    yield pool
    pool.close()


class TestLocalPool(PoolContract):
    pass


def test_jobs_run_in_the_order_submitted(spec: WorkerSpec, pool: LocalPool) -> None:
    for n in (3, 1, 2):
        pool.submit(job(spec, n))

    assert list(collect(pool, 3)) == [3, 1, 2]


def test_a_closed_pool_has_no_thread_and_closes_again(spec: WorkerSpec) -> None:
    pool = LocalPool(spec)
    pool.submit(job(spec, 0))
    pool.close()
    pool.close()

    assert pool.wait(0.0) == []


def test_missing_models_are_a_failure_until_they_are_back(spec: WorkerSpec, tmp_path: Path) -> None:
    moved = make_spec(tmp_path / "models")
    (tmp_path / "models" / "math").rename(tmp_path / "math")
    pool = LocalPool(moved)
    pool.submit(job(moved, 0))
    failure = collect(pool, 1)[0].failure
    (tmp_path / "math").rename(tmp_path / "models" / "math")
    pool.submit(job(moved, 1))
    mended = collect(pool, 1)[1]
    pool.close()

    assert failure is not None
    assert failure.reason == "bad_recipe"
    assert str(tmp_path / "models" / "math") in failure.message
    assert mended.failure is None
