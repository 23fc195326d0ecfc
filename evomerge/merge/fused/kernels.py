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

TILE = 2048
"""Entries whose float32 sums stay in a core's first-level cache."""
LOW_BITS = 17
"""As in `evomerge.merge.primitives.measure`."""

F0 = np.float32(0)
F1 = np.float32(1)
U16 = np.uint32(16)
HALF = np.uint32(0x7FFF)
ONE = np.uint32(1)

M0, M1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
W0, W1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)
"""Multipliers and key increments of Philox-4x64."""

Loop = TypeVar("Loop", bound=Callable[..., Any])


def compiled(loop: Loop) -> Loop:
    """The loop as machine code that runs without Python's lock."""
    made: Loop = njit(nogil=True, cache=True, error_model="numpy", boundscheck=False)(loop)
    return made


@compiled
def _round(sum_T: Any, out_T: Any, number: int) -> None:  # pragma: no cover  # compiled
    """float32 to bfloat16: to the nearest, ties to even."""
    bits = sum_T.view(np.uint32)
    for i in range(number):
        out_T[i] = np.uint16((bits[i] + (HALF + ((bits[i] >> U16) & ONE))) >> U16)


@compiled
def _widen(raw_T: Any, wide_T: Any, number: int) -> None:  # pragma: no cover  # compiled
    bits = wide_T.view(np.uint32)
    for i in range(number):
        bits[i] = np.uint32(raw_T[i]) << U16


@compiled
def has_negative_zero(raw_N: Any) -> bool:  # pragma: no cover  # compiled
    """Whether −0 is among the entries: where a task vector is 0 its sign would matter then."""
    found = np.uint16(0)
    for i in range(len(raw_N)):
        found |= np.uint16(raw_N[i] == np.uint16(0x8000))
    return bool(found > 0)


@compiled
def _votes(
    base_N: Any,
    raw_KN: Any,
    draws_KN: Any,
    rule_K: Any,
    scale_KS: Any,
    begin: int,
    number: int,
    center: Any,
    vote_KT: Any,
) -> None:  # pragma: no cover  # compiled
    """Sparsified, rescaled, weighed task vectors of a tile.

    rule_K: 0 keeps all, 1 what reaches the threshold scale_KS[k, 0], 2 entries whose draw is below draws' bound,
    which scale_KS[k, 0] holds as float bits; columns 1 and 2 are factors.
    """
    bounds = scale_KS.view(np.uint32)
    for k in range(len(rule_K)):
        vote = vote_KT[k]
        _widen(raw_KN[k, begin:], vote, number)
        factor, weight = scale_KS[k, 1], scale_KS[k, 2]
        if rule_K[k] == 1:
            threshold = scale_KS[k, 0]
            for i in range(number):
                delta = vote[i] - center[i]
                kept = delta if abs(delta) >= threshold else F0
                vote[i] = kept * weight
        elif rule_K[k] == 2:
            bound = bounds[k, 0]
            draws = draws_KN[k, begin:]
            for i in range(number):
                keep = F1 if draws[i] < bound else F0
                vote[i] = ((vote[i] - center[i]) * keep * factor) * weight
        else:
            for i in range(number):
                vote[i] = (vote[i] - center[i]) * factor * weight


@compiled
def total_of(
    base_N: Any, raw_KN: Any, draws_KN: Any, rule_K: Any, scale_KS: Any, lam: Any, out_N: Any
) -> None:  # pragma: no cover  # compiled
    """θ0 + λ·Σ votes."""
    size, sources = raw_KN.shape[1], len(rule_K)
    center, total = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    vote_KT = np.empty((sources, TILE), np.float32)
    for begin in range(0, size, TILE):
        number = min(TILE, size - begin)
        _widen(base_N[begin:], center, number)
        _votes(base_N, raw_KN, draws_KN, rule_K, scale_KS, begin, number, center, vote_KT)
        for i in range(number):
            total[i] = vote_KT[0, i]
        for k in range(1, sources):
            for i in range(number):
                total[i] += vote_KT[k, i]
        for i in range(number):
            total[i] = total[i] * lam + center[i]
        _round(total, out_N[begin:], number)


@compiled
def _elected(vote_KT: Any, sign_T: Any, number: int) -> None:  # pragma: no cover  # compiled
    """sign Σ votes: −1, 0 or 1."""
    for i in range(number):
        sign_T[i] = vote_KT[0, i]
    for k in range(1, len(vote_KT)):
        for i in range(number):
            sign_T[i] += vote_KT[k, i]
    for i in range(number):
        sign_T[i] = (F1 if sign_T[i] > F0 else F0) - (F1 if sign_T[i] < F0 else F0)


@compiled
def disjoint(
    base_N: Any, raw_KN: Any, draws_KN: Any, rule_K: Any, scale_KS: Any, divide_K: Any, tie: Any, lam: Any, out_N: Any
) -> None:  # pragma: no cover  # compiled
    """θ0 + λ·(Σ of the votes with the elected sign [/ Σ of their divisors]).

    divide_K: what each source that agrees adds to the divisor; empty: nothing is divided.
    """
    size, sources = raw_KN.shape[1], len(rule_K)
    center, sign, total, divisor = (
        np.empty(TILE, np.float32), np.empty(TILE, np.float32), np.empty(TILE, np.float32), np.empty(TILE, np.float32),
    )  # fmt: skip
    vote_KT = np.empty((sources, TILE), np.float32)
    for begin in range(0, size, TILE):
        number = min(TILE, size - begin)
        _widen(base_N[begin:], center, number)
        _votes(base_N, raw_KN, draws_KN, rule_K, scale_KS, begin, number, center, vote_KT)
        _elected(vote_KT, sign, number)
        for i in range(number):
            sign[i] = sign[i] if sign[i] != F0 else tie
            total[i] = F0
            divisor[i] = F0
        for k in range(sources):
            part = divide_K[k] if len(divide_K) else F0
            for i in range(number):
                agrees = vote_KT[k, i] * sign[i] > F0
                total[i] += vote_KT[k, i] if agrees else F0
                divisor[i] += part if agrees else F0
        if len(divide_K):
            for i in range(number):
                total[i] /= divisor[i] if divisor[i] != F0 else F1
        for i in range(number):
            total[i] = total[i] * lam + center[i]
        _round(total, out_N[begin:], number)


@compiled
def majority(
    base_N: Any, raw_KN: Any, draws_KN: Any, rule_K: Any, scale_KS: Any
) -> int:  # pragma: no cover  # compiled
    """Σ of all elected signs."""
    size, sources = raw_KN.shape[1], len(rule_K)
    center, sign = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    vote_KT = np.empty((sources, TILE), np.float32)
    count = 0
    for begin in range(0, size, TILE):
        number = min(TILE, size - begin)
        _widen(base_N[begin:], center, number)
        _votes(base_N, raw_KN, draws_KN, rule_K, scale_KS, begin, number, center, vote_KT)
        _elected(vote_KT, sign, number)
        inside = F0  # whole numbers up to 2048: exact
        for i in range(number):
            inside += sign[i]
        count += int(inside)
    return count


@compiled
def _bits(base_N: Any, raw_N: Any, begin: int, number: int, bits_T: Any) -> None:  # pragma: no cover  # compiled
    """Bits of |θ − θ0|."""
    delta = bits_T.view(np.float32)
    wide = np.empty(TILE, np.float32)
    _widen(raw_N[begin:], delta, number)
    _widen(base_N[begin:], wide, number)
    for i in range(number):
        delta[i] = abs(delta[i] - wide[i])


@compiled
def upper_counts(base_N: Any, raw_N: Any, counts: Any) -> None:  # pragma: no cover  # compiled
    """Add how often each pattern of upper bits of |θ − θ0| occurs; two rows of counts, so that equal ones in a row do
    not wait for each other."""
    bits = np.empty(TILE, np.uint32)
    for begin in range(0, len(raw_N), TILE):
        number = min(TILE, len(raw_N) - begin)
        _bits(base_N, raw_N, begin, number, bits)
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
        _bits(base_N, raw_N, begin, number, bits)
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


def _high_typed(context: Any, a: Any, b: Any) -> Any:
    """The upper 64 bits of a product: its type, and the instructions for it."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(values[0], wide), builder.zext(values[1], wide))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generate


_high = intrinsic(_high_typed)


@compiled
def philox(key0: Any, key1: Any, first: Any, out: Any) -> None:  # pragma: no cover  # compiled
    """Philox-4x64-10 for the counters first + 1, first + 2, …, four numbers each: NumPy's stream.

    Source: Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3.
    """
    for i in range(len(out) // 4):
        x0, x1, x2, x3 = first + np.uint64(i) + np.uint64(1), np.uint64(0), np.uint64(0), np.uint64(0)
        a, b = key0, key1
        for _ in range(10):
            high0, low0, high1, low1 = _high(M0, x0), M0 * x0, _high(M1, x2), M1 * x2
            x0, x1, x2, x3 = high1 ^ x1 ^ a, low1, high0 ^ x3 ^ b, low0
            a, b = a + W0, b + W1
        out[4 * i] = x0
        out[4 * i + 1] = x1
        out[4 * i + 2] = x2
        out[4 * i + 3] = x3
