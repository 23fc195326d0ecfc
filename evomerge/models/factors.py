"""A low-rank matrix by its two factors: what a LoRA adapter stores, with its scale multiplied in.

Source: Hu et al. 2021, LoRA, arXiv:2106.09685, eq. 3: ΔW = (α/r)·B·A.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from evomerge.models.product import rounded_product


@dataclass(frozen=True, slots=True)
class Factors:
    """δ = B·A of a matrix (out × in). Float32, must not be written to.

    Attributes:
        A: r × in.
        B: out × r.
    """

    A: Tensor
    B: Tensor

    @property
    def rank(self) -> int:
        """r: how many outer products b·aᵀ add up to δ."""
        return self.A.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Of δ."""
        return self.B.shape[0], self.A.shape[1]

    @property
    def turned(self) -> Factors:
        """Of δᵀ."""
        return Factors(self.B.t().contiguous(), self.A.t().contiguous())

    def scaled(self, scale: float) -> Factors:
        """Of scale·δ: √|scale| on both factors, its sign on B, so that neither factor outgrows the other."""
        if scale == 1:
            return self
        root = math.sqrt(abs(scale))
        return Factors(self.A * root, self.B * math.copysign(root, scale))

    def first(self, rank: int) -> Factors:
        """Of the first outer products alone."""
        return Factors(self.A[:rank], self.B[:, :rank])

    def to(self, device: torch.device) -> Factors:
        """The same on a device."""
        return Factors(self.A.to(device), self.B.to(device))

    def product(self) -> Tensor:
        """δ in float32, new memory; on a CPU the same bytes on every machine."""
        if self.A.device.type == "cpu":
            return rounded_product(self.B, self.A, 1.0)
        return (self.B.double() @ self.A.double()).float()


def zeros(out: int, into: int, rank: int, device: torch.device) -> Factors:
    """Of δ = 0."""
    return Factors(torch.zeros(rank, into, device=device), torch.zeros(out, rank, device=device))


def concatenated(parts: list[Factors]) -> Factors:
    """Of the sum of the parts, exactly: B = [B₁ B₂ …], A = [A₁; A₂; …]; the rank is the sum of the ranks."""
    return Factors(torch.cat([part.A for part in parts]), torch.cat([part.B for part in parts], dim=1))
