"""Compiled loops that read several files in one call: by a call each, Python takes longer than the reading."""

# K tensors, C chunks

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core.types import ExternalFunction

from evomerge.merge.fused.kernels import compiled

WHOLE = -1
"""What `rows` returns where nothing is missing."""
LINE = 64
"""Bytes of a line of the cache: rows begin on one."""
_ENTRY = 2

_pread: Any = ExternalFunction("pread", types.int64(types.int32, types.uint64, types.uint64, types.int64))
"""POSIX: handle, where to, how many bytes, from which on → how many came."""


@compiled
def _filled(handle: Any, into: int, number: int, first: int) -> bool:  # pragma: no cover  # compiled
    """Read so many bytes of a file; whether all came."""
    done = 0
    while done < number:
        came = _pread(handle, np.uint64(into + done), np.uint64(number - done), np.int64(first + done))
        if came <= 0:
            return False
        done += came
    return True


@compiled
def rows(
    handles_K: Any, starts_K: Any, begin: int, length: int, room_at: int, at_K: Any
) -> int:  # pragma: no cover  # compiled
    """Bring entries of several tensors into memory.

    Args:
        handles_K: of the files; −1: the tensor lies in memory.
        starts_K: where a tensor begins: in its file, or its address.
        begin, length: which entries.
        room_at: address of memory for all of them, each on a line of its own.
        at_K: gets the addresses of the entries.

    Returns:
        `WHOLE`, or the first tensor that could not be read.
    """
    number = _ENTRY * length
    for k in range(len(handles_K)):
        first = starts_K[k] + _ENTRY * begin
        if handles_K[k] < 0:
            at_K[k] = np.uint64(first)
            continue
        into = room_at + k * ((number + LINE - 1) // LINE * LINE)
        if not _filled(handles_K[k], into, number, first):
            return k
        at_K[k] = np.uint64(into)
    return WHOLE


@compiled
def chunks(handle: Any, start: int, at_C: Any, length: int, into: int) -> bool:  # pragma: no cover  # compiled
    """Bring chunks of a tensor's entries together that begin at given entries; whether all came."""
    number = _ENTRY * length
    for c in range(len(at_C)):  # noqa: SIM110  # numba knows no generators
        if not _filled(handle, into + c * number, number, start + _ENTRY * at_C[c]):
            return False
    return True
