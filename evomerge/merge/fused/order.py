"""Compiled loops about the order of magnitudes: which is the K-th largest, and which rank has every one of its row.

The bits of non-negative floats order like the floats.
"""

# C chunks, L entries of a chunk, N entries, T thresholds

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from evomerge.merge.fused.kernels import TILE, bits_of_deltas, compiled

LANES = 16
"""Magnitudes that are compared at a time."""
EDGE_BITS = 15
"""Brackets end at magnitudes without the lowest bits: entries of bfloat16 that lie near each other differ by such."""
_EDGES = 1 << (31 - EDGE_BITS)
_DEVIATIONS = 4.5

U0 = np.uint32(0)
U1 = np.uint32(1)
I0 = np.int32(0)
NOTHING = np.uint16(0)


def _vector(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    """LANES entries of an array (argument 0) from an index (argument 1) on."""
    array = context.make_array(signature.args[0])(context, builder, values[0])
    wide = ir.VectorType(ir.IntType(32), LANES)
    return builder.load(builder.bitcast(builder.gep(array.data, [values[1]]), wide.as_pointer()), align=4)


def _same(builder: Any, value: Any) -> Any:
    """A vector that holds a value LANES times."""
    wide = ir.VectorType(ir.IntType(32), LANES)
    first = builder.insert_element(ir.Constant(wide, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(first, first, zeros)


def _between_typed(context: Any, keys: Any, at: Any, low: Any, high: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        vector = _vector(context, builder, signature, values)
        over = builder.icmp_signed(">", vector, _same(builder, values[2]))
        under = builder.icmp_signed("<", vector, _same(builder, values[3]))
        return builder.bitcast(builder.and_(over, under), ir.IntType(LANES))

    return types.uint16(keys, types.int64, types.int32, types.int32), generate


def _lowest_typed(context: Any, mask: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.cttz(builder.zext(values[0], ir.IntType(64)), ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint16), generate


_between = intrinsic(_between_typed)
"""(int32 array, first, low, high) → a bit for each of the next LANES entries: low < entry < high."""
_lowest = intrinsic(_lowest_typed)
"""The place of the lowest bit that is set."""


@compiled
def sample(base_N: Any, raw_N: Any, at_C: Any, bits_CL: Any) -> None:  # pragma: no cover  # compiled
    """Bits of |θ − θ0| in chunks."""
    length = bits_CL.shape[1]
    for c in range(len(at_C)):
        bits_of_deltas(base_N[at_C[c] :], raw_N[at_C[c] :], length, bits_CL[c])


@compiled
def brackets(sample_CL: Any, shares_T: Any, edges_T2: Any, counts: Any) -> None:  # pragma: no cover  # compiled
    """Magnitudes between which those of some ranks surely lie, judged by a sample.

    Args:
        sample_CL: bits of magnitudes, in chunks that are drawn apart from each other.
        shares_T: the ranks from above as shares of all entries.
        edges_T2: lower and upper edge as bits; overwritten.
        counts: memory for as many int32 as there are edges.
    """
    chunks, length = sample_CL.shape
    number = chunks * length
    top = U0
    for c in range(chunks):
        for i in range(length):
            top = max(top, sample_CL[c, i] >> np.uint32(EDGE_BITS))
    highest = int(top)
    counts[: highest + 1] = 0
    for c in range(chunks):
        for i in range(length):
            counts[sample_CL[c, i] >> np.uint32(EDGE_BITS)] += 1
    for t in range(len(shares_T)):
        middle = np.uint32(_down_to(counts, highest, shares_T[t] * number) << EDGE_BITS)
        squares, mean = 0.0, 0.0
        for c in range(chunks):
            reach = 0
            for i in range(length):
                reach += int(sample_CL[c, i] >= middle)
            mean += reach
            squares += reach * reach
        mean /= chunks
        spread = max(squares / chunks - mean * mean, 0.0)  # of the chunks' counts: they may differ more than entries do
        margin = _DEVIATIONS * np.sqrt(spread * chunks) + 3.0
        edges_T2[t, 0] = _down_to(counts, highest, shares_T[t] * number + margin) << EDGE_BITS
        above = shares_T[t] * number - margin
        high = _down_to(counts, highest, above) + 1 if above > 0 else 1 << (31 - EDGE_BITS)
        edges_T2[t, 1] = min(high << EDGE_BITS, (1 << 31) - 1)


@compiled
def _down_to(counts: Any, highest: int, wanted: float) -> int:  # pragma: no cover  # compiled
    """The edge down to which there are `wanted` entries; the lowest if there are fewer."""
    found, at = 0.0, highest + 1
    while at > 0 and found < wanted:
        at -= 1
        found += counts[at]
    return at if found >= wanted else 0


@compiled
def census(
    base_N: Any, raw_N: Any, edges_T2: Any, counts_T4: Any, inside_TM: Any, found_T: Any
) -> None:  # pragma: no cover  # compiled
    """Count and gather |θ − θ0| around brackets.

    Args:
        counts_T4: to which is added how many are > and ≥ the upper edge, > and ≥ the lower one.
        inside_TM: gets the bits of those between the edges, as far as there is room.
        found_T: how many there are of them, so far; more than there is room for: the rest is lost.
    """
    size, room = len(raw_N), inside_TM.shape[1] - LANES
    bits = np.zeros(TILE + LANES, np.uint32)
    keys = bits.view(np.int32)
    for begin in range(0, size, TILE):
        number = min(TILE, size - begin)
        bits_of_deltas(base_N[begin:], raw_N[begin:], number, bits)
        keys[number : number + LANES] = I0  # never inside
        for t in range(len(edges_T2)):
            low, high = np.int32(edges_T2[t, 0]), np.int32(edges_T2[t, 1])
            over_high, from_high, over_low, from_low = I0, I0, I0, I0
            for i in range(number):
                key = keys[i]
                over_high += np.int32(key > high)
                from_high += np.int32(key >= high)
                over_low += np.int32(key > low)
                from_low += np.int32(key >= low)
            counts_T4[t, 0] += over_high
            counts_T4[t, 1] += from_high
            counts_T4[t, 2] += over_low
            counts_T4[t, 3] += from_low
            here = int(over_low) - int(from_high)
            if here <= 0:
                continue
            if found_T[t] + here <= room:
                _gather(keys, number, low, high, inside_TM[t, found_T[t] :])
            found_T[t] += here


@compiled
def _gather(keys: Any, number: int, low: Any, high: Any, out: Any) -> None:  # pragma: no cover  # compiled
    found = 0
    for first in range(0, number, LANES):
        mask = _between(keys, first, low, high)
        while mask != NOTHING:
            out[found] = keys[first + _lowest(mask)]
            found += 1
            mask &= mask - np.uint16(1)


@compiled
def bounds_by_rank(
    base_N: Any, raw_N: Any, columns: int, by_rank: Any, out_N: Any
) -> None:  # pragma: no cover  # compiled
    """Give every entry what belongs to the rank of |θ − θ0| in its row, the smallest first, equal ones in memory order.

    Every row is put into about as many bins as it has entries, and what lies in one bin and out of order is inserted.

    Args:
        by_rank: a number for each rank of a row of `columns`, fewer than 2^16.
    """
    bits = np.empty(columns, np.uint32)
    bins = np.empty(columns, np.uint16)
    pairs = np.empty(columns, np.uint64)
    width = 256
    while width < 65536 and 3 * width < 4 * columns:
        width *= 2
    starts = np.empty(width, np.int32)
    for row in range(0, len(raw_N), columns):
        bits_of_deltas(base_N[row:], raw_N[row:], columns, bits)
        number = _binned(bits, columns, width, bins)
        starts[:number] = 0
        for i in range(columns):
            starts[bins[i]] += 1
        before = 0
        for at in range(number):
            here = starts[at]
            starts[at] = before
            before += here
        for i in range(columns):
            at = bins[i]
            rank = starts[at]
            starts[at] = rank + 1
            pairs[rank] = (np.uint64(bits[i]) << np.uint64(32)) | np.uint64(i)
        _insert(pairs, columns)
        out = out_N[row:]
        for rank in range(columns):
            out[np.int64(pairs[rank] & np.uint64(0xFFFFFFFF))] = by_rank[rank]


@compiled
def _binned(bits: Any, columns: int, width: int, bins: Any) -> int:  # pragma: no cover  # compiled
    """Bins whose order is that of the magnitudes, zeros in the first; returns how many there are."""
    least, most = np.uint32(0xFFFFFFFF), U0
    for i in range(columns):
        least = min(least, bits[i] - U1)  # 0 is passed over: it wraps to the largest
        most = max(most, bits[i])
    least = min(least, most)
    shift = U0
    while ((most - least) >> shift) >= np.uint32(width - 2):
        shift += U1
    least -= min(least, U1 << shift)
    for i in range(columns):
        bins[i] = np.uint16((max(bits[i], least) - least) >> shift)
    return int((most - least) >> shift) + 1


@compiled
def _insert(pairs: Any, number: int) -> None:  # pragma: no cover  # compiled
    """Put into order what is nearly in order."""
    before = pairs[0]
    for at in range(1, number):
        pair = pairs[at]
        if pair < before:
            to = at - 1
            while to >= 0 and pairs[to] > pair:
                pairs[to + 1] = pairs[to]
                to -= 1
            pairs[to + 1] = pair
        else:
            before = pair
