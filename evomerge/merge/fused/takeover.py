"""Arcee Fusion through compiled loops: the divergences of a tensor's rows, its quartiles, then its entries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evomerge.merge.fused.reading import Raw, look, memory, stored
from evomerge.merge.methods.arcee_fusion import QUARTILES, divergences, least_of, rank
from evomerge.merge.plan import Plan, columns_of
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.divergence import Floats
from evomerge.merge.primitives.measure import LOW_BITS, Gathered, bin_of

if TYPE_CHECKING:
    from evomerge.merge.blocks import Span, TensorWork

_ENTRIES = 1 << 16
"""Entries worked on at a time, in whole rows."""


class Fusion:
    """One tensor's merge: everything about it is measured when it is made.

    Raises:
        NonFiniteError: an operand holds NaN or infinity.
    """

    def __init__(self, work: TensorWork) -> None:
        from evomerge.merge.fused import agreed, importance

        self._loops, self._inside, self._work = importance, agreed.inside, work
        ((self._source, self._operand),) = work.operands.items()
        self._columns = columns_of(tuple(work.base.shape))
        size = work.base.numel()
        self._rows = list(self._by_rows((0, size)))
        look(work, 0, size)
        self._divergence: npt.NDArray[np.float32] = np.concatenate([self._divergences(*span) for span in self._rows])
        ranks = {name: partial(rank, share)(size) for name, share in QUARTILES.items()}
        factor = weights.number(work.job.shared, "iqr_factor")
        self._least = np.float32(least_of(self._ranked(ranks), factor))

    def spans(self, span: Span, steps: Iterable[Span]) -> Iterable[Span]:
        """What may be merged at a time: whole rows."""
        return self._by_rows(span)

    def merge(self, begin: int, end: int, out: Raw) -> bool:
        """Merge entries; whether all are finite."""
        base, raw = self._stored(begin, end)
        return bool(self._loops.taken_over(base, raw, self._of_rows(begin, end), self._least, out))

    def _by_rows(self, span: Span) -> Iterator[Span]:
        length = max(1, _ENTRIES // self._columns) * self._columns
        for begin in range(span[0], span[1], length):
            yield begin, min(begin + length, span[1])

    def _stored(self, begin: int, end: int) -> tuple[Raw, Raw]:
        work, operand = self._work, self._operand
        base = stored(work.base, work.fresh, begin, end, "")
        return base, stored(operand.tensor, operand.fresh, begin, end, self._source)

    def _divergences(self, begin: int, end: int) -> npt.NDArray[np.float32]:
        base, model = (_wide(row).view(-1, self._columns) for row in self._stored(begin, end))
        delta = model.sub_(base)
        found: npt.NDArray[np.float32] = divergences(base, delta, self._exponentials, self._terms).numpy()
        return found

    def _exponentials(self, x: npt.NDArray[np.float32]) -> Floats:
        result = np.empty(x.shape, np.float64)
        self._loops.exponentials(x, result)
        return result

    def _terms(self, a: Floats, of_a: Floats, b: Floats, of_b: Floats) -> Floats:
        result = np.empty(a.shape, np.float64)
        self._loops.terms(a, of_a, b, of_b, result)
        return result

    def _of_rows(self, begin: int, end: int) -> npt.NDArray[np.float32]:
        return self._divergence[begin // self._columns : end // self._columns]

    def _importances(self) -> Iterator[npt.NDArray[np.uint32]]:
        for begin, end in self._rows:
            bits: npt.NDArray[np.uint32] = memory("importances", end - begin, np.uint32)
            self._loops.importances(*self._stored(begin, end), self._of_rows(begin, end), bits)
            yield bits

    def _ranked(self, ranks: dict[str, int]) -> dict[str, float]:
        """Importances by their ranks, exact: upper bits are counted first, then those that share them are looked at."""
        counts = np.zeros((2, 1 << (31 - LOW_BITS)), np.int64)
        for bits in self._importances():
            self._loops.upper_counts(bits, counts)
        bins = {name: bin_of(torch.from_numpy(counts.sum(0)), kept) for name, kept in ranks.items()}
        gathered = {high: Gathered(high) for high, _ in bins.values()}
        for bits in self._importances():
            for high, found in gathered.items():
                inside = memory("between", len(bits) + 1, np.uint32)
                number = self._inside(bits, high, inside)
                found.add(torch.from_numpy(inside[:number].view(np.int32).copy()))
        keys = {name: gathered[high].largest(within) for name, (high, within) in bins.items()}
        return {name: float(np.array(key, np.uint32).view(np.float32)) for name, key in keys.items()}


def takes_over(plan: Plan, work: TensorWork) -> bool:
    """Whether a job's merge is of this kind."""
    sizes = work.base.numel() and len(work.operands) == 1
    return plan.method.name == "arcee_fusion" and bool(sizes) and not work.job.transposed


def _wide(row: Raw) -> Tensor:
    return torch.from_numpy(row.view(np.int16)).view(torch.bfloat16).float()
