"""Means over the sources that agree on an entry, through compiled loops: what they measure, then their entries."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from evomerge.merge.fused.reading import Raw, Rows, look, memory
from evomerge.merge.fused.selection import FEWEST, Selected, Selection, has_few
from evomerge.merge.plan import Plan, TensorJob
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.gram import LANES
from evomerge.merge.primitives.measure import LOW_BITS, Gathered, bin_of
from evomerge.merge.stages.elect import LEAST_SHARE, gain, ratio, shares

if TYPE_CHECKING:
    from evomerge.merge.blocks import Span, TensorWork

Floats = npt.NDArray[np.float32]
Steps = Callable[["Span"], Iterable["Span"]]
VARIANCE = "0:variance"
_RAM, _AMPLIFIED = ("ram", "ram_plus", "ramplus_tl"), ("ram_plus", "ramplus_tl")
MEANS = ("sce", *_AMPLIFIED)
"""Methods that measure something that there are loops for."""
_PIECE = 1 << 22
"""Entries that a thread counts before it takes the next."""


@dataclass(frozen=True, slots=True)
class Mean:
    """One tensor's merge.

    Attributes:
        above: source → magnitude above which it has a vote; empty: every entry is one.
        most: to what magnitude votes are cut.
        least: the variance from which on an entry is selected; negative: all are.
        gains: source → what is added, times the vote, where no other source has one.
        elects: whether votes must have the elected sign, and are weighed by the shares.
        shares: source → what it adds to the divisor.
        least_divisor: what is divided by at least.
    """

    shares: Mapping[str, float]
    above: Mapping[str, float] = field(default_factory=dict)
    most: float = -1.0
    least: float = -1.0
    gains: Mapping[str, float] = field(default_factory=dict)
    elects: bool = False
    least_divisor: float = 0.0


def mean_of(plan: Plan, job: TensorJob, measured: Mapping[str, float]) -> Mean | None:
    """A job's merge, if it is such a mean."""
    name, ones = plan.method.name, dict.fromkeys(job.changed, 1.0)
    if not job.changed:
        return None
    if name == "nearswap":
        return Mean(ones, most=weights.number(job.shared, "t"))
    if name in _RAM:
        above = _above(job, measured)
        if name not in _AMPLIFIED:
            return Mean(ones, above)
        gains = {source: gain(job.shared, measured.get(f"1:{source}", 0.0)) for source in job.changed}
        return Mean(ones, above, gains=gains)
    if name == "sce" and VARIANCE in measured:
        energies = {source: measured[f"1:{source}"] for source in job.changed}
        found = shares(job.shared, energies, len(job.per_source))
        return Mean(found, least=measured[VARIANCE], elects=True, least_divisor=LEAST_SHARE)
    return None


def _above(job: TensorJob, measured: Mapping[str, float]) -> dict[str, float]:
    epsilon = weights.number(job.shared, "epsilon")
    return {source: epsilon * measured.get(f"0:{source}", 1.0) for source in job.changed}


class Agreed:
    """One tensor's mean."""

    def __init__(self, work: TensorWork, mean: Mean) -> None:
        from evomerge.merge.fused import agreed

        self._loops, self._work, self._mean = agreed, work, mean
        with np.errstate(over="ignore"):  # infinity, as for torch
            self._shares, self._above, self._gains = (
                np.array([*values.values()], np.float32) for values in (mean.shares, mean.above, mean.gains)
            )
            self._most, self._least = np.float32(mean.most), np.float32(mean.least)
        self._least_divisor = np.float32(mean.least_divisor)
        self._rows = _rows(work)
        few = mean.elects and has_few(work)
        self._few = Selected(work, self._shares, self._least, self._least_divisor) if few else None

    def spans(self, span: Span, steps: Iterable[Span]) -> Iterable[Span]:
        """What may be merged at a time."""
        return steps

    def merge(self, begin: int, end: int, out: Raw) -> bool | None:
        """Merge entries; whether all are finite, or None where the torch path has to do it.

        Raises:
            NonFiniteError: an operand holds NaN or infinity.
        """
        at = self._rows.at(begin, end)
        mean = self._mean
        if self._few is not None and len(out) >= FEWEST:
            met = self._few.merge(at, out)
        else:
            met = self._loops.merge(
                at[:-1], at[-1], self._above, self._most, mean.least >= 0, self._least, len(self._work.job.per_source),
                self._gains, mean.elects, self._shares, self._least_divisor, out,
            )  # fmt: skip
        if met & self._loops.ODD_INPUT:
            look(self._work, begin, end)
        return None if met & self._loops.NEGATIVE_ZERO else not met & self._loops.ODD_OUTPUT


def measured_means(plan: Plan, works: Sequence[TensorWork], steps: Steps, threads: int) -> Mapping[str, float] | None:
    """What the method measures of the tensors, as one vector; None where there is no loop for it."""
    if any(work.job.shared != works[0].job.shared for work in works):
        return None
    if plan.method.name == "sce":
        return _selection(works[0], steps) if len(works) == 1 and works[0].operands else None
    absolute = works[0].job.shared.get("epsilon_unit") == "absolute"
    return _overlaps(works, steps, threads) if plan.method.name in _AMPLIFIED and absolute else None


def _overlaps(works: Sequence[TensorWork], steps: Steps, threads: int) -> dict[str, float]:
    """Per source, how many of its votes others have too, over how many they have not."""
    from evomerge.merge.fused import agreed

    counts: dict[str, npt.NDArray[np.int64]] = {}
    lock = threading.Lock()

    def count(piece: tuple[TensorWork, int, int]) -> None:
        work, first, last = piece
        found = np.zeros((len(work.operands), 2), np.int64)
        above = np.array([*_above(work.job, {}).values()], np.float32)
        rows = _rows(work)
        for begin, end in steps((first, last)):
            at = rows.at(begin, end)
            agreed.alone_and_shared(at[:-1], at[-1], end - begin, above, found)
        with lock:
            for source, own in zip(work.operands, found, strict=True):
                counts[source] = counts.get(source, 0) + own

    pieces = [
        (work, begin, min(begin + _PIECE, work.base.numel()))
        for work in works
        if work.operands
        for begin in range(0, work.base.numel(), _PIECE)
    ]
    with ThreadPoolExecutor(threads, "measure") as pool:
        list(pool.map(count, pieces))
    return {f"1:{source}": ratio(int(alone), int(others)) for source, (alone, others) in counts.items()}


def _selection(work: TensorWork, steps: Steps) -> dict[str, float]:
    """The least variance that is selected, and each source's mean square of what is."""
    share = weights.number(work.job.shared, "select_topk")
    few = Selection(work) if has_few(work) else None
    least: float | None = -1.0
    if share < 1:
        least = few.least_variance(share, steps) if few is not None else None
        least = _least_variance(work, share, steps) if least is None else least
    assert least is not None, "found one way or the other"
    sums = _squares(work, least, steps) if few is None else few.energies(least, steps)
    size = max(work.base.numel(), 1)
    return {VARIANCE: least, **{f"1:{source}": sum_ / size for source, sum_ in zip(work.operands, sums, strict=True)}}


def _least_variance(work: TensorWork, share: float, steps: Steps) -> float:
    from evomerge.merge.fused import agreed, order

    counts = np.zeros((2, 1 << (31 - LOW_BITS)), np.int64)
    rows = _rows(work)

    def variances() -> Iterable[tuple[npt.NDArray[np.uint32], int]]:
        for begin, end in steps((0, work.base.numel())):
            at = rows.at(begin, end)
            bits = memory("variances", end - begin, np.uint32)
            yield bits, agreed.variances(at[:-1], at[-1], end - begin, len(work.job.per_source), bits, counts)

    kept = int(sum(positive for _, positive in variances()) * share)
    if not kept:
        return float("inf")
    high, rank = bin_of(torch.from_numpy(counts.sum(0)), kept)
    gathered = Gathered(high)
    for bits, _ in variances():
        inside = memory("between", len(bits) + 2, np.int32)
        number = order.inside(bits.view(np.int32), high, inside)
        gathered.add(torch.from_numpy(inside[:number]))
    return float(np.array(gathered.largest(rank), np.uint32).view(np.float32))


def _squares(work: TensorWork, least: float, steps: Steps) -> list[float]:
    from evomerge.merge.fused import agreed

    lanes = np.zeros((len(work.operands), LANES))
    number = len(work.job.per_source)
    rows = _rows(work)
    for begin, end in steps((0, work.base.numel())):
        at = rows.at(begin, end)
        agreed.energies(at[:-1], at[-1], end - begin, number, least >= 0, np.float32(least), begin % LANES, lanes)
    return [float(sum_) for sum_ in lanes.sum(1)]


def _rows(work: TensorWork) -> Rows:
    """The sources, and θ0 behind them."""
    return Rows([*((operand.tensor, operand.fresh) for operand in work.operands.values()), (work.base, work.fresh)])
