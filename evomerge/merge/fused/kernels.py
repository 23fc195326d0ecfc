"""Compiled loops over blocks of bfloat16: widen, merge, round, in one pass and without memory on the way.

Every operation is that of the torch path, in its order, rounded to float32 one by one: the bytes are the same. Imported
only where numba is installed (the extra `fast`); compiled once a machine, then read from numba's cache.
"""

# K sources, N entries, T entries of a tile

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from evomerge.merge.primitives import philox
from evomerge.merge.primitives.philox import GROUP, LANES, ROUNDS

TILE = 2048
"""Entries whose float32 sums stay in a core's first-level cache."""
LOW_BITS = 17
"""As in `evomerge.merge.primitives.measure`."""

F0 = np.float32(0)
F1 = np.float32(1)
U16 = np.uint32(16)
HALF = np.uint32(0x7FFF)
ONE = np.uint32(1)

M0, M1 = np.uint64(philox.MULTIPLIERS[0]), np.uint64(philox.MULTIPLIERS[1])
W0, W1 = np.uint64(philox.INCREMENTS[0]), np.uint64(philox.INCREMENTS[1])
LOW = np.uint64(philox.RESOLUTION - 1)
U32 = np.uint64(philox.BITS)

Loop = TypeVar("Loop", bound=Callable[..., Any])


def compiled(loop: Loop) -> Loop:
    """The loop as machine code that runs without Python's lock."""
    made: Loop = njit(nogil=True, cache=True, error_model="numpy", boundscheck=False)(loop)
    return made


def _entries_typed(context: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], ir.IntType(16).as_pointer())

    return types.CPointer(types.uint16)(types.uint64), generate


def _wide_typed(context: Any, bits: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        upper = builder.shl(builder.zext(values[0], ir.IntType(32)), ir.Constant(ir.IntType(32), 16))
        return builder.bitcast(upper, ir.FloatType())

    return types.float32(types.uint16), generate


entries_at = intrinsic(_entries_typed)
"""Address → where bfloat16 entries begin."""
wide_of = intrinsic(_wide_typed)
"""bfloat16 → float32."""


@compiled
def bits_of_deltas(base_N: Any, raw_N: Any, number: int, bits: Any) -> None:  # pragma: no cover  # compiled
    """Bits of the first |θ − θ0|: those of non-negative floats order like the floats."""
    delta = bits.view(np.float32)
    for i in range(number):
        delta[i] = abs(wide_of(raw_N[i]) - wide_of(base_N[i]))


@compiled
def upper_counts(base_N: Any, raw_N: Any, counts: Any) -> None:  # pragma: no cover  # compiled
    """Add how often each pattern of upper bits of |θ − θ0| occurs; two rows of counts, so that equal ones in a row do
    not wait for each other."""
    bits = np.empty(TILE, np.uint32)
    for begin in range(0, len(raw_N), TILE):
        number = min(TILE, len(raw_N) - begin)
        bits_of_deltas(base_N[begin:], raw_N[begin:], number, bits)
        whole = number - number % 2
        for i in range(0, whole, 2):
            counts[0, bits[i] >> np.uint32(LOW_BITS)] += 1
            counts[1, bits[i + 1] >> np.uint32(LOW_BITS)] += 1
        if whole < number:
            counts[0, bits[whole] >> np.uint32(LOW_BITS)] += 1


@compiled
def inside(base_N: Any, raw_N: Any, high: int, out: Any) -> int:  # pragma: no cover  # compiled
    """Gather the bits of |θ − θ0| whose upper ones are `high`, at the front of `out` (one longer than the block)."""
    bits = np.empty(TILE, np.uint32)
    wanted = np.uint32(high)
    found = 0
    for begin in range(0, len(raw_N), TILE):
        number = min(TILE, len(raw_N) - begin)
        bits_of_deltas(base_N[begin:], raw_N[begin:], number, bits)
        for i in range(number):  # no branch: it could not be foreseen
            out[found] = bits[i]
            found += int((bits[i] >> np.uint32(LOW_BITS)) == wanted)
    return found


@compiled
def is_finite(raw_N: Any) -> bool:  # pragma: no cover  # compiled
    """Whether neither NaN nor infinity is among bfloat16 entries."""
    found = np.uint16(0)
    for i in range(len(raw_N)):
        found |= np.uint16((raw_N[i] & np.uint16(0x7F80)) == np.uint16(0x7F80))
    return bool(found == 0)


@compiled
def drawn(key: Any, group: int, out: Any) -> None:  # pragma: no cover  # compiled
    """Random numbers as of `primitives.philox`, in whole groups.

    Words lie in 64 bits each, of which those above the lowest 32 do not matter: this way a vector unit multiplies them.

    Args:
        key: 128 bits, lower half first.
        group: the first.
        out: 32-bit numbers, overwritten.
    """
    key0, key1, third, fourth = key[0] & LOW, key[0] >> U32, key[1] & LOW, key[1] >> U32
    for begin in range(0, len(out), GROUP):
        part = out[begin : begin + GROUP]
        first = np.uint64(group * LANES + begin // 4)
        for lane in range(LANES):
            counter = first + np.uint64(lane)
            x0, x1, x2, x3 = counter, counter >> U32, third, fourth
            a, b = key0, key1
            for _ in range(ROUNDS):
                product, other = (x0 & LOW) * M0, (x2 & LOW) * M1
                x0, x1, x2, x3 = (other >> U32) ^ x1 ^ a, other, (product >> U32) ^ x3 ^ b, product
                a, b = (a + W0) & LOW, (b + W1) & LOW
            part[lane] = np.uint32(x0)
            part[LANES + lane] = np.uint32(x1)
            part[2 * LANES + lane] = np.uint32(x2)
            part[3 * LANES + lane] = np.uint32(x3)
