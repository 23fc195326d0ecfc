"""How often a controller takes what its workers have done: at once where they are few, together where they are many."""

from __future__ import annotations

import math
import time

from workers.job import JobResult, Pool

WAIT_S = 0.25
"""How long one turn waits for results."""
TURN_S, WAITING = 0.025, 0.01
"""Turns that are less than this long apart wait for each other, as long as no more than this share of the workers does:
they lose half a hundredth of their time at most."""


class Turns:
    """A pool's results, turn by turn."""

    def __init__(self) -> None:
        self._latest = -math.inf

    def ended(self, pool: Pool) -> list[JobResult]:
        """What has ended since the last turn. Where there are very many workers, a few of them wait until others have
        ended, too: they share a transaction."""
        until, found = self._latest + TURN_S, pool.wait(WAIT_S)
        while found and len(found) < pool.size * WAITING and (left := until - time.monotonic()) > 0:
            more = pool.wait(left)
            if not more:
                break
            found = [*found, *more]
        self._latest = time.monotonic()
        return found
