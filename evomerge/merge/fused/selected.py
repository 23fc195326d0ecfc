"""Compiled loops for SCE of up to `MOST` sources: variances, energies of what is selected, and the merge.

As in `kernels`, every operation is that of the torch path, in its order. Variances are kept as numerators, before the
last division, which keeps their order.
"""

# K sources, N entries, T thresholds, C chunks, L entries of a chunk

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from evomerge.merge.fused.kernels import TILE, compiled
from evomerge.merge.fused.lanes import (
    LANES,
    Lanes,
    anywhere,
    constant,
    data_of,
    everywhere,
    minus_zero,
    number_at,
    odd,
    raw_at,
    store,
    widened,
)
from evomerge.merge.fused.order import around
from evomerge.merge.primitives import gram

MOST = 4
"""Sources whose entries all stay in registers."""
ODD_INPUT, ODD_OUTPUT, NEGATIVE_ZERO = 1, 2, 4
"""What was met, as in `agreed`."""
_ROWS = 4
_HALF = LANES // 2


def _numerator(votes: list[Lanes], by: Lanes, absent: Lanes) -> Lanes:
    """Var × the number of all sources; those that leave the tensor alone count as zeros."""
    total = votes[0]
    for vote in votes[1:]:
        total = total + vote
    mean = total / by
    found = (votes[0] - mean) * (votes[0] - mean)
    for vote in votes[1:]:
        found = found + (vote - mean) * (vote - mean)
    with_absent = found + (mean * mean) * absent
    return with_absent.where(absent.nonzero(), found)


def _votes(builder: Any, at: Any, base: Any, entry: Any, number: int) -> tuple[Lanes, list[Lanes], Any]:
    """θ0, the task vectors, and where a model is not finite."""
    raw = raw_at(builder, base, entry)
    center, odds = widened(builder, raw), odd(builder, raw)
    votes = []
    for k in range(number):
        raw = raw_at(builder, builder.extract_value(at, k), entry)
        votes.append(widened(builder, raw) - center)
        odds = builder.or_(odds, odd(builder, raw))
    return center, votes, odds


def _variance_typed(context: Any, at: Any, base: Any, entry: Any, by: Any, absent: Any, out: Any, to: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        at_, base_, entry_, by_, absent_, out_, to_ = values
        _, votes, _ = _votes(builder, at_, base_, entry_, len(at))
        sizes = [Lanes(builder, everywhere(builder, x)) for x in (by_, absent_)]
        store(builder, abs(_numerator(votes, *sizes)).bits(), data_of(context, builder, out, out_), to_)
        return context.get_dummy_value()

    return types.void(at, base, types.int64, types.float32, types.float32, out, types.int64), generate


def _energies_typed(
    context: Any, at: Any, base: Any, first: Any, lane: Any, by: Any, absent: Any, least: Any, lanes: Any
) -> Any:
    long, double = ir.IntType(64), ir.VectorType(ir.DoubleType(), _HALF)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        at_, base_, first_, lane_, by_, absent_, least_, lanes_ = values
        by__, absent__, least__ = (Lanes(builder, everywhere(builder, x)) for x in (by_, absent_, least_))
        data = data_of(context, builder, lanes, lanes_)
        halves = [[h * _HALF + i for i in range(_HALF)] for h in range(2)]
        places = [
            builder.bitcast(
                builder.gep(data, [builder.add(lane_, ir.Constant(long, k * gram.LANES + h * _HALF))]),
                double.as_pointer(),
            )
            for k in range(len(at))
            for h in range(2)
        ]
        sums = [builder.load(place, align=8) for place in places]
        for row in range(_ROWS):
            entry = builder.add(builder.add(first_, lane_), ir.Constant(long, row * gram.LANES))
            _, votes, _ = _votes(builder, at_, base_, entry, len(at))
            chosen = _numerator(votes, by__, absent__) >= least__
            for k, vote in enumerate(votes):
                kept = vote.where(chosen, constant(builder, 0.0)).value
                for h, half in enumerate(halves):
                    mask = ir.Constant(ir.VectorType(ir.IntType(32), _HALF), half)
                    wide = builder.fpext(builder.shuffle_vector(kept, kept, mask), double)
                    square = builder.fmul(wide, wide, flags=["contract"])
                    sums[2 * k + h] = builder.fadd(sums[2 * k + h], square, flags=["contract"])
        for place, found in zip(places, sums, strict=True):
            builder.store(found, place, align=8)
        return context.get_dummy_value()

    kinds = types.int64, types.int64, types.float32, types.float32, types.float32
    return types.void(at, base, *kinds, lanes), generate


def _merge_typed(
    context: Any, at: Any, base: Any, entry: Any, by: Any, absent: Any, least: Any, shares: Any, low: Any, out: Any
) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        at_, base_, entry_, by_, absent_, least_, shares_, low_, out_ = values
        center, votes, odds = _votes(builder, at_, base_, entry_, len(at))
        by__, absent__, least__, low__ = (Lanes(builder, everywhere(builder, x)) for x in (by_, absent_, least_, low_))
        one, zero = constant(builder, 1.0), constant(builder, 0.0)
        chosen = one.where(_numerator(votes, by__, absent__) >= least__, zero)
        votes = [vote * chosen for vote in votes]
        sign = votes[0]
        for vote in votes[1:]:
            sign = sign + vote
        sign = (-one).where(sign < zero, one)  # even votes are positive
        total = divisor = zero
        data = data_of(context, builder, shares, shares_)
        for k, vote in enumerate(votes):
            kept, share = vote * sign, number_at(builder, data, k)
            total = total + (kept * share).where(kept > zero, zero)
            divisor = divisor + share.where(kept > zero, zero)
        divisor = divisor.where(divisor > low__, low__)
        result = ((total * sign) / divisor + center).rounded()
        store(builder, result, data_of(context, builder, out, out_), entry_)
        met = builder.or_(anywhere(builder, odds, ODD_INPUT), anywhere(builder, odd(builder, result), ODD_OUTPUT))
        zeros = minus_zero(builder, raw_at(builder, base_, entry_))
        return builder.or_(met, anywhere(builder, zeros, NEGATIVE_ZERO))

    number = types.float32
    return types.int64(at, base, types.int64, number, number, number, shares, number, out), generate


_variance = intrinsic(_variance_typed)
"""(addresses, address of θ0, first entry, number, how many leave the tensor alone, out, where): numerators' bits."""
_energies = intrinsic(_energies_typed)
"""(…, first entry, lane, number, how many leave it alone, least numerator, lanes): add squares of rows of lanes."""
_merged = intrinsic(_merge_typed)
"""(…, first entry, number, how many leave it alone, least numerator, shares, least divisor, out): what was met."""


@compiled
def variances(
    at_K: Any, base_at: Any, size: int, by: Any, absent: Any, least: Any, edges_T2: Any, counts_T4: Any,
    inside_TM: Any, found_T: Any,
) -> int:  # pragma: no cover  # compiled  # fmt: skip
    """Count and gather numerators of variances around brackets, as `order.census`.

    Args:
        size: number of entries, at least `LANES`, as in all of these.
        by, absent: number of all sources, and of those that leave the tensor alone.
        least: bits of the least numerator of a variance that is not 0.

    Returns:
        How many variances are not 0.
    """
    bits = np.zeros(TILE + LANES, np.uint32)
    keys = bits.view(np.int32)
    positive, low = 0, np.int32(least)
    for begin in range(0, size, TILE):
        number = min(TILE, size - begin)
        numerators(at_K, base_at, begin, number, by, absent, bits)
        here = np.int32(0)
        for i in range(number):
            here += np.int32(keys[i] >= low)
        positive += int(here)
        around(keys, number, edges_T2, counts_T4, inside_TM, found_T)
    return positive


@compiled
def numerators(
    at_K: Any, base_at: Any, begin: int, number: int, by: Any, absent: Any, bits: Any
) -> None:  # pragma: no cover  # compiled
    """Bits of numerators of variances, at the front of `bits`."""
    for i in range(0, number - LANES + 1, LANES):
        _variance(at_K, base_at, begin + i, by, absent, bits, i)
    left = number % LANES
    if left:  # with some of those before
        last = np.empty(LANES, np.uint32)
        _variance(at_K, base_at, begin + number - LANES, by, absent, last, 0)
        bits[number - left : number] = last[LANES - left :]


@compiled
def sampled(
    at_K: Any, base_at: Any, first_C: Any, by: Any, absent: Any, bits_CL: Any
) -> None:  # pragma: no cover  # compiled
    """`numerators` in chunks of whole `LANES` that begin at given entries."""
    for c in range(len(first_C)):
        numerators(at_K, base_at, first_C[c], bits_CL.shape[1], by, absent, bits_CL[c])


@compiled
def energies(
    at_K: Any, base_at: Any, size: int, by: Any, absent: Any, least: Any, lanes_KL: Any
) -> None:  # pragma: no cover  # compiled
    """Add the squares of entries from the lane 0 on whose numerators are at least so large, as `primitives.gram.Gram`;
    `size` is a multiple of `ENERGY_TILE`."""
    lanes = lanes_KL.reshape(lanes_KL.size)
    for begin in range(0, size, ENERGY_TILE):
        for lane in range(0, gram.LANES, LANES):
            _energies(at_K, base_at, begin, lane, by, absent, least, lanes)


ENERGY_TILE = _ROWS * gram.LANES
"""Entries of which `energies` takes whole multiples."""


@compiled
def merge(
    at_K: Any, base_at: Any, by: Any, absent: Any, least: Any, shares_K: Any, least_divisor: Any, out_N: Any
) -> int:  # pragma: no cover  # compiled
    """θ0 + the mean of the selected entries that have the elected sign; see `agreed.merge`.

    Args:
        least: numerator from which on an entry is selected.

    Returns:
        What was met, as bits.
    """
    size, met = len(out_N), 0
    for i in range(0, size - LANES + 1, LANES):
        met |= _merged(at_K, base_at, i, by, absent, least, shares_K, least_divisor, out_N)
    if size % LANES:  # some of those before are the same again
        met |= _merged(at_K, base_at, size - LANES, by, absent, least, shares_K, least_divisor, out_N)
    return met
