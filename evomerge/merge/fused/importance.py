"""Compiled loops for Arcee Fusion: the divergence of rows, and |δ| times it.

As in `kernels`, every operation is that of the torch path, in its order.
"""

# N entries of whole rows, R rows

from __future__ import annotations

from typing import Any

import numpy as np

from evomerge.merge.fused.kernels import F0, F1, HALF, LOW_BITS, U16, compiled, wide_of
from evomerge.merge.fused.kernels import ONE as ODD
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
_EXPONENT = np.uint16(0x7F80)
_MAGNITUDE = np.uint32(0x7FFFFFFF)
_ROUND_BITS = int(np.float64(ROUND).view(np.int64))


@compiled
def exponentials(x_RC: Any, out_RC: Any) -> None:  # pragma: no cover  # compiled
    """As `primitives.divergence.exponentials`; whole numbers are read off the bits of their sum with ROUND."""
    columns = x_RC.shape[1]
    rounded = np.empty(TILE, np.float64)
    bits = rounded.view(np.int64)
    for row in range(len(x_RC)):
        x, out = x_RC[row], out_RC[row]
        top = x[0]
        for i in range(columns):
            top = max(top, x[i])
        largest = np.float64(top)
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
def terms(a_RC: Any, of_a: Any, b_RC: Any, of_b: Any, out_RC: Any) -> None:  # pragma: no cover  # compiled
    """As `primitives.divergence.terms`."""
    columns = a_RC.shape[1]
    chance, ratio, power = np.empty(TILE, np.float64), np.empty(TILE, np.float64), np.empty(TILE, np.float64)
    bits, whole = ratio.view(np.int64), power.view(np.int64)
    for row in range(len(a_RC)):
        for begin in range(0, columns, TILE):
            length = min(TILE, columns - begin)
            a, b = a_RC[row, begin : begin + length], b_RC[row, begin : begin + length]
            out = out_RC[row, begin : begin + length]
            for i in range(length):
                chance[i] = a[i] * of_a[row] + EPS
                ratio[i] = chance[i] / (b[i] * of_b[row] + EPS)
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
                out[i] = chance[i] * (number * LN2_HIGH + (sum_ * (2.0 * s) + number * LN2_LOW))


@compiled
def importances(base_N: Any, raw_N: Any, divergence_R: Any, out_N: Any) -> None:  # pragma: no cover  # compiled
    """Bits of |δ| times its row's divergence."""
    columns = len(raw_N) // len(divergence_R)
    found = out_N.view(np.float32)
    for row in range(len(divergence_R)):
        divergence = divergence_R[row]
        raw, base = raw_N[row * columns : (row + 1) * columns], base_N[row * columns : (row + 1) * columns]
        out = found[row * columns : (row + 1) * columns]
        for i in range(columns):
            out[i] = abs(wide_of(raw[i]) - wide_of(base[i])) * divergence
    for i in range(len(out_N)):
        out_N[i] &= _MAGNITUDE


@compiled
def upper_counts(bits_N: Any, counts: Any) -> None:  # pragma: no cover  # compiled
    """Add how often each pattern of upper bits occurs; two rows of counts, so that equal ones in a row do not wait for
    each other."""
    for i in range(len(bits_N)):
        counts[i & 1, bits_N[i] >> np.uint32(LOW_BITS)] += 1


@compiled
def taken_over(
    base_N: Any, raw_N: Any, divergence_R: Any, least: Any, out_N: Any
) -> bool:  # pragma: no cover  # compiled
    """θ where its importance is at least so large, else θ0; whether all are finite."""
    columns = len(raw_N) // len(divergence_R)
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
