"""The best map between two sets of units, from what every pair of them is worth."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from evomerge.merge.align.groups import Axis
from evomerge.merge.align.maps import Permutation, Plan, UnitMap

# U units, S sub-units of a unit, N numbers of a unit

ITERATIONS = 1000
"""Most steps of Sinkhorn's iteration at one regularisation."""
TOLERANCE = 1e-6
"""Sinkhorn stops when its potentials move by less than this, in units of `reg`: marginals are then that close."""


@dataclass(frozen=True, slots=True)
class Worth:
    """What it is worth (or costs) to give a unit of the source to a unit of the base; additive over tensors.

    Attributes:
        units: (source × base), from what a unit has as a whole.
        inner: (source unit × base unit × its sub-unit × its sub-unit), from sub-units; None where there are none.
    """

    units: Tensor
    inner: Tensor | None


Pairs = Iterable[tuple[Tensor, Tensor, Axis]]
"""Tensors of the source and the base, and where the units lie in both."""


def measure(kind: Literal["product", "distance"], size: int, inner: int, pairs: Pairs) -> Worth:
    """Σ over tensors of ⟨source unit, base unit⟩ or of ‖source unit − base unit‖², in float64."""
    units_UU = torch.zeros(size, size, dtype=torch.float64)
    inner_UUSS = torch.zeros(size, size, inner, inner, dtype=torch.float64) if inner > 1 else None
    for source, base, axis in pairs:
        a, b = _rows(source, axis), _rows(base, axis)
        worth = a @ b.T
        if kind == "distance":
            worth = (a.square().sum(1)[:, None] + b.square().sum(1)[None] - 2 * worth).clamp_(min=0)
        if axis.entries.shape[1] > 1:
            assert inner_UUSS is not None
            inner_UUSS += worth.view(size, inner, size, inner).transpose(1, 2)
        else:
            units_UU += worth
    return Worth(units_UU, inner_UUSS)


def _rows(tensor: Tensor, axis: Axis) -> Tensor:
    """One row a sub-unit."""
    count, sub_units, _ = axis.entries.shape
    entries = tensor.double().movedim(axis.axis, 0)[axis.entries.reshape(-1)]
    return entries.reshape(count * sub_units, -1)


def assign(worth: Worth, *, maximize: bool) -> Permutation:
    """The permutation with the largest (or smallest) sum, exactly, sub-units within units included.

    A linear assignment; where units have sub-units, each pair of units is worth what the best assignment between their
    sub-units adds.
    """
    return _assigned(*_settle_inner(worth, maximize=maximize), maximize=maximize)


def transport(worth: Worth, solver: Literal["emd", "sinkhorn"], *, reg: float, squared: bool) -> UnitMap:
    """The plan between units of equal mass that moves them over the least distance.

    Args:
        worth: squared distances; sub-units are settled by these, whose sum is that of a whole unit.
        solver: `emd` is exact: between as many units as there are, one optimum is a permutation (Birkhoff). `sinkhorn`
            is regularised by entropy, and its columns are normalised to sum 1 (Singh and Jaggi 2020, algorithm 1).
        reg: of `sinkhorn`, relative to the largest cost, so that it means the same in every layer.
        squared: whether the cost is the squared distance, not the distance.
    """
    units_UU, inner_UUS = _settle_inner(worth, maximize=False)
    cost_UU = units_UU if squared else units_UU.sqrt()
    if solver == "emd":
        return _assigned(cost_UU, inner_UUS, maximize=False)
    largest = float(cost_UU.max())
    return Plan(sinkhorn(cost_UU / (largest or 1.0), reg).float(), inner_UUS)


def gain(worth: Worth, map_: Permutation) -> float:
    """The sum that a permutation has."""
    base_U = torch.arange(len(map_.units))
    total = worth.units[map_.units, base_U].sum()
    if worth.inner is not None:
        pairs_USS = worth.inner[map_.units, base_U]
        total = total + pairs_USS.gather(1, map_.inner[:, None, :]).sum()
    return float(total)


def sinkhorn(cost_UU: Tensor, reg: float) -> Tensor:
    """The plan with uniform marginals that minimises ⟨P, cost⟩ − reg · entropy(P), columns scaled to sum 1.

    Source: Cuturi 2013, Sinkhorn Distances, arXiv:1306.0895; iterated in logarithms, so that a small `reg` is safe.

    >>> sinkhorn(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), 0.01)
    tensor([[1.0000e+00, 3.7201e-44],
            [3.7201e-44, 1.0000e+00]], dtype=torch.float64)
    """
    price_U = torch.zeros(len(cost_UU), dtype=torch.float64)
    softer = max(0, math.ceil(math.log2(1.0 / reg)))
    for step in range(softer, -1, -1):  # a soft plan's prices are a good start for a sharper one
        kernel_UU, f_U = -cost_UU.double() / (reg * 2**step), price_U / (reg * 2**step)
        for _ in range(ITERATIONS):
            g_U = -torch.logsumexp(kernel_UU + f_U[:, None], 0)
            previous_U, f_U = f_U, -torch.logsumexp(kernel_UU + g_U[None], 1)
            if float((f_U - previous_U).abs().max()) < TOLERANCE:
                break
        price_U = f_U * (reg * 2**step)
    return torch.softmax(kernel_UU + f_U[:, None], 0)


def _assigned(units_UU: Tensor, inner_UUS: Tensor, *, maximize: bool) -> Permutation:
    source, base = linear_sum_assignment(units_UU.numpy(), maximize=maximize)
    units_U = torch.empty(len(units_UU), dtype=torch.long)
    units_U[torch.from_numpy(base)] = torch.from_numpy(source)
    return Permutation(units_U, inner_UUS[units_U, torch.arange(len(units_U))])


def _settle_inner(worth: Worth, *, maximize: bool) -> tuple[Tensor, Tensor]:
    """Worth of pairs of units with their best inner assignment, and that assignment (source's for each base's)."""
    size = len(worth.units)
    if worth.inner is None:
        return worth.units, torch.zeros(size, size, 1, dtype=torch.long)
    sub_units = worth.inner.shape[2]
    inner_UUS = torch.empty(size, size, sub_units, dtype=torch.long)
    units_UU = worth.units.clone()
    for i in range(size):
        for j in range(size):
            pair_SS = worth.inner[i, j].numpy()
            source, base = linear_sum_assignment(pair_SS, maximize=maximize)
            inner_UUS[i, j, torch.from_numpy(base)] = torch.from_numpy(source)
            units_UU[i, j] += float(pair_SS[source, base].sum())
    return units_UU, inner_UUS
