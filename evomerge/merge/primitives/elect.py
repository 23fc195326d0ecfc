"""Election: which sign an entry of the merged task vector takes.

Source: Yadav et al. 2023, TIES-Merging, arXiv:2306.01708, step 2 (Elect).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evomerge.merge.primitives.aggregate import sum_of


def elect(votes: Sequence[Tensor], rule: str) -> Tensor:
    """The sign of each entry by total mass (`mass`: sign Σ δ) or by the number of sources (`count`: sign Σ sign δ).

    Args:
        votes: weighted task vectors, one or more.
        rule: `mass` or `count`.

    Returns:
        −1, 0 or 1; 0 where the votes are even, see `settle`.
    """
    return sum_of([v.sign() for v in votes] if rule == "count" else votes).sign()


def settle(signs: Tensor, tie: float) -> Tensor:
    """Give entries without a sign the sign `tie`.

    The paper takes the majority of all elected signs (`tie` measured beforehand: it needs the whole vector); mergekit
    counts a sum of 0 as positive. They differ wherever sources cancel exactly.
    """
    even = torch.eq(signs, 0, out=torch.empty_like(signs))  # as floats: torch is slow with booleans on a CPU
    return even.mul_(tie).add_(signs)
