"""SCE of a few sources through compiled loops: the least variance that is selected, each source's energy, the merge."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from evomerge.merge.fused.reading import Addresses, Raw, Rows, memory
from evomerge.merge.fused.thresholds import CHUNK, EDGES, ENTRIES_A_CHUNK, FEW, GOLDEN, LEAST_CHUNKS, Target
from evomerge.merge.primitives.gram import LANES

if TYPE_CHECKING:
    from evomerge.merge.blocks import Span, TensorWork

FEWEST = 16
"""Entries of a block that the loops can merge: `lanes.LANES`."""
Steps = Callable[["Span"], Iterable["Span"]]
Bits = npt.NDArray[np.uint32]
Floats = npt.NDArray[np.float32]


def has_few(work: TensorWork) -> bool:
    """Whether there are loops for so many sources."""
    from evomerge.merge.fused import selected

    return 0 < len(work.operands) <= selected.MOST


def least_numerator(least: np.float32, by: np.float32) -> np.float32:
    """The least float32 that is at least `least` when it is divided by `by` and rounded: division keeps the order, so
    that numerators can be compared with it in place of quotients.

    >>> numerator = least_numerator(np.float32(0.1), np.float32(3))
    >>> bool(numerator / np.float32(3) >= np.float32(0.1) > np.nextafter(numerator, np.float32(0)) / np.float32(3))
    True
    """
    low, high = 0, int(np.float32(np.inf).view(np.uint32))
    while low < high:
        middle = (low + high) // 2
        if np.uint32(middle).view(np.float32) / by >= least:
            high = middle
        else:
            low = middle + 1
    return np.uint32(low).view(np.float32)


class Selection:
    """One tensor's sources and θ0, and what its variances are divided by."""

    def __init__(self, work: TensorWork) -> None:
        from evomerge.merge.fused import agreed, order, selected

        self._loops, self._order, self._any = selected, order, agreed
        operands = work.operands.values()
        self._rows = Rows([*((operand.tensor, operand.fresh) for operand in operands), (work.base, work.fresh)])
        self._size, self._number, self._sources = work.base.numel(), len(work.job.per_source), len(operands)
        self._by, self._absent = np.float32(self._number), np.float32(self._number - len(operands))

    def least_variance(self, share: float, steps: Steps) -> float | None:
        """The variance of the rank that is the last selected, infinity where none is; None where it takes another way
        to find it."""
        if self._size < FEWEST:
            return None
        edges = self._edges(share)
        room = max(1 << 16, self._size >> 3) + 2 * self._order.LANES
        inside, found = memory("between", room, np.int32).reshape(1, room), np.zeros(1, np.int64)
        counts, positive = np.zeros((1, 4), np.int64), 0
        least = int(least_numerator(np.nextafter(np.float32(0), np.float32(1)), self._by).view(np.uint32))
        for begin, end in self._spans(steps):
            if end - begin < FEWEST:
                return None
            *at, base_at = self._rows.at(begin, end)
            positive += self._loops.variances(
                tuple(at), base_at, end - begin, self._by, self._absent, least, edges, counts, inside, found
            )
        kept = int(positive * share)
        if not kept:
            return float("inf")
        target = Target(kept, edges[0], counts[0], [inside[0, : found[0]]], bool(found[0] > room - self._order.LANES))
        bits = target.found(self._size)
        return None if bits is None else float(np.uint32(bits).view(np.float32) / self._by)

    def energies(self, least: float, steps: Steps) -> list[float]:
        """Each source's Σ of the squares of what is selected: of everything where `least` is negative."""
        lanes = np.zeros((self._sources, LANES))
        selects, variance = least >= 0, np.float32(least)
        numerator = least_numerator(variance, self._by) if selects else variance
        for begin, end in self._spans(steps):
            found = self._rows.at(begin, end)
            whole = (end - begin) // self._loops.ENERGY_TILE * self._loops.ENERGY_TILE if begin % LANES == 0 else 0
            *at, base_at = found
            self._loops.energies(tuple(at), base_at, whole, self._by, self._absent, numerator, lanes)
            if whole < end - begin:
                rest = found + np.uint64(2 * whole)
                self._any.energies(
                    rest[:-1], rest[-1], end - begin - whole, self._number, selects, variance, (begin + whole) % LANES,
                    lanes,
                )  # fmt: skip
        return [float(sum_) for sum_ in lanes.sum(1)]

    def _spans(self, steps: Steps) -> Iterable[Span]:
        whole = (0, self._size)
        return [whole] if self._rows.in_memory else steps(whole)

    def _edges(self, share: float) -> npt.NDArray[np.int64]:
        """Bits between which the numerator of that rank surely is."""
        if self._size <= FEW:
            return np.array([[0, self._order.LARGEST]])
        number = max(self._size // ENTRIES_A_CHUNK, LEAST_CHUNKS)
        at = (np.arange(number) * GOLDEN % 1.0 * (self._size - CHUNK)).astype(np.int64)
        sample = self._sampled(np.sort(at))
        shares, edges = np.array([float((sample > 0).mean()) * share]), np.zeros((1, 2), np.int64)
        self._order.brackets(sample, shares, edges, memory("edges", EDGES, np.int32))
        return edges

    def _sampled(self, at: npt.NDArray[np.int64]) -> Bits:
        sample, start = np.empty((len(at), CHUNK), np.uint32), np.zeros(1, np.int64)
        if self._rows.in_memory:
            self._numerators(self._rows.at(0, self._size), at, sample)
            return sample
        for row, begin in zip(sample, at.tolist(), strict=True):
            self._numerators(self._rows.at(begin, begin + CHUNK), start, row.reshape(1, CHUNK))
        return sample

    def _numerators(self, found: Addresses, first: npt.NDArray[np.int64], out: Bits) -> None:
        *at, base_at = found
        self._loops.sampled(tuple(at), base_at, first, self._by, self._absent, out)


class Selected:
    """One tensor's merge, in blocks of at least `FEWEST` entries.

    Args:
        shares: what each source adds to the divisor.
        least: the variance from which on an entry is selected; negative: all are.
        least_divisor: what is divided by at least.
    """

    def __init__(self, work: TensorWork, shares: Floats, least: np.float32, least_divisor: np.float32) -> None:
        from evomerge.merge.fused import selected

        self._loops, self._work, self._shares, self._least_divisor = selected, work, shares, least_divisor
        self._by = np.float32(len(work.job.per_source))
        self._absent = self._by - np.float32(len(work.operands))
        self._least = least_numerator(least, self._by) if least >= 0 else least

    def merge(self, at: Addresses, out: Raw) -> int:
        """Merge entries; what was met."""
        *sources, base_at = at
        return int(
            self._loops.merge(
                tuple(sources), base_at, self._by, self._absent, self._least, self._shares, self._least_divisor, out
            )
        )
