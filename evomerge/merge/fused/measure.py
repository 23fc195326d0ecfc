"""What TIES and DARE measure, in compiled loops: whole numbers, so that threads may count in any order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from evomerge.merge.fused.combine import coefficients_of
from evomerge.merge.fused.form import TRIM_STAGE, form_of, measurable, tie_of
from evomerge.merge.fused.reading import memory
from evomerge.merge.fused.run import Fused, Read, read_rows, usable, worth_it
from evomerge.merge.plan import Plan
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.measure import LOW_BITS, Gathered, bin_of, count_kept

if TYPE_CHECKING:
    from evomerge.merge.blocks import Span, TensorWork

R = TypeVar("R")
Counts = npt.NDArray[np.int64]
Piece = tuple["TensorWork", int, int]
_PIECE = 1 << 22
"""Entries that a thread counts before it takes the next."""


def measured_of(
    plan: Plan,
    works: Callable[[], Iterable[TensorWork]],
    read: Read,
    steps: Callable[[Span], Iterable[Span]],
    threads: int,
) -> Mapping[str, float] | None:
    """The measurements of one tensor or of a model, as the method's own `measure` gives them; None where there are no
    loops for that.

    Args:
        works: the tensors that are measured as one vector; begins again at every call.
        read: how bits come into memory.
        steps: a span in blocks.
        threads: pieces counted at a time.
    """
    if plan.method.combination is not None:
        (work,) = works()
        fits = worth_it(work.base.numel()) and usable(work)
        return coefficients_of(plan, work, steps) if fits else None
    every = []
    for work in works():
        if not measurable(plan, work.job) or not usable(work):
            return None
        every.append(work)
    shared = [work.job.shared for work in every]
    if not any(worth_it(work.base.numel()) for work in every):
        return None
    densities = [{s: v.get("density") for s, v in work.job.per_source.items()} for work in every]
    if any(asked != shared[0] for asked in shared) or any(found != densities[0] for found in densities):
        return None  # rules that differ: the torch path knows what to say about them
    counting = _Counting(plan, every, read, steps, threads)
    found = counting.thresholds() if plan.method.name == "ties" else {}
    if shared[0]["sign_ties"] == "majority":
        found[tie_of(plan)] = counting.tie(found)
    return found


class _Counting:
    def __init__(
        self,
        plan: Plan,
        works: list[TensorWork],
        read: Read,
        steps: Callable[[Span], Iterable[Span]],
        threads: int,
    ) -> None:
        from evomerge.merge.fused import kernels

        self._kernels, self._plan, self._read, self._steps, self._threads = kernels, plan, read, steps, threads
        self._works = works
        self._pieces: list[Piece] = [
            (work, begin, min(begin + _PIECE, work.base.numel()))
            for work in works
            if work.operands
            for begin in range(0, work.base.numel(), _PIECE)
        ]

    def thresholds(self) -> dict[str, float]:
        """The magnitude down to which each source's entries are kept; as `primitives.measure.kth_magnitudes`."""
        densities = {s: weights.number(v, "density") for s, v in self._works[0].job.per_source.items()}
        size = sum(work.base.numel() for work in self._works)
        result = dict.fromkeys(densities, 0.0)
        bins: dict[str, tuple[int, int]] = {}
        for source, counts in self._counted([s for s, d in densities.items() if d < 1]).items():
            counts[0] += size - counts.sum()
            if kept := count_kept(densities[source], size):
                bins[source] = bin_of(torch.from_numpy(counts), kept)
            else:
                result[source] = float("inf")
        for source, gathered in self._gathered({source: high for source, (high, _) in bins.items()}).items():
            bits = gathered.largest(bins[source][1])
            result[source] = float(np.array(bits, dtype=np.uint32).view(np.float32))
        return {f"{TRIM_STAGE}{source}": threshold for source, threshold in result.items()}

    def tie(self, measured: Mapping[str, float]) -> float:
        """The sign of the sum of all elected signs."""
        count = sum(self._mapped(lambda piece: self._elected(piece, measured)))
        return float((count > 0) - (count < 0))

    def _elected(self, piece: Piece, measured: Mapping[str, float]) -> int:
        work, begin, end = piece
        form = form_of(self._plan, work.job, measured)
        assert form is not None, "looked at by `measurable`"
        fused = Fused(self._plan, work, form, self._read)
        return sum(fused.majority(*span) for span in self._steps((begin, end)))

    def _counted(self, sources: list[str]) -> dict[str, Counts]:
        """Per source how often each pattern of upper bits occurs; each thread counts in arrays of its own."""
        local, every = threading.local(), []

        def work(piece: Piece) -> None:
            if not hasattr(local, "counts"):
                local.counts = {source: np.zeros((2, 1 << (31 - LOW_BITS)), np.int64) for source in sources}
                every.append(local.counts)
            for base, source, row in self._rows(piece, sources):
                self._kernels.upper_counts(base, row, local.counts[source])

        if sources:
            self._mapped(work)
        empty = np.zeros((2, 1 << (31 - LOW_BITS)), np.int64)
        return {source: sum((found[source] for found in every), empty).sum(0) for source in sources}

    def _gathered(self, bins: Mapping[str, int]) -> dict[str, Gathered]:
        """Per source the magnitudes under its upper bits."""
        found = {source: Gathered(high) for source, high in bins.items()}
        lock = threading.Lock()

        def work(piece: Piece) -> None:
            for base, source, row in self._rows(piece, bins):
                out = memory("inside", len(row) + 1, np.uint32)
                number = self._kernels.inside(base, row, bins[source], out)
                with lock:
                    found[source].add(torch.from_numpy(out[:number].view(np.int32).copy()))

        if bins:
            self._mapped(work)
        return found

    def _mapped(self, work: Callable[[Piece], R]) -> list[R]:
        if self._threads == 1 or len(self._pieces) < 2:
            return [work(piece) for piece in self._pieces]
        with ThreadPoolExecutor(self._threads, "measure") as pool:
            return list(pool.map(work, self._pieces))

    def _rows(
        self, piece: Piece, sources: Iterable[str]
    ) -> Iterable[tuple[npt.NDArray[np.uint16], str, npt.NDArray[np.uint16]]]:
        work, begin, end = piece
        changed = [source for source in sources if source in work.operands]
        for span in self._steps((begin, end)):
            rows = read_rows(work, changed, *span, self._read, base=True)
            yield from ((rows[0], source, row) for source, row in zip(changed, rows[1:], strict=True))
