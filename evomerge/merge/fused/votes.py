"""Compiled loops for sums of sparsified task vectors, with and without an election of signs, in one pass.

As in `kernels`, every operation is that of the torch path, in its order. Models are given by their addresses, so that
resident ones are read where they lie; random numbers and ranks are made a tile or a row at a time, where they are used.
"""

# K sources, N entries, T entries of a tile, C entries of a row

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from evomerge.merge.fused.kernels import F0, F1, HALF, ONE, U16, compiled, drawn, entries_at, wide_of
from evomerge.merge.fused.order import bounds_by_rank
from evomerge.merge.primitives.philox import GROUP

TILE = 512
"""Entries whose votes, of a few sources, stay in a core's first-level cache."""

ALL, BAND, DRAWN, RANKED, RANKED_INVERSE = 0, 1, 2, 3, 4
"""What is kept of a task vector: all; magnitudes from `low` to `high`; entries whose random number is below a bound;
below a bound by the rank in the row; the same, divided by the probability."""
LOW, HIGH, FACTOR, WEIGHT = 0, 1, 2, 3
"""Columns of `scales`: the least and the largest magnitude kept (a bound of random numbers in place of the first, as
bits), and what entries are multiplied by, one after the other."""
ODD_INPUT, ODD_OUTPUT, NEGATIVE_ZERO = 1, 2, 4
"""What was met: NaN or infinity, and −0 in θ0 (where a task vector is 0 its sign would matter then)."""

_EXPONENT = np.uint16(0x7F80)
_MINUS_ZERO = np.uint16(0x8000)
_STEP = np.float32(2.0**-32)


@compiled
def merge(
    at_K: Any,
    base_at: Any,
    first: int,
    columns: int,
    rules_K: Any,
    scales_K4: Any,
    keys_K2: Any,
    by_rank_KC: Any,
    elects: bool,
    divide_K: Any,
    tie: Any,
    lam: Any,
    out_N: Any,
) -> int:  # pragma: no cover  # compiled
    """θ0 + λ·Σ votes, or θ0 + λ·(Σ of the votes with the elected sign [/ Σ of their divisors]).

    Args:
        at_K, base_at: addresses of the models' entries.
        first: index within the tensor of the first of them.
        columns: entries of a row, where ranks count; `out_N` then holds whole rows.
        rules_K, scales_K4: see above.
        keys_K2: of the random numbers, lower half first.
        by_rank_KC: bounds of random numbers for the ranks of a row.
        elects: whether signs are elected.
        divide_K: what each source that agrees adds to the divisor; empty: nothing is divided.

    Returns:
        What was met, as bits.
    """
    size, sources = len(out_N), len(at_K)
    base_N = carray(entries_at(base_at), size)
    center, sign, total, divisor = (
        np.empty(TILE, np.float32), np.empty(TILE, np.float32), np.empty(TILE, np.float32), np.empty(TILE, np.float32),
    )  # fmt: skip
    vote_KT = np.empty((sources, TILE), np.float32)
    draws = np.empty(TILE + GROUP, np.uint32)
    bounds_KC = np.empty((sources, columns), np.uint32)
    bits = total.view(np.uint32)
    row = columns if columns else size
    worst, worst_out, minus = np.uint16(0), np.uint16(0), np.uint16(0)
    for top in range(0, size, max(row, 1)):
        if columns:
            rank(at_K, base_at, size, top, columns, rules_K, by_rank_KC, bounds_KC)
        for begin in range(top, min(top + row, size), TILE):
            number = min(TILE, min(top + row, size) - begin)
            raw = base_N[begin : begin + number]
            for i in range(number):
                center[i] = wide_of(raw[i])
                worst = max(worst, np.uint16(raw[i] & _EXPONENT))
                minus |= np.uint16(raw[i] == _MINUS_ZERO)
            for k in range(sources):
                raw = carray(entries_at(at_K[k]), size)[begin : begin + number]
                seen = _vote(
                    raw, center, first + begin, rules_K[k], scales_K4[k], keys_K2[k], bounds_KC[k], begin - top, draws,
                    vote_KT[k],
                )  # fmt: skip
                worst = max(worst, seen)
            if elects:
                add_up(vote_KT, number, sign)  # whose sign is the elected one
                _agreeing(vote_KT, number, sign, divide_K, tie, total, divisor)
            else:
                add_up(vote_KT, number, total)
            out = out_N[begin : begin + number]
            for i in range(number):
                total[i] = total[i] * lam + center[i]
            for i in range(number):
                rounded = np.uint16((bits[i] + (HALF + ((bits[i] >> U16) & ONE))) >> U16)
                out[i] = rounded
                worst_out = max(worst_out, np.uint16(rounded & _EXPONENT))
    met = ODD_INPUT if worst == _EXPONENT else 0
    met |= ODD_OUTPUT if worst_out == _EXPONENT else 0
    return met | (NEGATIVE_ZERO if minus != np.uint16(0) else 0)


@compiled
def majority(
    at_K: Any,
    base_at: Any,
    size: int,
    first: int,
    columns: int,
    rules_K: Any,
    scales_K4: Any,
    keys_K2: Any,
    by_rank_KC: Any,
) -> tuple[int, int]:  # pragma: no cover  # compiled
    """Σ of the elected signs, and what was met; arguments as for `merge`."""
    sources = len(at_K)
    base_N = carray(entries_at(base_at), size)
    center, sign = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    vote_KT = np.empty((sources, TILE), np.float32)
    draws = np.empty(TILE + GROUP, np.uint32)
    bounds_KC = np.empty((sources, columns), np.uint32)
    row = columns if columns else size
    worst, count = np.uint16(0), 0
    for top in range(0, size, max(row, 1)):
        if columns:
            rank(at_K, base_at, size, top, columns, rules_K, by_rank_KC, bounds_KC)
        for begin in range(top, min(top + row, size), TILE):
            number = min(TILE, min(top + row, size) - begin)
            raw = base_N[begin : begin + number]
            for i in range(number):
                center[i] = wide_of(raw[i])
                worst = max(worst, np.uint16(raw[i] & _EXPONENT))
            for k in range(sources):
                raw = carray(entries_at(at_K[k]), size)[begin : begin + number]
                seen = _vote(
                    raw, center, first + begin, rules_K[k], scales_K4[k], keys_K2[k], bounds_KC[k], begin - top, draws,
                    vote_KT[k],
                )  # fmt: skip
                worst = max(worst, seen)
            add_up(vote_KT, number, sign)  # whose sign is the elected one
            inside = np.int32(0)
            for i in range(number):
                inside += np.int32(sign[i] > F0) - np.int32(sign[i] < F0)
            count += int(inside)
    return count, ODD_INPUT if worst == _EXPONENT else 0


@compiled
def rank(
    at_K: Any, base_at: Any, size: int, top: int, columns: int, rules_K: Any, by_rank_KC: Any, bounds_KC: Any
) -> None:  # pragma: no cover  # compiled
    """The bounds of the row that begins at `top`, of every source that is ranked."""
    base_N = carray(entries_at(base_at), size)
    for k in range(len(at_K)):
        if rules_K[k] >= RANKED:
            raw = carray(entries_at(at_K[k]), size)[top : top + columns]
            bounds_by_rank(base_N[top : top + columns], raw, columns, by_rank_KC[k], bounds_KC[k])


@compiled
def _vote(
    raw_T: Any, center: Any, at: int, rule: int, scale: Any, key: Any, bounds_C: Any, column: int, draws: Any, vote: Any
) -> Any:  # pragma: no cover  # compiled
    """One source's sparsified, rescaled, weighed task vector; returns the largest exponent."""
    number = len(raw_T)
    factor, weight = scale[FACTOR], scale[WEIGHT]
    worst = np.uint16(0)
    for i in range(number):
        worst = max(worst, np.uint16(raw_T[i] & _EXPONENT))
    if rule == ALL:
        for i in range(number):
            vote[i] = (wide_of(raw_T[i]) - center[i]) * factor * weight
        return worst
    if rule == BAND:
        low, high = scale[LOW], scale[HIGH]
        for i in range(number):
            delta = wide_of(raw_T[i]) - center[i]
            size = abs(delta)
            kept = delta if (size >= low) & (size <= high) else F0
            vote[i] = kept * factor * weight
        return worst
    group = at // GROUP
    drawn(key, group, draws[: ((at + number - 1) // GROUP + 1 - group) * GROUP])
    draw = draws[at - group * GROUP :]
    if rule == DRAWN:
        bound = scale.view(np.uint32)[LOW]
        for i in range(number):
            keep = F1 if draw[i] < bound else F0
            vote[i] = ((wide_of(raw_T[i]) - center[i]) * keep * factor) * weight
        return worst
    bounds = bounds_C[column:]
    if rule == RANKED:
        for i in range(number):
            keep = F1 if draw[i] < bounds[i] else F0
            vote[i] = ((wide_of(raw_T[i]) - center[i]) * keep * factor) * weight
        return worst
    for i in range(number):
        keep = F1 if draw[i] < bounds[i] else F0
        vote[i] = (((wide_of(raw_T[i]) - center[i]) * keep) / (np.float32(bounds[i]) * _STEP)) * weight
    return worst


@compiled
def add_up(vote_KT: Any, number: int, sum_T: Any) -> None:  # pragma: no cover  # compiled
    """Σ of the votes, source after source."""
    vote = vote_KT[0]
    for i in range(number):
        sum_T[i] = vote[i]
    for k in range(1, len(vote_KT)):
        vote = vote_KT[k]
        for i in range(number):
            sum_T[i] += vote[i]


@compiled
def _agreeing(
    vote_KT: Any, number: int, sign_T: Any, divide_K: Any, tie: Any, total: Any, divisor: Any
) -> None:  # pragma: no cover  # compiled
    """Σ of the votes with the elected sign [/ Σ of their divisors]."""
    for i in range(number):
        sign = (F1 if sign_T[i] > F0 else F0) - (F1 if sign_T[i] < F0 else F0)
        sign_T[i] = sign if sign != F0 else tie
        total[i] = F0
        divisor[i] = F0
    for k in range(len(vote_KT)):
        vote, part = vote_KT[k], divide_K[k] if len(divide_K) else F0
        for i in range(number):
            agrees = vote[i] * sign_T[i] > F0
            total[i] += vote[i] if agrees else F0
            divisor[i] += part if agrees else F0
    if len(divide_K):
        for i in range(number):
            total[i] /= divisor[i] if divisor[i] != F0 else F1
