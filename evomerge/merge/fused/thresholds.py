"""Exact order statistics of task vectors, in one pass over them.

A sample of each task vector says between which magnitudes a rank surely lies. The pass counts what is above and below
and gathers what is between; the rank among that is the answer. Where a bracket has missed, two more passes count bits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evomerge.merge.fused.reading import Raw, Rows, bits_of, chunks, memory, stored
from evomerge.merge.primitives.measure import LOW_BITS, Gathered, bin_of

if TYPE_CHECKING:
    from evomerge.merge.blocks import Fresh, Span, TensorWork

Piece = tuple["TensorWork", int, int]
Counts = npt.NDArray[np.int64]
Mapped = Callable[[Callable[[Piece], None]], object]
"""Does some work for every piece, in any number of threads."""
Steps = Callable[["Span"], Iterable["Span"]]

CHUNK = 64
"""Entries beside each other that a sample takes: two lines of a cache."""
LEAST_CHUNKS, MOST_CHUNKS = 256, 1 << 14
ENTRIES_A_CHUNK = 1 << 16
MOST_GATHERED = 1 << 23
"""Entries between two edges that are kept, at most."""
FEW = 1 << 14
"""Entries that are all gathered: sooner done than a sample of them."""
GOLDEN = 0.6180339887498949
EDGES = 1 << 16


@dataclass(slots=True)
class Target:
    """A rank of some magnitudes, and what a pass has found around it.

    Attributes:
        edges: bits between which it is.
        counts: how many are > and ≥ the upper edge, > and ≥ the lower one.
    """

    rank: int
    edges: npt.NDArray[np.int64]
    counts: Counts = field(default_factory=lambda: np.zeros(4, np.int64))
    parts: list[npt.NDArray[np.int32]] = field(default_factory=list)
    lost: bool = False

    def found(self, size: int) -> int | None:
        """The bits of the magnitude of that rank among so many entries, those that nobody holds being zeros; None where
        it is not between the edges."""
        over_high, from_high, over_low, from_low = (int(count) for count in self.counts)
        low, high = (int(edge) for edge in self.edges)
        if over_high < self.rank <= (size if high == 0 else from_high):
            return high
        if from_high < self.rank <= over_low and not self.lost:
            from evomerge.merge.fused import order

            between = self.parts[0] if len(self.parts) == 1 else np.concatenate(self.parts)
            return int(order.kth_largest(between, self.rank - from_high, low + 1, high - 1))
        return low if over_low < self.rank <= (size if low == 0 else from_low) else None


class _Around:
    """What one thread finds around the ranks of a source.

    Attributes:
        into: edges, counts, what lies between them, and how much of that there is: one each a rank.
    """

    def __init__(self, source: str, targets: Sequence[Target], room: int) -> None:
        number = len(targets)
        between = memory(f"between in {source}", number * room, np.int32).reshape(number, room)
        edges = np.array([target.edges for target in targets])
        self.into = edges, np.zeros((number, 4), np.int64), between, np.zeros(number, np.int64)

    def give(self, targets: Sequence[Target], room: int) -> None:
        """Add it to what the ranks know."""
        _, counts, between, found = self.into
        for t, target in enumerate(targets):
            target.counts += counts[t]
            gathered = sum(map(len, target.parts)) + found[t]
            target.lost |= bool(found[t] > room or gathered > MOST_GATHERED)
            if not target.lost:
                target.parts.append(between[t, : found[t]].copy())


class Thresholds:
    """Magnitudes of given ranks.

    Args:
        works: the tensors that are one vector.
        pieces: their entries, in pieces; those of tensors that nobody changes left out.
        mapped: does work for every piece.
        steps: a span in blocks.
    """

    def __init__(self, works: Sequence[TensorWork], pieces: Sequence[Piece], mapped: Mapped, steps: Steps) -> None:
        from evomerge.merge.fused import kernels, order

        self._kernels, self._order, self._mapped, self._steps = kernels, order, mapped, steps
        self._works = works
        self._size = sum(work.base.numel() for work in works)
        self._longest = max((end - begin for _, begin, end in pieces), default=0)

    def of(self, ranks: Mapping[str, tuple[str, int]]) -> dict[str, float]:
        """Name → (source, rank from above) to name → magnitude: infinity for rank 0."""
        asked: dict[str, dict[str, int]] = {}
        for name, (source, rank) in ranks.items():
            if rank:
                asked.setdefault(source, {})[name] = rank
        bits = self._in_one_pass(asked)
        missed = {name: ranks[name] for name in ranks if ranks[name][1] and name not in bits}
        bits |= self._counted(missed)
        values = {name: float(np.array(found, np.uint32).view(np.float32)) for name, found in bits.items()}
        return {name: values.get(name, float("inf")) for name in ranks}

    def _in_one_pass(self, asked: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
        targets = self._bracketed(asked)
        lock = threading.Lock()

        def work(piece: Piece) -> None:
            here = {source: list(own.values()) for source, own in targets.items() if source in piece[0].operands}
            if here:
                self._look_around(piece, here, lock)

        if targets:
            self._mapped(work)
        found = {name: target.found(self._size) for own in targets.values() for name, target in own.items()}
        return {name: bits for name, bits in found.items() if bits is not None}

    def _look_around(self, piece: Piece, targets: Mapping[str, Sequence[Target]], lock: threading.Lock) -> None:
        work, begin, end = piece
        room = min(end - begin, max(1 << 16, (end - begin) >> 3)) + 2 * self._order.LANES
        around = {source: _Around(source, own, room) for source, own in targets.items()}
        operands = [work.operands[source] for source in targets]
        rows = Rows([*((operand.tensor, operand.fresh) for operand in operands), (work.base, work.fresh)])
        for first, last in [(begin, end)] if rows.in_memory else self._steps((begin, end)):
            at = rows.at(first, last)
            for k, found in enumerate(around.values()):
                self._order.census(at[-1], at[k], last - first, *found.into)
        with lock:
            for source, own in targets.items():
                around[source].give(own, room - self._order.LANES)

    def _rows(self, work: TensorWork, source: str, begin: int, end: int) -> Iterable[tuple[Raw, Raw]]:
        operand = work.operands[source]
        for first, last in self._steps((begin, end)):
            base = stored(work.base, work.fresh, first, last, "")
            yield base, stored(operand.tensor, operand.fresh, first, last, source)

    def _bracketed(self, asked: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, Target]]:
        if self._size <= FEW:
            whole = np.array([0, self._order.LARGEST])
            return {source: {name: Target(rank, whole) for name, rank in own.items()} for source, own in asked.items()}
        found = {}
        counts = memory("edges", EDGES, np.int32)
        for source, sample in self._sampled(list(asked)).items():
            shares = np.array([rank / self._size for rank in asked[source].values()])
            edges = np.zeros((len(shares), 2), np.int64)
            self._order.brackets(sample, shares, edges, counts)
            found[source] = {
                name: Target(rank, edge) for (name, rank), edge in zip(asked[source].items(), edges, strict=True)
            }
        return found

    def _sampled(self, sources: Sequence[str]) -> dict[str, npt.NDArray[np.uint32]]:
        """Bits of magnitudes in chunks all over the vector, the same in every run."""
        number = min(max(self._size // ENTRIES_A_CHUNK, LEAST_CHUNKS), MOST_CHUNKS, -(-self._size // CHUNK))
        at = (np.arange(number) * GOLDEN % 1.0 * self._size).astype(np.int64)
        at.sort()
        result = {source: np.zeros((number, CHUNK), np.uint32) for source in sources}
        ends = np.cumsum([work.base.numel() for work in self._works])
        first = 0
        for work, end in zip(self._works, ends, strict=True):
            last = int(np.searchsorted(at, end))
            local = at[first:last] - (end - work.base.numel())
            here = {s: result[s][first:last] for s in sources if s in work.operands}
            if last > first and here:
                self._sample(work, local, here)
            first = last
        return result

    def _sample(self, work: TensorWork, at: npt.NDArray[np.int64], out: Mapping[str, npt.NDArray[np.uint32]]) -> None:
        size = work.base.numel()
        length = min(CHUNK, size)
        at = np.minimum(at, size - length)
        base, base_at = _chunks(work.base, work.fresh, at, length)
        for source, bits in out.items():
            operand = work.operands[source]
            row, row_at = _chunks(operand.tensor, operand.fresh, at, length)
            self._order.sample(base, base_at, row, row_at, bits[:, :length])

    def _counted(self, ranks: Mapping[str, tuple[str, int]]) -> dict[str, int]:
        """The same in two passes, whatever the magnitudes are: upper bits first, then the lower ones of the one bin
        that matters."""
        bins: dict[str, tuple[int, int]] = {}
        sources = {source for source, _ in ranks.values()}
        upper = {source: np.zeros((2, 1 << (31 - LOW_BITS)), np.int64) for source in sources}
        lock = threading.Lock()

        def count(piece: Piece) -> None:
            for source in sources & set(piece[0].operands):
                counts = np.zeros((2, 1 << (31 - LOW_BITS)), np.int64)
                for base, row in self._rows(piece[0], source, *piece[1:]):
                    self._kernels.upper_counts(base, row, counts)
                with lock:
                    upper[source] += counts

        if ranks:
            self._mapped(count)
        for name, (source, rank) in ranks.items():
            counts = upper[source].sum(0)
            counts[0] += self._size - counts.sum()
            bins[name] = bin_of(torch.from_numpy(counts), rank)
        inside = self._inside({name: (source, bins[name][0]) for name, (source, _) in ranks.items()})
        return {name: gathered.largest(bins[name][1]) for name, gathered in inside.items()}

    def _inside(self, bins: Mapping[str, tuple[str, int]]) -> dict[str, Gathered]:
        """Per name the magnitudes of a source under its upper bits."""
        found = {name: Gathered(high) for name, (_, high) in bins.items()}
        lock = threading.Lock()

        def work(piece: Piece) -> None:
            for name, (source, high) in bins.items():
                for base, row in self._rows(piece[0], source, *piece[1:]) if source in piece[0].operands else ():
                    out = memory("between", len(row) + 1, np.int32)
                    number = self._kernels.inside(base, row, high, out.view(np.uint32))
                    with lock:
                        found[name].add(torch.from_numpy(out[:number].copy()))

        if bins:
            self._mapped(work)
        return found


def _chunks(
    tensor: Tensor, fresh: Fresh | None, at: npt.NDArray[np.int64], length: int
) -> tuple[Raw, npt.NDArray[np.int64]]:
    """Bits, and where among them each chunk begins: what is in memory stays where it is."""
    if fresh is None or fresh.place is None:
        return bits_of(tensor.view(-1)), at
    return chunks(fresh.place, at, length), np.arange(len(at)) * length
