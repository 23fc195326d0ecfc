"""Compiled loops about the order of magnitudes: which is the K-th largest, and which rank has every one of its row.

The bits of non-negative floats order like the floats.
"""

# C chunks, L entries of a chunk, N entries, T thresholds

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from evomerge.merge.fused.kernels import LOW_BITS, TILE, bits_of_deltas, compiled, entries_at

LANES = 16
"""Magnitudes that are compared at a time."""
EDGE_BITS = 15
"""Lower bits that a sample is not counted by at first."""
_DEVIATIONS = 3.5
LARGEST = (1 << 31) - 1
"""More than the bits of any magnitude."""
_BINS = 1 << 11

U0 = np.uint32(0)
U1 = np.uint32(1)
I0 = np.int32(0)
I1 = np.int32(1)
NEVER = np.int32(-1)
"""Neither counted nor gathered."""
NOTHING, LOWEST, HIGHEST = np.uint16(0), np.uint16(1), np.uint16(1 << (LANES - 1))


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


def _ones_typed(context: Any, mask: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.zext(builder.ctpop(values[0]), ir.IntType(64))

    return types.int64(types.uint16), generate


def _number_over_typed(context: Any, keys: Any, at: Any, edge: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        over = builder.icmp_signed(">", _vector(context, builder, signature, values), _same(builder, values[2]))
        return builder.zext(builder.ctpop(builder.bitcast(over, ir.IntType(LANES))), ir.IntType(64))

    return types.int64(keys, types.int64, types.int32), generate


_number_over = intrinsic(_number_over_typed)
"""(int32 array, first, edge) → how many of the next LANES entries are larger."""
_between = intrinsic(_between_typed)
"""(int32 array, first, low, high) → a bit for each of the next LANES entries: low < entry < high."""
_lowest = intrinsic(_lowest_typed)
"""The place of the lowest bit that is set."""
_ones = intrinsic(_ones_typed)
"""How many bits are set."""


@compiled
def sample(base_N: Any, base_at_C: Any, raw_N: Any, at_C: Any, bits_CL: Any) -> None:  # pragma: no cover  # compiled
    """Bits of |θ − θ0| in chunks that begin at given places."""
    length = bits_CL.shape[1]
    for c in range(len(at_C)):
        bits_of_deltas(base_N[base_at_C[c] :], raw_N[at_C[c] :], length, bits_CL[c])


@compiled
def _gather(keys: Any, number: int, low: Any, high: Any, out: Any) -> int:  # pragma: no cover  # compiled
    """Those between low and high, both left out; returns how many there are. `out` has room for two more.

    Two are written whether they are there or not: where few are, a branch on their number would be guessed wrong.
    """
    found = 0
    for first in range(0, number, LANES):
        mask = _between(keys, first, low, high)
        others = mask & (mask - LOWEST)
        out[found] = keys[first + _lowest(mask | HIGHEST)]
        out[found + 1] = keys[first + _lowest(others | HIGHEST)]
        number_here = _ones(mask)
        if number_here > 2:
            others &= others - LOWEST
            at = found + 2
            while others != NOTHING:
                out[at] = keys[first + _lowest(others)]
                others &= others - LOWEST
                at += 1
        found += number_here
    return found


@compiled
def inside(keys_N: Any, high: int, out: Any) -> int:  # pragma: no cover  # compiled
    """Gather the bits of magnitudes whose upper ones are `high`, at the front of `out` (two longer)."""
    low, past = np.int32((high << LOW_BITS) - 1), np.int32(min((high + 1) << LOW_BITS, LARGEST))
    whole = len(keys_N) - len(keys_N) % LANES
    found = _gather(keys_N, whole, low, past, out)
    for i in range(whole, len(keys_N)):
        out[found] = keys_N[i]
        found += int((keys_N[i] > low) & (keys_N[i] < past))
    return found


@compiled
def kth_largest(keys_N: Any, rank: int, low: int, high: int) -> int:  # pragma: no cover  # compiled
    """The entry of a rank from above, 1 for the largest, among some from `low` to `high`; their order is lost."""
    counts = np.empty(_BINS, np.int32)
    number = len(keys_N)
    while low < high:
        shift = 0
        while ((high - low) >> shift) >= _BINS:
            shift += 1
        counts[:] = 0
        first, by = np.int32(low), np.int32(shift)
        for i in range(number):
            counts[(keys_N[i] - first) >> by] += 1
        at = (high - low) >> shift
        while counts[at] < rank:
            rank -= counts[at]
            at -= 1
        if shift:
            inside = 0
            for i in range(number):
                key = keys_N[i]
                keys_N[inside] = key
                inside += int(((key - first) >> by) == at)
            number = inside
        high = min(high, low + ((at + 1) << shift) - 1)
        low += at << shift
    return low


@compiled
def _of_rank(keys: Any, counts: Any, highest: int, rank: int, room: Any) -> int:  # pragma: no cover  # compiled
    """The entry of a rank from above; 0 if there are fewer."""
    above, at = 0, highest
    while at > 0 and above + counts[at] < rank:
        above += counts[at]
        at -= 1
    if above + counts[at] < rank:
        return 0
    low = at << EDGE_BITS
    high = min((at + 1) << EDGE_BITS, LARGEST)
    found = _gather(keys, len(keys), np.int32(low - 1), np.int32(high), room)
    return int(kth_largest(room[:found], rank - above, low, high))


@compiled
def brackets(sample_CL: Any, shares_T: Any, edges_T2: Any, counts: Any) -> None:  # pragma: no cover  # compiled
    """Magnitudes between which those of some ranks surely lie, judged by a sample: entries of it, so that where many
    are equal, as differences of bfloat16 are, hardly any lies between.

    Args:
        sample_CL: bits of magnitudes, in chunks that are drawn apart from each other; whole LANES.
        shares_T: the ranks from above as shares of all entries.
        edges_T2: lower and upper edge as bits; overwritten.
        counts: memory for as many int32 as there are patterns of upper bits.
    """
    chunks, length = sample_CL.shape
    number = chunks * length
    keys = sample_CL.reshape(number).view(np.int32)
    room = np.empty(number + 2, np.int32)
    most = I0
    for i in range(number):
        most = max(most, keys[i])
    highest = int(most) >> EDGE_BITS
    counts[: highest + 1] = 0
    for i in range(number):
        counts[keys[i] >> np.int32(EDGE_BITS)] += 1
    for t in range(len(shares_T)):
        rank = shares_T[t] * number
        middle = np.uint32(_of_rank(keys, counts, highest, max(int(rank), 1), room))
        squares, mean = 0.0, 0.0
        for c in range(chunks):
            reach = I0
            for i in range(length):
                reach += np.int32(sample_CL[c, i] >= middle)
            mean += reach
            squares += float(reach) * float(reach)
        mean /= chunks
        spread = max(squares / chunks - mean * mean, 0.0)  # of the chunks' counts: they may differ more than entries do
        margin = _DEVIATIONS * np.sqrt(spread * chunks) + 3.0
        edges_T2[t, 0] = _of_rank(keys, counts, highest, int(rank + margin) + 1, room)
        above = int(rank - margin)
        edges_T2[t, 1] = _of_rank(keys, counts, highest, above, room) if above > 0 else LARGEST


@compiled
def census(
    base_at: Any, raw_at: Any, size: int, edges_T2: Any, counts_T4: Any, inside_TM: Any, found_T: Any
) -> None:  # pragma: no cover  # compiled
    """Count and gather |θ − θ0| around brackets.

    Args:
        base_at, raw_at: addresses of the entries.
        size: how many there are.
        counts_T4: to which is added how many are > and ≥ the upper edge, > and ≥ the lower one.
        inside_TM: gets the bits of those between the edges, as far as there is room.
        found_T: how many there are of them, so far; more than there is room for: the rest is lost.
    """
    base_N, raw_N = carray(entries_at(base_at), size), carray(entries_at(raw_at), size)
    bits = np.zeros(TILE + LANES, np.uint32)
    keys = bits.view(np.int32)
    for begin in range(0, size, TILE):
        number = min(TILE, size - begin)
        bits_of_deltas(base_N[begin:], raw_N[begin:], number, bits)
        around(keys, number, edges_T2, counts_T4, inside_TM, found_T)


@compiled
def around(
    keys: Any, number: int, edges_T2: Any, counts_T4: Any, inside_TM: Any, found_T: Any
) -> None:  # pragma: no cover  # compiled
    """`census` of the first of some bits, which have room for LANES more."""
    room = inside_TM.shape[1] - LANES
    keys[number : number + LANES] = NEVER
    for t in range(len(edges_T2)):
        low, high = np.int32(edges_T2[t, 0]), np.int32(edges_T2[t, 1])
        over_high, from_high, over_low, from_low = 0, 0, 0, 0
        for first in range(0, number, LANES):
            over_high += _number_over(keys, first, high)
            from_high += _number_over(keys, first, high - I1)
            over_low += _number_over(keys, first, low)
            from_low += _number_over(keys, first, low - I1)
        counts_T4[t, 0] += over_high
        counts_T4[t, 1] += from_high
        counts_T4[t, 2] += over_low
        counts_T4[t, 3] += from_low
        here = over_low - from_high
        if here <= 0:
            continue
        if found_T[t] + here <= room:
            _gather(keys, number, low, high, inside_TM[t, found_T[t] :])
        found_T[t] += here


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
