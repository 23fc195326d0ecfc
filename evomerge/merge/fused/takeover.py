"""Arcee Fusion through compiled loops: the divergences of a tensor's rows, its quartiles, then its entries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from evomerge.merge.fused.reading import Raw, Rows, look, memory
from evomerge.merge.methods.arcee_fusion import QUARTILES, least_of, rank
from evomerge.merge.plan import Plan, columns_of
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.measure import LOW_BITS, Gathered, bin_of

if TYPE_CHECKING:
    from evomerge.merge.blocks import Span, TensorWork

Floats = npt.NDArray[np.float32]
_ENTRIES = 1 << 16
"""Entries merged at a time, in whole rows."""
_MEASURED = 1 << 18
"""Entries measured at a time: two models' bits fit in a core's second-level cache."""


class Fusion:
    """One tensor's merge: everything about it is measured when it is made.

    Raises:
        NonFiniteError: an operand holds NaN or infinity.
    """

    def __init__(self, work: TensorWork) -> None:
        from evomerge.merge.fused import importance

        self._loops, self._work = importance, work
        (operand,) = work.operands.values()
        self._rows = Rows([(operand.tensor, operand.fresh), (work.base, work.fresh)])
        self._columns = columns_of(tuple(work.base.shape))
        size = work.base.numel()
        self._divergence = np.empty(size // self._columns, np.float32)
        ranks = {name: partial(rank, share)(size) for name, share in QUARTILES.items()}
        factor = weights.number(work.job.shared, "iqr_factor")
        self._least = np.float32(least_of(self._ranked(ranks, size), factor))

    def spans(self, span: Span, steps: Iterable[Span]) -> Iterable[Span]:
        """What may be merged at a time: whole rows."""
        return self._by_rows(span, _ENTRIES)

    def merge(self, begin: int, end: int, out: Raw) -> bool:
        """Merge entries; whether all are finite."""
        return bool(self._loops.taken_over(*self._at(begin, end), self._least, out))

    def _by_rows(self, span: Span, most: int) -> Iterator[Span]:
        length = max(1, most // self._columns) * self._columns
        for begin in range(span[0], span[1], length):
            yield begin, min(begin + length, span[1])

    def _at(self, begin: int, end: int) -> tuple[np.uint64, np.uint64, int, Floats]:
        """Where the entries of θ and θ0 lie, until this thread asks for the next, and their rows' divergences."""
        source, base = self._rows.at(begin, end)
        return source, base, self._columns, self._divergence[begin // self._columns : end // self._columns]

    def _ranked(self, ranks: dict[str, int], size: int) -> dict[str, float]:
        """Importances by their ranks, exact: upper bits are counted first, then those that share them are looked at."""
        spans = list(self._by_rows((0, size), _MEASURED))
        counts = np.zeros((2, 1 << (31 - LOW_BITS)), np.int64)
        for begin, end in spans:
            if not self._loops.measured(*self._at(begin, end), counts):
                look(self._work, begin, end)
        upper = torch.from_numpy(counts.sum(0))
        bins = {name: bin_of(upper, kept) for name, kept in ranks.items()}
        inside = self._inside(spans, sorted({high for high, _ in bins.values()}))
        keys = {name: inside[high].largest(within) for name, (high, within) in bins.items()}
        return {name: float(np.array(key, np.uint32).view(np.float32)) for name, key in keys.items()}

    def _inside(self, spans: Sequence[Span], bins: Sequence[int]) -> dict[int, Gathered]:
        found = {high: Gathered(high) for high in bins}
        length = max(end - begin for begin, end in spans) + 2
        inside = memory("between", len(bins) * length, np.int32).reshape(len(bins), length)
        high, number = np.array(bins), np.zeros(len(bins), np.int64)
        for span in spans:
            self._loops.gathered(*self._at(*span), high, inside, number)
            for into, row, of in zip(found.values(), inside, number.tolist(), strict=True):
                into.add(torch.from_numpy(row[:of]))
        return found


def takes_over(plan: Plan, work: TensorWork) -> bool:
    """Whether a job's merge is of this kind."""
    sizes = work.base.numel() and len(work.operands) == 1
    return plan.method.name == "arcee_fusion" and bool(sizes) and not work.job.transposed
