"""`votes.merge` with an election of signs, for up to `MOST` sources that are all sparsified by one rule: an entry's
votes stay in registers.

Every operation is that of the torch path, in its order.
"""

# K sources, N entries, T entries of a tile, C entries of a row

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from evomerge.merge.fused.kernels import compiled, drawn
from evomerge.merge.fused.lanes import (
    FLOAT,
    LANES,
    WORD,
    Lanes,
    anywhere,
    constant,
    data_of,
    everywhere,
    load,
    minus_zero,
    number_at,
    odd,
    raw_at,
    store,
    widened,
)
from evomerge.merge.fused.votes import FACTOR, HIGH, LOW, NEGATIVE_ZERO, ODD_INPUT, ODD_OUTPUT, TILE, WEIGHT
from evomerge.merge.fused.votes import rank as rank_rows
from evomerge.merge.primitives.philox import GROUP

MOST = 4
"""Sources whose votes all stay in registers."""
_COLUMNS = 4
"""Columns of `scales`."""
_STEP = 2.0**-32
Rule = Literal["band", "drawn", "ranked", "inverse"]


class _Source:
    """One source's entries, and where to find what they are sparsified by."""

    def __init__(self, builder: Any, delta: Lanes, scales: Any, k: int, draw: Any, bound: Any) -> None:
        self.builder, self.delta, self._draw, self._bound = builder, delta, draw, bound
        self._scales, self._k = scales, k

    def scale(self, column: int) -> Lanes:
        """A number of this source."""
        return number_at(self.builder, self._scales, _COLUMNS * self._k + column)

    def vote(self, rule: Rule) -> Lanes:
        """What it adds."""
        if rule == "band":
            size = abs(self.delta)
            inside = self.builder.and_(size >= self.scale(LOW), size <= self.scale(HIGH))
            return self.delta.where(inside, constant(self.builder, 0.0)) * self.scale(FACTOR) * self.scale(WEIGHT)
        bound = self.scale(LOW).bits() if rule == "drawn" else self._bound()
        keep = self.builder.icmp_unsigned("<", self._draw(), bound)
        kept = self.delta * constant(self.builder, 1.0).where(keep, constant(self.builder, 0.0))
        if rule == "inverse":
            wide = Lanes(self.builder, self.builder.uitofp(bound, FLOAT))
            return kept / (wide * constant(self.builder, _STEP)) * self.scale(WEIGHT)
        return kept * self.scale(FACTOR) * self.scale(WEIGHT)


def _elected(votes: list[Lanes], total: Lanes, tie: Lanes, divide: Any, builder: Any) -> tuple[Lanes, Lanes]:
    """Σ of the votes with the elected sign, and of their divisors."""
    one, zero = constant(builder, 1.0), constant(builder, 0.0)
    sign = one.where(total > zero, zero) - one.where(total < zero, zero)
    sign = sign.where(sign.nonzero(), tie)
    agreed = divisor = zero
    for k, vote in enumerate(votes):
        agrees = vote * sign > zero
        agreed = agreed + vote.where(agrees, zero)
        divisor = divisor + number_at(builder, divide, k).where(agrees, zero)
    return agreed, divisor


def _merge_typed(rule: Rule) -> Any:
    def typed(
        context: Any, at: Any, base: Any, entry: Any, scales: Any, draws: Any, draw: Any, stride: Any, bounds: Any,
        column: Any, columns: Any, divide: Any, tie: Any, lam: Any, out: Any,
    ) -> Any:  # fmt: skip
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            (at_, base_, entry_, scales_, draws_, draw_, stride_, bounds_, column_, columns_, divide_, tie_,
             lam_, out_) = values  # fmt: skip
            kinds = signature.args
            scale, divisors = (
                data_of(context, builder, kinds[3], scales_),
                data_of(context, builder, kinds[10], divide_),
            )
            drawing, bounding = (
                data_of(context, builder, kinds[4], draws_),
                data_of(context, builder, kinds[7], bounds_),
            )

            def words(data: Any, k: int, stride: Any, index: Any) -> Any:
                first = builder.mul(stride, ir.Constant(ir.IntType(64), k))
                return load(builder, WORD, data, builder.add(first, index))

            raw = raw_at(builder, base_, entry_)
            center, odds, zeros = widened(builder, raw), odd(builder, raw), minus_zero(builder, raw)
            votes = []
            for k in range(len(at)):
                raw = raw_at(builder, builder.extract_value(at_, k), entry_)
                odds = builder.or_(odds, odd(builder, raw))
                delta = widened(builder, raw) - center
                source = _Source(
                    builder, delta, scale, k,
                    lambda k=k: words(drawing, k, stride_, draw_), lambda k=k: words(bounding, k, columns_, column_),
                )  # fmt: skip
                votes.append(source.vote(rule))
            total = votes[0]
            for vote in votes[1:]:
                total = total + vote
            tie__, lam__ = (Lanes(builder, everywhere(builder, x)) for x in (tie_, lam_))
            agreed, divisor = _elected(votes, total, tie__, divisors, builder)
            agreed = agreed / divisor.where(divisor.nonzero(), constant(builder, 1.0))
            result = (agreed * lam__ + center).rounded()
            store(builder, result, data_of(context, builder, kinds[13], out_), entry_)
            met = builder.or_(anywhere(builder, odds, ODD_INPUT), anywhere(builder, odd(builder, result), ODD_OUTPUT))
            return builder.or_(met, anywhere(builder, zeros, NEGATIVE_ZERO))

        long = types.int64
        return types.int64(
            at, base, long, scales, draws, long, long, bounds, long, long, divide, types.float32,
            types.float32, out,
        ), generate  # fmt: skip

    return typed


_banded = intrinsic(_merge_typed("band"))
_drawn = intrinsic(_merge_typed("drawn"))
_ranked = intrinsic(_merge_typed("ranked"))
_inverse = intrinsic(_merge_typed("inverse"))
"""(addresses, address of θ0, first entry, scales, draws, which, draws of a source, bounds, which, bounds of a source,
divisors, sign of even votes, λ, out): what was met."""


@compiled
def banded(
    at_K: Any, base_at: Any, scales_K4: Any, divide_K: Any, tie: Any, lam: Any, out_N: Any
) -> int:  # pragma: no cover  # compiled
    """`votes.merge` where magnitudes from a least to a largest are kept.

    Args:
        at_K: a tuple of addresses.
        divide_K: what each source that agrees adds to the divisor; zeros: nothing is divided.
        out_N: at least `LANES` entries, as in all of these.
    """
    scales, nothing = scales_K4.reshape(scales_K4.size), np.empty(0, np.uint32)
    size, met = len(out_N), 0
    for i in range(0, size, LANES):
        entry = min(i, size - LANES)  # the last ones with some of those before, which are the same again
        met |= _banded(at_K, base_at, entry, scales, nothing, 0, 0, nothing, 0, 0, divide_K, tie, lam, out_N)
    return met


@compiled
def thinned(
    at_K: Any, base_at: Any, first: int, scales_K4: Any, keys_K2: Any, divide_K: Any,
    tie: Any, lam: Any, out_N: Any,
) -> int:  # pragma: no cover  # compiled  # fmt: skip
    """`votes.merge` where entries are kept by lot, all with one probability; `first` is the first one's index within
    the tensor."""
    scales, nothing = scales_K4.reshape(scales_K4.size), np.empty(0, np.uint32)
    draws_KT = np.empty((len(at_K), TILE + GROUP), np.uint32)
    draws = draws_KT.reshape(draws_KT.size)
    size, met = len(out_N), 0
    for tile in range(0, size, TILE):
        begin = min(tile, size - LANES)
        number = min(TILE, size - begin)
        skipped = _draw(keys_K2, first + begin, number, draws_KT)
        for i in range(0, number, LANES):
            at = min(i, number - LANES)
            met |= _drawn(
                at_K, base_at, begin + at, scales, draws, skipped + at, TILE + GROUP, nothing, 0, 0, divide_K, tie, lam,
                out_N,
            )  # fmt: skip
    return met


@compiled
def ranked(
    at_K: Any, base_at: Any, first: int, columns: int, inverse: bool, rules_K: Any, scales_K4: Any, keys_K2: Any,
    by_rank_KC: Any, divide_K: Any, tie: Any, lam: Any, out_N: Any,
) -> int:  # pragma: no cover  # compiled  # fmt: skip
    """`votes.merge` where entries are kept by lot, with a probability by their rank in a row of at least `LANES`."""
    scales = scales_K4.reshape(scales_K4.size)
    draws_KT, bounds_KC = np.empty((len(at_K), TILE + GROUP), np.uint32), np.empty((len(at_K), columns), np.uint32)
    draws, bounds = draws_KT.reshape(draws_KT.size), bounds_KC.reshape(bounds_KC.size)
    array_K = np.empty(len(at_K), np.uint64)
    for k in range(len(at_K)):
        array_K[k] = at_K[k]
    size, met = len(out_N), 0
    for top in range(0, size, columns):
        rank_rows(array_K, base_at, size, top, columns, rules_K, by_rank_KC, bounds_KC)
        for tile in range(0, columns, TILE):
            begin = min(tile, columns - LANES)
            number = min(TILE, columns - begin)
            skipped = _draw(keys_K2, first + top + begin, number, draws_KT)
            for i in range(0, number, LANES):
                at = min(i, number - LANES)
                if inverse:
                    met |= _inverse(
                        at_K, base_at, top + begin + at, scales, draws, skipped + at, TILE + GROUP, bounds, begin + at,
                        columns, divide_K, tie, lam, out_N,
                    )  # fmt: skip
                else:
                    met |= _ranked(
                        at_K, base_at, top + begin + at, scales, draws, skipped + at, TILE + GROUP, bounds, begin + at,
                        columns, divide_K, tie, lam, out_N,
                    )  # fmt: skip
    return met


@compiled
def _draw(keys_K2: Any, at: int, number: int, draws_KT: Any) -> int:  # pragma: no cover  # compiled
    """Every source's random numbers of some entries; returns where those of the first are."""
    group = at // GROUP
    end = ((at + number - 1) // GROUP + 1 - group) * GROUP
    for k in range(len(keys_K2)):
        drawn(keys_K2[k], group, draws_KT[k, :end])
    return at - group * GROUP
