"""Compiled loops for the inner products of whole tensors, every pair in one pass.

As in `kernels`, the sums are those of the torch path, in its order. A product of two float32 numbers is exact in
float64, so that a processor may multiply and add in one step: there is one rounding either way.
"""

# K vectors, P pairs, L lanes

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from evomerge.merge.fused.kernels import compiled, entries_at, wide_of
from evomerge.merge.primitives.gram import LANES

MOST = 4
"""Vectors whose pairs' sums all stay in registers."""
_ROWS = 8
"""Lanes' worth of entries that are added to a sum before it goes back to memory."""
_TOGETHER = 8
"""Lanes that are added up at a time: a vector register of float64."""
_GRAM_TILE = 4 * LANES


def _step_typed(context: Any, at_K: Any, base_at: Any, first: Any, lanes: Any, lane: Any) -> Any:
    """One loop for each number of vectors, that of the tuple `at_K`."""
    long, double = ir.IntType(64), ir.VectorType(ir.DoubleType(), _TOGETHER)
    pairs = [(j, k) for j in range(len(at_K)) for k in range(j + 1)]

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        at, base, begin, _, lane = values
        array = context.make_array(signature.args[3])(context, builder, values[3])

        def place(pair: int) -> Any:
            first = builder.gep(array.data, [builder.add(lane, ir.Constant(long, pair * LANES))])
            return builder.bitcast(first, double.as_pointer())

        def wide(address: Any, row: int) -> Any:
            entry = builder.add(builder.add(begin, lane), ir.Constant(long, row * LANES))
            return _widened(builder, builder.add(address, builder.shl(entry, ir.Constant(long, 1))))

        sums = [builder.load(place(p), align=8) for p in range(len(pairs))]
        for row in range(_ROWS):
            xs = [wide(builder.extract_value(at, k), row) for k in range(len(at_K))]
            if not isinstance(base_at, types.NoneType):
                center = wide(base, row)
                xs = [builder.fsub(x, center) for x in xs]
            xs = [builder.fpext(x, double) for x in xs]
            for p, (j, k) in enumerate(pairs):
                product = builder.fmul(xs[j], xs[k], flags=["contract"])
                sums[p] = builder.fadd(sums[p], product, flags=["contract"])
        for p, found in enumerate(sums):
            builder.store(found, place(p), align=8)
        return context.get_dummy_value()

    return types.void(at_K, base_at, types.int64, lanes, types.int64), generate


def _widened(builder: Any, address: Any) -> Any:
    """bfloat16 entries from an address on as float32."""
    short, word = (ir.VectorType(ir.IntType(bits), _TOGETHER) for bits in (16, 32))
    raw = builder.load(builder.inttoptr(address, short.as_pointer()), align=2)
    upper = builder.shl(builder.zext(raw, word), ir.Constant(word, [16] * _TOGETHER))
    return builder.bitcast(upper, ir.VectorType(ir.FloatType(), _TOGETHER))


_step = intrinsic(_step_typed)
"""(addresses, address of θ0 or None, first entry, sums, first lane): add `_ROWS` entries' products to each of some
lanes."""


@compiled
def gram(at_K: Any, base_at: Any, size: int, skipped: int, lanes_PL: Any) -> None:  # pragma: no cover  # compiled
    """Add the entries' products to the lanes of every pair, as `primitives.gram.Gram`.

    Args:
        at_K: a tuple of addresses, of at most `MOST`.
        base_at: address of θ0, where it is taken from the vectors, or None.
        size: number of entries.
        skipped: the lane of the first.
    """
    lanes = lanes_PL.reshape(lanes_PL.size)
    begin = min((LANES - skipped) % LANES, size)
    _add_some(at_K, base_at, 0, begin, skipped, lanes_PL)
    while begin + _ROWS * LANES <= size:
        for lane in range(0, LANES, _TOGETHER):
            _step(at_K, base_at, begin, lanes, lane)
        begin += _ROWS * LANES
    _add_some(at_K, base_at, begin, size - begin, 0, lanes_PL)


@compiled
def _add_some(
    at_K: Any, base_at: Any, begin: int, number: int, lane: int, lanes_PL: Any
) -> None:  # pragma: no cover  # compiled
    first_K = np.empty(len(at_K), np.uint64)
    for k in range(len(at_K)):
        first_K[k] = at_K[k] + np.uint64(2 * begin)
    if base_at is None:
        gram_of_many(first_K, np.uint64(0), False, number, lane, lanes_PL)
    else:
        gram_of_many(first_K, base_at + np.uint64(2 * begin), True, number, lane, lanes_PL)


@compiled
def gram_of_many(
    at_K: Any, base_at: Any, from_base: bool, size: int, skipped: int, lanes_PL: Any
) -> None:  # pragma: no cover  # compiled
    """As `gram`, for any number of vectors; `at_K` is an array."""
    base_N = carray(entries_at(base_at), size if from_base else 0)
    wide_KT = np.empty((len(at_K), _GRAM_TILE), np.float64)
    begin = 0
    while begin < size:
        first = (skipped + begin) % LANES
        number = min(_GRAM_TILE - first, size - begin)
        for k in range(len(at_K)):
            raw, wide = carray(entries_at(at_K[k]), size)[begin : begin + number], wide_KT[k]
            if from_base:
                raw_base = base_N[begin : begin + number]
                for i in range(number):
                    wide[i] = np.float64(wide_of(raw[i]) - wide_of(raw_base[i]))
            else:
                for i in range(number):
                    wide[i] = np.float64(wide_of(raw[i]))
        pair = 0
        for j in range(len(at_K)):
            for k in range(j + 1):
                _add_products(wide_KT[j], wide_KT[k], number, first, lanes_PL[pair])
                pair += 1
        begin += number


@compiled
def _add_products(a_T: Any, b_T: Any, number: int, first: int, lanes: Any) -> None:  # pragma: no cover  # compiled
    if number == _GRAM_TILE:
        for lane in range(LANES):
            sum_ = lanes[lane] + a_T[lane] * b_T[lane]
            sum_ += a_T[LANES + lane] * b_T[LANES + lane]
            sum_ += a_T[2 * LANES + lane] * b_T[2 * LANES + lane]
            lanes[lane] = sum_ + a_T[3 * LANES + lane] * b_T[3 * LANES + lane]
    else:
        for i in range(number):
            lanes[(first + i) % LANES] += a_T[i] * b_T[i]
