"""Compiled loops for combinations of whole tensors: the sum, and inner products of rows; see `grams` for whole ones.

As in `kernels`, every operation is that of the torch path, in its order. Vectors are given by their addresses, so that
resident ones are read where they lie.
"""

# K vectors, T entries of a tile

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from evomerge.merge.fused.kernels import F0, HALF, ONE, TILE, U16, compiled, entries_at, wide_of
from evomerge.merge.primitives.gram import ROW_LANES

_EXPONENT = np.uint16(0x7F80)


@compiled
def combination(
    at_K: Any,
    base_at: Any,
    from_base: bool,
    centered: bool,
    weights_K: Any,
    used_K: Any,
    whole: Any,
    anchor: int,
    out_N: Any,
) -> bool:  # pragma: no cover  # compiled
    """W·xa + Σ w·(x − xa), as `primitives.aggregate.combination`, or W·xa + Σ w·x, as `weighted_sum`; x = θ, or
    x = θ − θ0 with θ0 added at the end.

    Args:
        at_K: addresses of the θ.
        base_at: address of θ0.
        centered: whether xa is taken from the others.
        used_K: which of the others are added.
        whole: W.

    Returns:
        Whether every result is finite.
    """
    rooms_3T = np.empty((3, TILE), np.float32)
    worst = _combination(at_K, base_at, from_base, centered, weights_K, used_K, whole, anchor, rooms_3T, out_N)
    return bool(worst != _EXPONENT)


@compiled
def combined_rows(
    at_K: Any, base_at: Any, from_base: bool, weights_RK: Any, whole_R: Any, anchor: int, columns: int, out_N: Any
) -> bool:  # pragma: no cover  # compiled
    """As `combination`, centered, with weights of its own for every row."""
    rooms_3T = np.empty((3, TILE), np.float32)
    used_K = np.ones(len(at_K), np.bool_)
    used_K[anchor] = False
    row_at_K = np.empty(len(at_K), np.uint64)
    worst = np.uint16(0)
    for row in range(len(whole_R)):
        begin = row * columns
        for k in range(len(at_K)):
            row_at_K[k] = at_K[k] + np.uint64(2 * begin)
        found = _combination(
            row_at_K, base_at + np.uint64(2 * begin), from_base, True, weights_RK[row], used_K, whole_R[row], anchor,
            rooms_3T, out_N[begin : begin + columns],
        )  # fmt: skip
        worst = max(worst, found)
    return bool(worst != _EXPONENT)


@compiled
def _combination(
    at_K: Any,
    base_at: Any,
    from_base: bool,
    centered: bool,
    weights_K: Any,
    used_K: Any,
    whole: Any,
    anchor: int,
    rooms_3T: Any,
    out_N: Any,
) -> Any:  # pragma: no cover  # compiled
    """Returns the largest exponent of the results."""
    size = len(out_N)
    base_N = carray(entries_at(base_at), size)
    anchor_N = carray(entries_at(at_K[anchor]), size)
    base, center, total = rooms_3T[0], rooms_3T[1], rooms_3T[2]
    bits = total.view(np.uint32)
    worst = np.uint16(0)
    for begin in range(0, size, TILE):
        number = min(TILE, size - begin)
        raw = anchor_N[begin : begin + number]
        if from_base:
            raw_base = base_N[begin : begin + number]
            for i in range(number):
                base[i] = wide_of(raw_base[i])
                center[i] = wide_of(raw[i]) - base[i]
        else:
            for i in range(number):
                center[i] = wide_of(raw[i])
        for i in range(number):
            total[i] = center[i] * whole
            center[i] = center[i] if centered else F0  # x − 0 is x
        for k in range(len(at_K)):
            if used_K[k]:
                weight = weights_K[k]
                raw = carray(entries_at(at_K[k]), size)[begin : begin + number]
                if from_base:
                    for i in range(number):
                        total[i] += ((wide_of(raw[i]) - base[i]) - center[i]) * weight
                else:
                    for i in range(number):
                        total[i] += (wide_of(raw[i]) - center[i]) * weight
        if from_base:
            for i in range(number):
                total[i] += base[i]
        out = out_N[begin : begin + number]
        for i in range(number):
            rounded = np.uint16((bits[i] + (HALF + ((bits[i] >> U16) & ONE))) >> U16)
            out[i] = rounded
            worst = max(worst, np.uint16(rounded & _EXPONENT))
    return worst


@compiled
def row_grams(
    at_K: Any, base_at: Any, from_base: bool, columns: int, products_RKK: Any
) -> None:  # pragma: no cover  # compiled
    """The inner products of every row, as `primitives.gram.row_products`."""
    rows = len(products_RKK)
    base_N = carray(entries_at(base_at), rows * columns)
    padded = (columns + ROW_LANES - 1) // ROW_LANES * ROW_LANES
    wide_KC = np.zeros((len(at_K), padded), np.float64)
    lanes = np.empty(ROW_LANES, np.float64)
    for row in range(rows):
        raw_base = base_N[row * columns : (row + 1) * columns]
        for k in range(len(at_K)):
            raw, wide = carray(entries_at(at_K[k]), rows * columns)[row * columns : (row + 1) * columns], wide_KC[k]
            if from_base:
                for i in range(columns):
                    wide[i] = np.float64(wide_of(raw[i]) - wide_of(raw_base[i]))
            else:
                for i in range(columns):
                    wide[i] = np.float64(wide_of(raw[i]))
        for j in range(len(at_K)):
            for k in range(j + 1):
                found = _row_product(wide_KC[j], wide_KC[k], lanes)
                products_RKK[row, j, k] = found
                products_RKK[row, k, j] = found


@compiled
def _row_product(a_C: Any, b_C: Any, lanes: Any) -> Any:  # pragma: no cover  # compiled
    for lane in range(ROW_LANES):
        lanes[lane] = a_C[lane] * b_C[lane]
    for begin in range(ROW_LANES, len(a_C), ROW_LANES):
        a, b = a_C[begin : begin + ROW_LANES], b_C[begin : begin + ROW_LANES]
        for lane in range(ROW_LANES):
            lanes[lane] += a[lane] * b[lane]
    half = ROW_LANES // 2
    while half:
        for lane in range(half):
            lanes[lane] += lanes[half + lane]
        half //= 2
    return lanes[0]
