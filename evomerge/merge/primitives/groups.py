"""n:m sparsity: of every m consecutive entries n survive."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def largest(magnitudes: Tensor, keep: int) -> Tensor:
    """Mark the largest entries of each row, the earlier on ties; an entry that is not above 0 is never marked.

    Args:
        magnitudes: (groups × m).
        keep: n.

    Returns:
        bool tensor of the same shape.

    >>> largest(torch.tensor([[1.0, 3.0, 2.0, 3.0], [0.0, 0.0, 5.0, 0.0]]), keep=2)
    tensor([[False,  True, False,  True],
            [False, False,  True, False]])
    """
    best = magnitudes.sort(dim=1, descending=True, stable=True).indices[:, :keep]
    marked = torch.zeros(magnitudes.shape, dtype=torch.bool, device=magnitudes.device)
    return marked.scatter_(1, best, value=True).logical_and_(magnitudes > 0)


def exclusive(magnitudes: Sequence[Tensor], keeps: Sequence[int], again: Sequence[int | None]) -> list[Tensor]:
    """n:m masks of sources that follow one another, each on what those before it left.

    Args:
        magnitudes: |δ| of each source, (groups × m).
        keeps: n of each source.
        again: None, or how many of the entries that others took already a source may keep too, besides all that are
            left; only in groups of which others took some.

    Returns:
        A mask for each source; an entry that is 0 belongs to nobody.

    Source: Yang et al. 2025, CABS, arXiv:2503.01874; `again` as in the authors' code for n ≥ m/2.
    """
    taken = torch.zeros(magnitudes[0].shape, dtype=torch.bool, device=magnitudes[0].device)
    masks = []
    for size, keep, more in zip(magnitudes, keeps, again, strict=True):
        mask = largest(size.masked_fill(taken, -1), keep)
        if more is not None:
            both = largest(size.masked_fill(~taken, -1), more) | (~taken & (size > 0))
            mask = torch.where(taken.any(dim=1, keepdim=True), both, mask)
        masks.append(mask)
        taken = taken | mask
    return masks
