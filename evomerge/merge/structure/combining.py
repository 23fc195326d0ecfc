"""One expert out of several."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from evomerge.merge.align.groups import Axis
from evomerge.merge.align.matching import assign, measure
from evomerge.merge.structure.experts import MATRICES, Stack
from evomerge.merge.structure.grouping import Group


def average(stack: Stack, group: Group) -> dict[str, Tensor]:
    """Σ share · expert, matrix by matrix."""
    shares = torch.tensor(group.shares, dtype=torch.float64)
    return {m: torch.einsum("e,eoi->oi", shares, stack[m][list(group.members)].double()).float() for m in MATRICES}


def joint_svd(stack: Stack, group: Group, rank: float) -> dict[str, Tensor]:
    """U Σ (Σ_e share · V_e) with [W_1 | W_2 | …] = U Σ [V_1 | V_2 | …], truncated to a share of its rank.

    Untruncated this is the weighted mean: U and Σ are common factors.

    Source: Li et al. 2025, Sub-MoE, arXiv:2506.23266, equations 5 to 7.
    """
    return {m: _joint_svd(stack[m][list(group.members)].double(), group.shares, rank).float() for m in MATRICES}


def _joint_svd(experts_EOI: Tensor, shares: tuple[float, ...], rank: float) -> Tensor:
    count, rows, columns = experts_EOI.shape
    left, values, right = torch.linalg.svd(experts_EOI.permute(1, 0, 2).reshape(rows, -1), full_matrices=False)
    kept = max(1, math.ceil(rank * len(values) - 1e-9))
    mean = torch.einsum("e,kei->ki", torch.tensor(shares).double(), right[:kept].reshape(kept, count, columns))
    merged: Tensor = (left[:, :kept] * values[:kept]) @ mean
    return merged


def aligned(stack: Stack, group: Group) -> dict[str, Tensor]:
    """The weighted mean after each member's hidden units were put into the core's order, by weight matching.

    Source: Li et al. 2023, Merge then Compress (M-SMoE), arXiv:2310.01334, section 3.1: rows of the matrices that read
    the input and columns of the one that writes the output are matched together.
    """
    axes = _axes(stack)
    moved = {m: stack[m].clone() for m in MATRICES}
    for member in group.members:
        pairs = [(stack[axis.tensor][member], stack[axis.tensor][group.core], axis) for axis in axes]
        order = assign(measure("product", stack["down"].shape[2], 1, pairs), maximize=True)
        for axis in axes:
            moved[axis.tensor][member] = order.apply(stack[axis.tensor][member], axis)
    return average(moved, group)


def _axes(stack: Stack) -> tuple[Axis, ...]:
    units = torch.arange(stack["down"].shape[2]).view(-1, 1, 1)
    return (Axis("gate", 0, units, True), Axis("up", 0, units, True), Axis("down", 1, units, False))
