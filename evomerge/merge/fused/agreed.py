"""Compiled loops for means of task vectors over the sources that agree on an entry: RAM, RAM+, SCE; NearSwap of one.

As in `kernels`, every operation is that of the torch path, in its order.
"""

# K sources, N entries, T entries of a tile

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from evomerge.merge.fused.kernels import F0, F1, HALF, LOW_BITS, ONE, U16, compiled, entries_at, wide_of
from evomerge.merge.fused.votes import add_up
from evomerge.merge.primitives.gram import LANES

TILE = 512
"""Entries whose votes, of a few sources, stay in a core's first-level cache."""
ODD_INPUT, ODD_OUTPUT, NEGATIVE_ZERO = 1, 2, 4
"""What was met: NaN or infinity, and −0 in θ0 (where a task vector is 0 its sign would matter then)."""

_EXPONENT = np.uint16(0x7F80)
_MINUS_ZERO = np.uint16(0x8000)
_MAGNITUDE = np.uint32(0x7FFFFFFF)


@compiled
def merge(
    at_K: Any,
    base_at: Any,
    above_K: Any,
    most: Any,
    selects: bool,
    least: Any,
    number: int,
    gains_K: Any,
    elects: bool,
    shares_K: Any,
    least_divisor: Any,
    out_N: Any,
) -> int:  # pragma: no cover  # compiled
    """θ0 + the mean of the votes that agree.

    Args:
        at_K, base_at: addresses of the models' entries.
        above_K: a vote counts where its magnitude is greater; empty: everywhere.
        most: to what magnitude votes are cut; negative: to none.
        selects, least: whether an entry counts only where the variance of all sources is at least so large.
        number: of all sources, those that leave the tensor alone included.
        gains_K: what is added, times the vote, where one source alone has one; empty: nothing.
        elects: whether votes must have the elected sign, and are weighed by shares; else they must not be 0.
        shares_K: what each adds to the divisor.
        least_divisor: what is divided by at least; 0: nothing is divided where no source agrees.

    Returns:
        What was met, as bits.
    """
    size, sources = len(out_N), len(at_K)
    base_N = carray(entries_at(base_at), size)
    center, total, divisor, scratch = (
        np.empty(TILE, np.float32), np.empty(TILE, np.float32), np.empty(TILE, np.float32), np.empty(TILE, np.float32),
    )  # fmt: skip
    vote_KT = np.empty((sources, TILE), np.float32)
    bits = total.view(np.uint32)
    worst, worst_out, minus = np.uint16(0), np.uint16(0), np.uint16(0)
    for begin in range(0, size, TILE):
        length = min(TILE, size - begin)
        raw = base_N[begin : begin + length]
        for i in range(length):
            center[i] = wide_of(raw[i])
            worst = max(worst, np.uint16(raw[i] & _EXPONENT))
            minus |= np.uint16(raw[i] == _MINUS_ZERO)
        worst = max(worst, _votes(at_K, size, begin, length, center, above_K, vote_KT))
        if most >= F0:
            for k in range(sources):
                vote = vote_KT[k]
                for i in range(length):
                    vote[i] = min(max(vote[i], -most), most)
        if selects:
            _variance(vote_KT, number, length, total, scratch)
            for k in range(sources):
                vote = vote_KT[k]
                for i in range(length):
                    vote[i] *= F1 if scratch[i] >= least else F0
        if len(gains_K):
            _amplify(vote_KT, gains_K, length, scratch)
        if elects:
            _elected_mean(vote_KT, shares_K, length, scratch, total, divisor)
        else:
            _mean(vote_KT, shares_K, length, total, divisor)
        out = out_N[begin : begin + length]
        for i in range(length):
            by = divisor[i]
            by = max(by, least_divisor) if least_divisor > F0 else (by if by != F0 else F1)
            total[i] = total[i] / by + center[i]
        for i in range(length):
            rounded = np.uint16((bits[i] + (HALF + ((bits[i] >> U16) & ONE))) >> U16)
            out[i] = rounded
            worst_out = max(worst_out, np.uint16(rounded & _EXPONENT))
    met = ODD_INPUT if worst == _EXPONENT else 0
    met |= ODD_OUTPUT if worst_out == _EXPONENT else 0
    return met | (NEGATIVE_ZERO if minus != np.uint16(0) else 0)


@compiled
def alone_and_shared(at_K: Any, base_at: Any, size: int, above_K: Any, counts_K2: Any) -> None:  # pragma: no cover
    """Count per source the votes that no other source has, and those that others have too."""
    base_N = carray(entries_at(base_at), size)
    center, count = np.empty(TILE, np.float32), np.empty(TILE, np.int32)
    vote_KT = np.empty((len(at_K), TILE), np.float32)
    for begin in range(0, size, TILE):
        length = min(TILE, size - begin)
        raw = base_N[begin : begin + length]
        for i in range(length):
            center[i] = wide_of(raw[i])
            count[i] = 0
        _votes(at_K, size, begin, length, center, above_K, vote_KT)
        for k in range(len(at_K)):
            vote = vote_KT[k]
            for i in range(length):
                count[i] += np.int32(vote[i] != F0)
        for k in range(len(at_K)):
            vote = vote_KT[k]
            alone, others = np.int32(0), np.int32(0)
            for i in range(length):
                here = np.int32(vote[i] != F0)
                single = np.int32(count[i] == 1)
                alone += here & single
                others += here & (np.int32(1) - single)
            counts_K2[k, 0] += alone
            counts_K2[k, 1] += others


@compiled
def variances(
    at_K: Any, base_at: Any, size: int, number: int, out_N: Any, counts: Any
) -> int:  # pragma: no cover  # compiled
    """The bits of the variance of all sources' task vectors, and how often each pattern of upper bits occurs: two rows
    of counts, so that equal ones in a row do not wait for each other. Returns how many are not 0."""
    base_N = carray(entries_at(base_at), size)
    center, mean = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    vote_KT = np.empty((len(at_K), TILE), np.float32)
    nothing = np.empty(0, np.float32)
    found = out_N.view(np.float32)
    positive = size
    for begin in range(0, size, TILE):
        length = min(TILE, size - begin)
        raw = base_N[begin : begin + length]
        for i in range(length):
            center[i] = wide_of(raw[i])
        _votes(at_K, size, begin, length, center, nothing, vote_KT)
        _variance(vote_KT, number, length, mean, found[begin:])
        zeros = np.int32(0)
        for i in range(begin, begin + length):
            out_N[i] &= _MAGNITUDE
            zeros += np.int32(out_N[i] == np.uint32(0))
        positive -= int(zeros)
        for i in range(begin, begin + length):
            counts[i & 1, out_N[i] >> np.uint32(LOW_BITS)] += 1
    return positive


@compiled
def energies(
    at_K: Any, base_at: Any, size: int, number: int, selects: bool, least: Any, skipped: int, lanes_KL: Any
) -> None:  # pragma: no cover  # compiled
    """Add the squares of the selected entries to lanes, as `primitives.gram.Gram`."""
    base_N = carray(entries_at(base_at), size)
    center, mean, variance = np.empty(TILE, np.float32), np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    vote_KT = np.empty((len(at_K), TILE), np.float32)
    nothing = np.empty(0, np.float32)
    begin = 0
    while begin < size:
        first = (skipped + begin) % LANES
        length = min(LANES - first, size - begin)
        raw = base_N[begin : begin + length]
        for i in range(length):
            center[i] = wide_of(raw[i])
        _votes(at_K, size, begin, length, center, nothing, vote_KT)
        if selects:
            _variance(vote_KT, number, length, mean, variance)
        for k in range(len(at_K)):
            vote, lanes = vote_KT[k], lanes_KL[k]
            for i in range(length):
                kept = np.float64(vote[i]) if (not selects) or variance[i] >= least else np.float64(0)
                lanes[first + i] += kept * kept
        begin += length


@compiled
def _votes(
    at_K: Any, size: int, begin: int, length: int, center: Any, above_K: Any, vote_KT: Any
) -> Any:  # pragma: no cover  # compiled
    """Votes of a tile; returns the largest exponent of the models' entries."""
    worst = np.uint16(0)
    for k in range(len(at_K)):
        raw, vote = carray(entries_at(at_K[k]), size)[begin : begin + length], vote_KT[k]
        for i in range(length):
            worst = max(worst, np.uint16(raw[i] & _EXPONENT))
            vote[i] = wide_of(raw[i]) - center[i]
        if len(above_K):
            above = above_K[k]
            for i in range(length):
                vote[i] = vote[i] if abs(vote[i]) > above else F0
    return worst


@compiled
def _variance(vote_KT: Any, number: int, length: int, mean: Any, out: Any) -> None:  # pragma: no cover  # compiled
    """Var over all sources; those that leave the tensor alone count as zeros."""
    sources, by = len(vote_KT), np.float32(number)
    add_up(vote_KT, length, mean)
    for i in range(length):
        mean[i] /= by
    vote = vote_KT[0]
    for i in range(length):
        out[i] = (vote[i] - mean[i]) * (vote[i] - mean[i])
    for k in range(1, sources):
        vote = vote_KT[k]
        for i in range(length):
            out[i] += (vote[i] - mean[i]) * (vote[i] - mean[i])
    if number > sources:
        absent = np.float32(number - sources)
        for i in range(length):
            out[i] += (mean[i] * mean[i]) * absent
    for i in range(length):
        out[i] /= by


@compiled
def _amplify(vote_KT: Any, gains_K: Any, length: int, alone: Any) -> None:  # pragma: no cover  # compiled
    """Votes that one source alone has grow by its gain."""
    for i in range(length):
        alone[i] = F0
    for k in range(len(vote_KT)):
        vote = vote_KT[k]
        for i in range(length):
            alone[i] += F1 if vote[i] != F0 else F0
    for i in range(length):
        alone[i] = F1 if alone[i] == F1 else F0
    for k in range(len(vote_KT)):
        vote, gain = vote_KT[k], gains_K[k]
        for i in range(length):
            vote[i] = (alone[i] * gain + F1) * vote[i]


@compiled
def _mean(vote_KT: Any, shares_K: Any, length: int, total: Any, divisor: Any) -> None:  # pragma: no cover  # compiled
    add_up(vote_KT, length, total)
    for i in range(length):
        divisor[i] = F0
    for k in range(len(vote_KT)):
        vote, share = vote_KT[k], shares_K[k]
        for i in range(length):
            divisor[i] += share if vote[i] != F0 else F0


@compiled
def _elected_mean(
    vote_KT: Any, shares_K: Any, length: int, sign_T: Any, total: Any, divisor: Any
) -> None:  # pragma: no cover  # compiled
    """Even votes are positive."""
    add_up(vote_KT, length, sign_T)
    for i in range(length):
        sign_T[i] = -F1 if sign_T[i] < F0 else F1
        total[i] = F0
        divisor[i] = F0
    for k in range(len(vote_KT)):
        vote, share = vote_KT[k], shares_K[k]
        for i in range(length):
            kept = vote[i] * sign_T[i]
            agrees = kept > F0
            total[i] += kept * share if agrees else F0
            divisor[i] += share if agrees else F0
    for i in range(length):
        total[i] *= sign_T[i]
