"""Columns of matrices: their lengths and directions against the base's, and their ranks."""

from __future__ import annotations

import torch
from torch import Tensor

_ENTRIES = 1 << 20
"""Entries held in float64 at a time."""


def changes(base: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """How far each column moved: in length, and in direction.

    Args:
        base, delta: W0 and W − W0, (rows × columns).

    Returns:
        | ‖w‖ − ‖w0‖ | and 1 − cos(w, w0) for every column, float64, [columns]; a column that is 0 in both has not
        turned, one that is 0 in one of them has turned by a right angle.

    Source: Yu et al. 2024, Extend Model Merging from Fine-Tuned to Pre-Trained LLMs via Weight Disentanglement
    (WIDEN), arXiv:2408.03092.
    """
    aa, ad, dd = _products(base, delta)
    before, after = aa.sqrt(), (aa + 2 * ad + dd).clamp_(min=0).sqrt()
    moved = (2 * ad + dd).abs() / (before + after).clamp_(min=_TINY)
    lengths = before * after
    across = aa * dd - ad.square()
    sine = torch.where(across > _PARALLEL * aa * dd, across, 0.0) / (lengths.square()).clamp_(min=_TINY)
    cosine = (aa + ad) / lengths.clamp(min=_TINY)
    turned = torch.where(cosine > 0, sine / (1 + cosine), 1 - cosine)
    return moved, torch.where(lengths > 0, turned, (dd > 0).double())


_TINY = torch.finfo(torch.float64).tiny
_PARALLEL = 1e-12
"""Squared sine of base and delta under which a column has only grown: rounding must not rank columns."""


def _products(base: Tensor, delta: Tensor) -> Tensor:
    """⟨w0, w0⟩, ⟨w0, δ⟩ and ⟨δ, δ⟩ of every column, from which small changes follow without cancellation."""
    rows, columns = base.shape
    sums = torch.zeros(3, columns, dtype=torch.float64, device=base.device)
    step = max(1, _ENTRIES // max(columns, 1))
    for begin in range(0, rows, step):
        a, d = base[begin : begin + step].double(), delta[begin : begin + step].double()
        for into, x, y in ((sums[0], a, a), (sums[1], a, d), (sums[2], d, d)):
            into += _column_sums(x * y)
    return sums


def _column_sums(values: Tensor) -> Tensor:
    """Σ over the rows, in an order that threads do not change."""
    if values.device.type == "cpu":
        return torch.from_numpy(values.numpy().sum(axis=0))
    return values.sum(dim=0)


def ranks(values: Tensor) -> Tensor:
    """The number of smaller entries of a vector, equal ones sharing the mean of their ranks; float64.

    >>> ranks(torch.tensor([0.5, 0.1, 0.5, 0.9]))
    tensor([1.5000, 0.0000, 1.5000, 3.0000], dtype=torch.float64)
    """
    ordered = values.sort().values
    smaller, not_larger = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    return (smaller + not_larger - 1).double() / 2


def significant_shares(significance: Tensor, threshold: float, value: float) -> Tensor:
    """Softmax over the sources; entries above `threshold` times the mean of their source's count `value` instead.

    Args:
        significance: (sources × entries), float64, not negative.
        threshold: t; a significance of t times the mean exactly is not above it (with an odd number of columns and
            t = 1 the middle rank is the mean: rounding must not decide).

    Source: WIDEN, arXiv:2408.03092.
    """
    bound = significance.mean(dim=1, keepdim=True) * (threshold * (1 + 1e-9))
    return torch.where(significance > bound, value, significance.softmax(dim=0))
