"""Measurements of a whole tensor or model that is read in blocks: exact, or rounded so that no order shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

Rows = Callable[[], Iterable[tuple[int, Mapping[str, Tensor | None]]]]
"""Blocks of float32 tensors, of any shape: number of entries, and per source the values (None: zeros). Every call
begins again."""
Kept = Callable[[int], int]
"""Number of entries → how many of them are kept."""

LOW_BITS = 17
_BINS = 1 << (31 - LOW_BITS)
"""Upper bits of a magnitude: exponent and 6 bits of the mantissa; the counts fit in a core's second-level cache."""
_FEW = 1 << 14
"""Entries that are put into order faster than they are counted."""
_ENTRIES = 1 << 17
"""Entries of a whole tensor that are looked at at a time: what comes of them fits in a core's second-level cache."""
_PENDING = 1 << 19
"""Entries of the one bin that matters that are kept before they are counted."""


def count_kept(density: float, size: int) -> int:
    """How many of `size` entries a density keeps: rounded down, but at least one unless the density is 0.

    >>> count_kept(0.2, 10), count_kept(0.01, 10), count_kept(0.0, 10)
    (2, 1, 0)
    """
    return max(1, int(density * size)) if density > 0 and size else 0


def first_kept(density: float, gamma: float, size: int) -> int:
    """Rank of the largest of `size` entries that a band keeps which drops a share `gamma` at the top: the density has
    to be reached, even if that spares some of the top. 0: none is kept."""
    return min(int(gamma * size), size - count_kept(density, size)) + 1 if size and density > 0 else 0


def last_kept(density: float, gamma: float, size: int) -> int:
    """Rank of the smallest entry that a band keeps; 0: none is kept."""
    first = first_kept(density, gamma, size)
    return first - 1 + count_kept(density, size) if first else 0


def kth_magnitudes(rows: Rows, densities: Mapping[str, float]) -> dict[str, float]:
    """For each source the K-th largest |value|, K the count that its density keeps: exactly, in two passes over the
    data and constant memory.

    The bits of non-negative floats order like the floats: the first pass counts the upper bits, the second the lower
    bits within the one bin that matters.

    Args:
        rows: number of entries and the sources' values, finite; None is zeros.
        densities: source → share of entries to keep, in [0, 1].

    Returns:
        source → threshold t: at least K entries have |value| ≥ t, fewer than K have |value| > t; 0 for density 1 (and
        no pass at all if there is no other), infinity for density 0.
    """
    kept = {source: partial(count_kept, density) for source, density in densities.items() if density < 1}
    return dict.fromkeys(densities, 0.0) | kth_largest(rows, kept)


def kth_largest(rows: Rows, kept: Mapping[str, Kept]) -> dict[str, float]:
    """For each source its K-th largest |value|, K = kept(number of entries); see `kth_magnitudes`.

    Returns:
        source → threshold; infinity where K is 0.
    """
    if not kept:
        return {}
    result = dict.fromkeys(kept, float("inf"))
    size, upper = _upper_counts(rows, list(kept))
    counts = {source: number for source, of in kept.items() if (number := of(size))}
    bins = {source: bin_of(upper[source], number) for source, number in counts.items()}
    for source, gathered in _inside_bins(rows, {source: high for source, (high, _) in bins.items()}).items():
        bits = gathered.largest(bins[source][1])
        result[source] = float(np.array(bits, dtype=np.uint32).view(np.float32))
    return result


def kth_values(rows: Rows, kept: Mapping[str, Kept]) -> dict[str, float]:
    """For each source its K-th largest value, signs minded, K = kept(number of entries) > 0: exactly, in two passes
    where that value is positive, in four where it is not.
    """
    found = kth_largest(_positive(rows, 1), kept)
    rest = {source: of for source, of in kept.items() if found[source] == 0}
    from_below = {source: partial(_rank_from_below, of) for source, of in rest.items()}
    below = kth_largest(_positive(rows, -1), from_below)
    return found | {source: 0.0 - value for source, value in below.items()}


def _rank_from_below(kept: Kept, size: int) -> int:
    return size - kept(size) + 1


def _positive(rows: Rows, sign: int) -> Rows:
    """max(±value, 0)."""

    def parts() -> Iterator[tuple[int, Mapping[str, Tensor | None]]]:
        for length, values in rows():
            yield length, {s: None if x is None else (x * sign).clamp_(min=0) for s, x in values.items()}

    return parts


def _upper_counts(rows: Rows, sources: Sequence[str]) -> tuple[int, dict[str, Tensor]]:
    """The number of entries, and per source how often each pattern of upper bits occurs among them."""
    size = 0
    upper = {source: torch.zeros(_BINS, dtype=torch.int64) for source in sources}
    for length, values in rows():
        size += length
        for source in sources:
            for part in _parts(values[source]):
                upper[source] += torch.bincount(_bits(part) >> LOW_BITS, minlength=_BINS).cpu()
    for counts in upper.values():
        counts[0] += size - int(counts.sum())
    return size, upper


def _inside_bins(rows: Rows, bins: Mapping[str, int]) -> dict[str, Gathered]:
    """Per source the entries under its upper bits."""
    found = {source: Gathered(high) for source, high in bins.items()}
    for _, values in rows():
        for source, high in bins.items():
            for part in _parts(values[source]):
                found[source].add(_inside(_bits(part), high))
    return found


class Gathered:
    """The magnitudes of one bin: as they come while they are few, counted by their lower bits when they are many."""

    def __init__(self, high: int) -> None:
        self._high = high
        self._pending = torch.empty(0, dtype=torch.int32)  # one piece of memory: many small ones would scatter the heap
        self._number = 0
        self._counts: Tensor | None = None

    def add(self, bits: Tensor) -> None:
        """Take bit patterns whose upper bits are the bin's."""
        for part in torch.split(bits.cpu(), _PENDING):
            if self._number + len(part) > _PENDING:
                self._count()
            if self._number + len(part) > len(self._pending):
                self._grow(self._number + len(part))
            self._pending[self._number : self._number + len(part)] = part
            self._number += len(part)

    def largest(self, kept: int) -> int:
        """The bits of the `kept`-th largest; 0 beyond the last, for zeros that no tensor holds."""
        if self._counts is not None or self._number > _FEW:
            self._count()
            assert self._counts is not None
            if kept > int(self._counts.sum()):
                return 0
            return self._high << LOW_BITS | bin_of(self._counts, kept)[0]
        if kept > self._number:
            return 0
        found = self._pending[: self._number].numpy()
        return int(np.partition(found, len(found) - kept)[len(found) - kept])

    def _grow(self, least: int) -> None:
        grown = torch.empty(min(max(2 * least, 1024), _PENDING), dtype=torch.int32)
        grown[: self._number] = self._pending[: self._number]
        self._pending = grown

    def _count(self) -> None:
        if self._counts is None:
            self._counts = torch.zeros(1 << LOW_BITS, dtype=torch.int64)
        lower = self._pending[: self._number] & ((1 << LOW_BITS) - 1)
        self._counts += torch.bincount(lower, minlength=1 << LOW_BITS)
        self._number = 0


def _inside(bits: Tensor, high: int) -> Tensor:
    """The bit patterns whose upper bits are `high`."""
    if bits.device.type != "cpu":
        return bits[bits >> LOW_BITS == high]
    flat = bits.numpy()  # NumPy compares and compresses several times faster than torch on a CPU
    return torch.from_numpy(np.compress(flat >> LOW_BITS == high, flat))


def _bits(block: Tensor) -> Tensor:
    return block.abs().view(-1).view(torch.int32)


def bin_of(counts: Tensor, kept: int) -> tuple[int, int]:
    """The bin that holds the `kept`-th largest entry, and its rank within the bin."""
    above = counts.flip(0).cumsum(0)
    at = int(torch.searchsorted(above, kept))
    assert at < len(counts), "more entries are to be kept than there are"
    return len(counts) - 1 - at, kept - (int(above[at - 1]) if at else 0)


def _parts(values: Tensor | None) -> Sequence[Tensor]:
    """A whole tensor, flat, some entries at a time on a CPU."""
    if values is None:
        return ()
    flat = values.reshape(-1)
    length = _ENTRIES if values.device.type == "cpu" else len(flat)
    return [flat[begin : begin + length] for begin in range(0, len(flat), length or 1)]


def total(values: Tensor) -> float:
    """Σ values in float64, in an order that threads do not change."""
    if values.device.type == "cpu":
        return float(np.sum(values.numpy(), dtype=np.float64))
    return float(values.sum(dtype=torch.float64))


def inner(a: Tensor, b: Tensor) -> float:
    """Σ a·b in float64."""
    return math.fsum(total(x.double() * y.double()) for x, y in zip(_parts(a), _parts(b), strict=True))


def row_sums(values: Tensor) -> Tensor:
    """Σ over the last dimension in float64, in an order that threads do not change."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sum(values.numpy(), axis=-1, dtype=np.float64))
    return values.sum(dim=-1, dtype=torch.float64)


def row_inner(a: Tensor, b: Tensor) -> Tensor:
    """Σ a·b over the last dimension in float64."""
    return row_sums(a.double() * b.double())
