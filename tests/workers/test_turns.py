"""Turns of a controller: results are taken at once from few workers, together from many."""

from __future__ import annotations

from collections import deque

from workers.job import Job, JobResult
from workers.turns import WAITING, Turns


class Script:
    """A pool whose results come in given portions, one a `wait`."""

    device = "cpu"

    def __init__(self, size: int, portions: list[int]) -> None:
        self.size, self.left = size, deque(portions)

    def submit(self, job: Job) -> None:
        raise AssertionError("turns hand out nothing")

    def wait(self, timeout_s: float) -> list[JobResult]:
        assert timeout_s > 0
        return [JobResult(0)] * (self.left.popleft() if self.left else 0)

    def cancel(self) -> None: ...

    def close(self) -> None: ...


def taken(turns: Turns, pool: Script) -> int:
    return len(turns.ended(pool))


def test_of_few_workers_each_result_is_a_turn() -> None:
    turns, pool = Turns(), Script(99, [1, 1, 1])

    assert [taken(turns, pool) for _ in range(3)] == [1, 1, 1]


def test_many_workers_share_turns_until_a_hundredth_of_them_waits() -> None:
    turns, pool = Turns(), Script(1000, [1] * 40)

    assert taken(turns, pool) == 1  # the turn before is long ago
    assert 1 <= taken(turns, pool) <= WAITING * 1000  # fewer only where this machine was too slow for a single one
    assert len(pool.left) >= 40 - 1 - WAITING * 1000


def test_who_has_no_more_results_waits_no_longer() -> None:
    turns, pool = Turns(), Script(1000, [1, 2, 3])

    taken(turns, pool)
    assert taken(turns, pool) in (2, 5)
    assert taken(turns, pool) in (0, 3)
