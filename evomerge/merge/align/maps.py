"""Maps of one model's units onto another's: a permutation, or a plan that mixes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from evomerge.merge.align.groups import Axis

# U units, S sub-units of a unit, K entries of a sub-unit


@dataclass(frozen=True, slots=True)
class Permutation:
    """Each unit of the base takes one unit of the source.

    Attributes:
        units: (units): the source's unit for each unit of the base.
        inner: (units × sub-units): within it, the source's sub-unit for each of the base's.
    """

    units: Tensor
    inner: Tensor

    @property
    def is_identity(self) -> bool:
        """Whether nothing moves."""
        same = torch.arange(self.inner.shape[1])
        return bool((self.units == torch.arange(len(self.units))).all()) and bool((self.inner == same).all())

    def apply(self, tensor: Tensor, axis: Axis) -> Tensor:
        """The source's tensor with its units in the base's order along one axis; new memory unless nothing moves."""
        if self.is_identity:
            return tensor
        units_U, sub_units = self.units, axis.entries.shape[1]
        inner_US = self.inner if sub_units > 1 else torch.zeros(len(units_U), 1, dtype=torch.long)
        taken = axis.entries[units_U[:, None], inner_US].reshape(-1)
        moved = tensor.clone()  # an axis may hold other units, too: queries above keys
        return moved.index_copy_(axis.axis, axis.entries.reshape(-1), tensor.index_select(axis.axis, taken))


@dataclass(frozen=True, slots=True)
class Plan:
    """Each unit of the base takes a weighted mean of the source's units.

    Attributes:
        shares: (source × base); columns sum to 1.
        inner: for a unit of the source and one of the base, the source's sub-unit for each of the base's.
    """

    shares: Tensor
    inner: Tensor

    def apply(self, tensor: Tensor, axis: Axis) -> Tensor:
        """Σ share · unit along one axis, in float32 (Singh and Jaggi 2020, algorithm 1: Tᵀ·W for outputs, W·T for
        inputs)."""
        count, sub_units, width = axis.entries.shape
        first = tensor.float().movedim(axis.axis, 0)
        units = first[axis.entries.reshape(-1)].reshape(count, sub_units, -1)
        mixed = torch.zeros(count * sub_units, units.shape[2], dtype=torch.float64)
        mixed += self._matrix(sub_units).T @ units.double().reshape(count * sub_units, -1)
        moved = first.clone()
        moved[axis.entries.reshape(-1)] = mixed.float().reshape(count * sub_units * width, *first.shape[1:])
        return moved.movedim(0, axis.axis).contiguous()

    def _matrix(self, sub_units: int) -> Tensor:
        """Shares between sub-units: (source units · sub-units × base units · sub-units), float64."""
        shares_UU = self.shares.double()
        if sub_units == 1:
            return shares_UU
        count = len(shares_UU)
        matrix = torch.zeros(count, sub_units, count, sub_units, dtype=torch.float64)
        i, j, s = torch.meshgrid(torch.arange(count), torch.arange(count), torch.arange(sub_units), indexing="ij")
        matrix[i, self.inner, j, s] = shares_UU[:, :, None].expand(-1, -1, sub_units)
        return matrix.reshape(count * sub_units, count * sub_units)


UnitMap = Permutation | Plan


def identity(size: int, inner: int) -> Permutation:
    """The map that moves nothing."""
    return Permutation(torch.arange(size), torch.arange(inner).repeat(size, 1))
