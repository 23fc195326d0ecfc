"""Asking the system for bytes before they are needed, in the order of the files, so that disks are never idle.

A merge reads small blocks of several files in turn, from several threads: the system's own read-ahead, which looks for
one reader that goes straight through a file, does not see through that. What lies ahead is bounded, and where the
inputs do not fit into memory their pages are given back as soon as they are read, so that they push out nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from evomerge.merge.budget import Unit
from evomerge.merge.plan import TensorJob
from evomerge.models.weights import Place

AHEAD = 96 << 20
"""Bytes of inputs that are asked for beyond what is being worked on, at most."""

Places = Callable[[TensorJob], Iterable[Place]]
"""A job → where the tensors lie that it reads from files."""


class ReadAhead:
    """Reads what units of work will need, in their order.

    Args:
        units: in the order in which they begin.
        places: where their tensors lie.
        most: bytes that may lie ahead.
        drop: whether a unit's pages are given back when it is done.

    Attributes:
        lying_ahead: number of a unit that was asked for and has not begun → its bytes.
    """

    def __init__(self, units: Sequence[Unit], places: Places, most: int, *, drop: bool) -> None:
        self._units, self._places, self._most, self._drop = units, places, min(most, AHEAD), drop
        self._asked = 0
        self.lying_ahead: dict[int, int] = {}

    def begin(self, number: int) -> None:
        """Unit `number` begins: ask for the next ones."""
        self.lying_ahead.pop(number, None)
        self._asked = max(self._asked, number + 1)  # what begins is read anyway
        while self._asked < len(self._units):
            ranges = list(self._ranges(self._units[self._asked]))
            length = sum(length for _, _, length in ranges)
            if sum(self.lying_ahead.values()) + length > self._most:
                return
            for place, first, size in ranges:
                place.expect(first, size)
            self.lying_ahead[self._asked] = length
            self._asked += 1

    def end(self, unit: Unit) -> None:
        """A unit is done; nobody reads its part of the inputs again."""
        if self._drop:
            for place, first, length in self._ranges(unit):
                place.forget(first, length)

    def _ranges(self, unit: Unit) -> Iterable[tuple[Place, int, int]]:
        """Where, from which byte on, how many."""
        for place in self._places(unit.job):
            if unit.span is None or not unit.num_entries:
                yield place, 0, place.length
            else:
                item = place.length // unit.num_entries
                yield place, unit.span[0] * item, (unit.span[1] - unit.span[0]) * item


def larger_than_memory(directories: Iterable[Path]) -> bool:
    """Whether the weights in these directories exceed the memory that the system could give them; False where it does
    not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return False
    files = {os.path.realpath(file) for directory in directories for file in directory.glob("*.safetensors")}
    return sum(Path(file).stat().st_size for file in files) > free
