"""Compiled loops for Arcee Fusion: the divergence of rows, |δ| times it, and what of that is large.

As in `kernels`, every operation is that of the torch path, in its order.
"""

# N entries of whole rows, R rows, C entries of a row, B bins

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from evomerge.merge.fused.kernels import F0, F1, HALF, LOW_BITS, U16, compiled, entries_at, wide_of
from evomerge.merge.fused.kernels import ONE as ODD
from evomerge.merge.fused.order import inside
from evomerge.merge.primitives.divergence import EPS
from evomerge.merge.primitives.elementary import (
    EXP_TERMS,
    LN2_HIGH,
    LN2_LOW,
    LOG2E,
    LOG_TERMS,
    LOWEST,
    MANTISSA,
    ONE,
    ROOT_HALF,
    ROUND,
)

TILE = 512
LANES = 16
_LEAF, _SUMS = 128, 8
_EXPONENT = np.uint16(0x7F80)
_MAGNITUDE = np.uint32(0x7FFFFFFF)
_ROUND_BITS = int(np.float64(ROUND).view(np.int64))


@compiled
def measured(
    raw_at: Any, base_at: Any, columns: int, divergence_R: Any, counts: Any
) -> bool:  # pragma: no cover  # compiled
    """The divergences of rows, as `methods.arcee_fusion.divergences`, one row at a time, so that what is in between
    stays in the first caches; and how often each pattern of upper bits occurs among the importances.

    Args:
        raw_at, base_at: addresses of the entries of θ and θ0.
        divergence_R: overwritten.
        counts: to which is added; two rows, so that equal ones in a row do not wait for each other.

    Returns:
        Whether all entries are finite.
    """
    size = len(divergence_R) * columns
    raw_N, base_N = carray(entries_at(raw_at), size), carray(entries_at(base_at), size)
    center, theta = np.empty(columns, np.float32), np.empty(columns, np.float32)
    a, b, term = np.empty(columns, np.float64), np.empty(columns, np.float64), np.empty(columns, np.float64)
    bits = np.empty(columns, np.uint32)
    worst = np.uint16(0)
    for row in range(len(divergence_R)):
        raw, base = raw_N[row * columns : (row + 1) * columns], base_N[row * columns : (row + 1) * columns]
        for i in range(columns):
            center[i] = wide_of(base[i])
            theta[i] = (wide_of(raw[i]) - center[i]) + center[i]
            worst = max(worst, np.uint16(raw[i] & _EXPONENT), np.uint16(base[i] & _EXPONENT))
        exponentials(theta, a)
        exponentials(center, b)
        terms(a, 1.0 / pairwise(a), b, 1.0 / pairwise(b), term)
        divergence_R[row] = np.float32(max(pairwise(term), 0.0))
        _importances(raw, base, divergence_R[row], bits)
        for i in range(columns):
            counts[i & 1, bits[i] >> np.uint32(LOW_BITS)] += 1
    return bool(worst != _EXPONENT)


@compiled
def gathered(
    raw_at: Any, base_at: Any, columns: int, divergence_R: Any, high_B: Any, inside_BN: Any, found_B: Any
) -> None:  # pragma: no cover  # compiled
    """Gather the bits of importances whose upper ones are given.

    Args:
        raw_at, base_at: addresses of the entries of θ and θ0.
        high_B: upper bits, one bin each.
        inside_BN: gets what is in each bin; two longer than there are entries.
        found_B: gets how many that are.
    """
    size = len(divergence_R) * columns
    raw_N, base_N = carray(entries_at(raw_at), size), carray(entries_at(base_at), size)
    bits = np.empty(columns, np.uint32)
    keys = bits.view(np.int32)
    found_B[:] = 0
    for row in range(len(divergence_R)):
        raw, base = raw_N[row * columns : (row + 1) * columns], base_N[row * columns : (row + 1) * columns]
        _importances(raw, base, divergence_R[row], bits)
        for at in range(len(high_B)):
            found_B[at] += inside(keys, high_B[at], inside_BN[at, found_B[at] :])


@compiled
def _importances(raw_C: Any, base_C: Any, divergence: Any, out_C: Any) -> None:  # pragma: no cover  # compiled
    """Bits of |δ| times its row's divergence."""
    found = out_C.view(np.float32)
    for i in range(len(out_C)):
        found[i] = abs(wide_of(raw_C[i]) - wide_of(base_C[i])) * divergence
    for i in range(len(out_C)):
        out_C[i] &= _MAGNITUDE


@compiled
def pairwise(x_C: Any) -> float:  # pragma: no cover  # compiled
    """Σ in NumPy's order: eight sums of up to `_LEAF` entries, and halves of what is longer."""
    number = len(x_C)
    if number > _LEAF:
        half = number // 2
        half -= half % _SUMS
        return pairwise(x_C[:half]) + pairwise(x_C[half:])
    whole, sum_ = number - number % _SUMS, 0.0
    if whole:
        sums = (x_C[0], x_C[1], x_C[2], x_C[3], x_C[4], x_C[5], x_C[6], x_C[7])
        a, b, c, d, e, f, g, h = sums
        for i in range(_SUMS, whole, _SUMS):
            a, b, c, d = a + x_C[i], b + x_C[i + 1], c + x_C[i + 2], d + x_C[i + 3]
            e, f, g, h = e + x_C[i + 4], f + x_C[i + 5], g + x_C[i + 6], h + x_C[i + 7]
        sum_ = ((a + b) + (c + d)) + ((e + f) + (g + h))
    for i in range(whole, number):
        sum_ += x_C[i]
    return sum_


@compiled
def exponentials(x: Any, out: Any) -> None:  # pragma: no cover  # compiled
    """As `primitives.divergence.exponentials`, of one row; whole numbers are read off the bits of their sum with
    ROUND."""
    columns = len(x)
    largest = np.float64(_largest(x))
    rounded = np.empty(TILE, np.float64)
    bits = rounded.view(np.int64)
    for begin in range(0, columns, TILE):
        length = min(TILE, columns - begin)
        part, into = x[begin : begin + length], out[begin : begin + length]
        for i in range(length):
            shifted = max(np.float64(part[i]) - largest, LOWEST)
            rounded[i] = shifted * LOG2E + ROUND
            number = rounded[i] - ROUND
            rest = (shifted - number * LN2_HIGH) - number * LN2_LOW
            sum_ = EXP_TERMS[0]
            for k in range(1, len(EXP_TERMS)):
                sum_ = sum_ * rest + EXP_TERMS[k]
            into[i] = sum_
        for i in range(length):
            bits[i] = ((bits[i] - _ROUND_BITS) << MANTISSA) + ONE
        for i in range(length):
            into[i] *= rounded[i]


@compiled
def _largest(x: Any) -> Any:  # pragma: no cover  # compiled
    """Lanes of it first: a processor compares many at a time."""
    top = np.full(LANES, x[0])
    whole = len(x) - len(x) % LANES
    for begin in range(0, whole, LANES):
        part = x[begin : begin + LANES]
        for lane in range(LANES):
            top[lane] = max(top[lane], part[lane])
    largest = x[0]
    for lane in range(LANES):
        largest = max(largest, top[lane])
    for i in range(whole, len(x)):
        largest = max(largest, x[i])
    return largest


@compiled
def terms(a: Any, of_a: float, b: Any, of_b: float, out: Any) -> None:  # pragma: no cover  # compiled
    """As `primitives.divergence.terms`, of one row."""
    chance, ratio, power = np.empty(TILE, np.float64), np.empty(TILE, np.float64), np.empty(TILE, np.float64)
    bits, whole = ratio.view(np.int64), power.view(np.int64)
    for begin in range(0, len(a), TILE):
        length = min(TILE, len(a) - begin)
        of, to, into = a[begin : begin + length], b[begin : begin + length], out[begin : begin + length]
        for i in range(length):
            chance[i] = of[i] * of_a + EPS
            ratio[i] = chance[i] / (to[i] * of_b + EPS)
        for i in range(length):
            number = (bits[i] - ROOT_HALF) >> MANTISSA
            bits[i] -= number << MANTISSA
            whole[i] = number + _ROUND_BITS
        for i in range(length):
            number = power[i] - ROUND
            s = (ratio[i] - 1.0) / (ratio[i] + 1.0)
            square = s * s
            sum_ = LOG_TERMS[0]
            for k in range(1, len(LOG_TERMS)):
                sum_ = sum_ * square + LOG_TERMS[k]
            into[i] = chance[i] * (number * LN2_HIGH + (sum_ * (2.0 * s) + number * LN2_LOW))


@compiled
def taken_over(
    raw_at: Any, base_at: Any, columns: int, divergence_R: Any, least: Any, out_N: Any
) -> bool:  # pragma: no cover  # compiled
    """θ where its importance is at least so large, else θ0; whether all are finite."""
    raw_N, base_N = carray(entries_at(raw_at), len(out_N)), carray(entries_at(base_at), len(out_N))
    total = np.empty(columns, np.float32)
    bits = total.view(np.uint32)
    worst = np.uint16(0)
    for row in range(len(divergence_R)):
        divergence = divergence_R[row]
        raw, base = raw_N[row * columns : (row + 1) * columns], base_N[row * columns : (row + 1) * columns]
        out = out_N[row * columns : (row + 1) * columns]
        for i in range(columns):
            center = wide_of(base[i])
            delta = wide_of(raw[i]) - center
            chosen = F1 if abs(delta) * divergence >= least else F0
            total[i] = chosen * delta + center
        for i in range(columns):
            rounded = np.uint16((bits[i] + (HALF + ((bits[i] >> U16) & ODD))) >> U16)
            out[i] = rounded
            worst = max(worst, np.uint16(rounded & _EXPONENT))
    return bool(worst != _EXPONENT)
