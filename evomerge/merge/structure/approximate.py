"""Rows of an embedding written in rows of the same embedding, so that another model's rows can stand in for them.

Two models know some tokens in common. A row that only the first has is written as a combination of the first's rows of
common tokens; the same combination of the second's rows is what the second would have for it.

Letters: B rows that are written, N common tokens, D columns, k tokens in a combination.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

EPS = 1e-8
NEAR = 1e-6
"""A distance is at least this when it is divided by."""


@dataclass(frozen=True, slots=True)
class Combination:
    """Σ weights · rows.

    Attributes:
        rows: [B, k] numbers of common tokens.
        weights: [B, k] in float32.
    """

    rows: Tensor
    weights: Tensor

    def of(self, table: Tensor) -> Tensor:
        """The combination of a model's own rows, [B, columns]; `table` [N, columns]."""
        return torch.einsum("bk,bkd->bd", self.weights, table[self.rows].float())


def matching_pursuit(targets: Tensor, common: Tensor, k: int) -> Combination:
    """Orthogonal matching pursuit: k times the common row that the rest has the largest product with, in magnitude;
    then the least-squares weights of those.

    Rows are not scaled to one length beforehand, as mergekit does not: long rows are preferred.

    Args:
        targets: [B, D] float32.
        common: [N, D] float32.
        k: at most N.

    Source: Pati et al. 1993, Orthogonal matching pursuit, doi:10.1109/ACSSC.1993.342465; of tokens: Goddard and
    Fernandes Neto 2025, Training-Free Tokenizer Transplantation via Orthogonal Matching Pursuit, arXiv:2506.06607.
    """
    number, columns = targets.shape
    basis = targets.new_zeros(number, k, columns)
    triangle = targets.new_zeros(number, k, k)  # chosen rows = triangleᵀ · basis
    chosen = torch.zeros(number, k, dtype=torch.int64, device=targets.device)
    products = targets @ common.T
    taken = torch.zeros_like(products, dtype=torch.bool)
    weights_in_basis = targets.new_zeros(number, k)
    for step in range(k):
        found = products.abs().masked_fill(taken, -torch.inf).argmax(dim=1)
        chosen[:, step] = found
        taken.scatter_(1, found[:, None], value=True)
        atom = common[found]
        for _ in range(2):  # the second time takes out what rounding left of the earlier ones
            shares = torch.einsum("btd,bd->bt", basis[:, :step], atom)
            atom = atom - torch.einsum("btd,bt->bd", basis[:, :step], shares)
            triangle[:, :step, step] += shares
        length = atom.norm(dim=1).clamp(min=EPS)
        triangle[:, step, step] = length
        direction = basis[:, step] = atom / length[:, None]
        weights_in_basis[:, step] = (direction * targets).sum(dim=1)
        # What is left of the targets is orthogonal to the basis: its products with all rows shrink by one direction's.
        products -= weights_in_basis[:, step, None] * (direction @ common.T)
    weights = torch.linalg.solve_triangular(triangle, weights_in_basis[:, :, None], upper=True)
    return Combination(chosen, weights[:, :, 0])


def _by_distance(targets: Tensor, near: Tensor, distances: Tensor, cosine: bool) -> Tensor:
    raw = 1 - distances if cosine else 1 / distances.clamp(min=NEAR)
    return raw / raw.sum(dim=1, keepdim=True).clamp(min=NEAR)


def _barycentric(targets: Tensor, near: Tensor, distances: Tensor, cosine: bool) -> Tensor:
    """The weights of sum 1 that come closest: least squares with a Lagrange multiplier."""
    number, k, _ = near.shape
    system = near.new_zeros(number, k + 1, k + 1)
    system[:, :k, :k] = near @ near.transpose(1, 2)
    system[:, :k, k] = system[:, k, :k] = 1
    right = near.new_ones(number, k + 1)
    right[:, :k] = torch.einsum("bkd,bd->bk", near, targets)
    solved: Tensor = torch.linalg.lstsq(system, right[:, :, None]).solution
    return solved[:, :k, 0]


def _least_squares(targets: Tensor, near: Tensor, distances: Tensor, cosine: bool) -> Tensor:
    solved: Tensor = torch.linalg.lstsq(near.transpose(1, 2), targets[:, :, None]).solution
    return solved[:, :, 0]


WEIGHTINGS: dict[str, Callable[[Tensor, Tensor, Tensor, bool], Tensor]] = {
    "distance": _by_distance,
    "barycentric": _barycentric,
    "least_squares": _least_squares,
}
"""How neighbours are weighed: by closeness (1/distance, or cosine), so that they come closest with a sum of 1, or so
that they come closest."""


def interpolation(targets: Tensor, common: Tensor, k: int, *, weights: str, cosine: bool) -> Combination:
    """The k nearest common rows, weighed.

    Args:
        targets: [B, D] float32.
        common: [N, D] float32.
        k: at most N.
        weights: one of `WEIGHTINGS`.
        cosine: nearest by angle instead of distance.

    Source: mergekit 0.1.5, tokensurgeon's common-vocabulary interpolation (arXiv:2403.13257).
    """
    if cosine:
        lengths = targets.norm(dim=1)[:, None] * common.norm(dim=1)[None]
        distances = 1 - targets @ common.T / lengths.clamp(min=NEAR)
    else:
        distances = torch.cdist(targets, common)
    nearest = distances.topk(k, dim=1, largest=False)
    return Combination(nearest.indices, WEIGHTINGS[weights](targets, common[nearest.indices], nearest.values, cosine))
