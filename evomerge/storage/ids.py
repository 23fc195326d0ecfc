"""Run ids: a prefix and a ULID, so that ids sort by the time they were made (github.com/ulid/spec)."""

from __future__ import annotations

import re
import secrets
import threading
from datetime import datetime

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_RANDOM_BITS = 80
_PATTERN = re.compile(r"run_[0-7][0-9A-HJKMNP-TV-Z]{25}", re.ASCII)


class RunIds:
    """Makes run ids; those of one maker only ever grow, also within a millisecond or when the clock steps back."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def new(self, at: datetime) -> str:
        """`run_` and 26 characters: 48 bits of milliseconds since 1970, 80 random bits."""
        fresh = (int(at.timestamp() * 1000) << _RANDOM_BITS) | secrets.randbits(_RANDOM_BITS)
        with self._lock:
            self._last = max(fresh, self._last + 1)
            return "run_" + _base32(self._last)


def is_run_id(text: str) -> bool:
    """Whether a text could be a run's id; anything else need not reach the database.

    >>> is_run_id("run_01K6Z3V0X6M8Q2T4W7Y9B1D3F5"), is_run_id("run_../../etc")
    (True, False)
    """
    return _PATTERN.fullmatch(text) is not None


def _base32(value: int) -> str:
    return "".join(_ALPHABET[(value >> shift) & 31] for shift in range(125, -1, -5))
