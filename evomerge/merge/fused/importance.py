"""Compiled loops for Arcee Fusion: |δ| times a number for every row.

As in `kernels`, every operation is that of the torch path, in its order.
"""

# N entries of whole rows, R rows

from __future__ import annotations

from typing import Any

import numpy as np

from evomerge.merge.fused.kernels import F0, F1, HALF, LOW_BITS, ONE, U16, compiled, wide_of

_EXPONENT = np.uint16(0x7F80)
_MAGNITUDE = np.uint32(0x7FFFFFFF)


@compiled
def importances(base_N: Any, raw_N: Any, divergence_R: Any, out_N: Any) -> None:  # pragma: no cover  # compiled
    """Bits of |δ| times its row's divergence."""
    columns = len(raw_N) // len(divergence_R)
    found = out_N.view(np.float32)
    for row in range(len(divergence_R)):
        divergence = divergence_R[row]
        for i in range(row * columns, (row + 1) * columns):
            found[i] = abs(wide_of(raw_N[i]) - wide_of(base_N[i])) * divergence
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
            rounded = np.uint16((bits[i] + (HALF + ((bits[i] >> U16) & ONE))) >> U16)
            out[i] = rounded
            worst = max(worst, np.uint16(rounded & _EXPONENT))
    return bool(worst != _EXPONENT)
