"""What unlabelled items tell: how sure a model is, and how far it is from the source that knows the subject.

An answer is a distribution: over the choices of a multiple-choice item, or over the vocabulary at the first token of a
generated answer. All functions take log-probabilities, normalised, in nats.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fitness.evaluator import Reference
from fitness.items import Item

Floats = NDArray[np.float64]

SOFT = 2.0
"""Temperature of `expert_kl_2`."""


def owner(item: Item, eval_set: str, sources: Sequence[str]) -> str | None:
    """The source that knows an item's subject: the one that the item's `group` names, or else the eval set's name."""
    return next((name for name in (item.group, eval_set) if name in sources), None)


def log_shares(scores: Sequence[float] | Floats) -> Floats:
    """Normalised log-probabilities [choices] of choices that compete, from their log-likelihoods.

    >>> np.exp(log_shares([-2.0, -2.0])).tolist()
    [0.5, 0.5]
    """
    found = np.asarray(scores, dtype=np.float64)
    shifted = found - found.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def entropy(answer: Floats) -> float:
    """−Σ p log p of one answer, nats.

    What AdaMerging minimises, summed over unlabelled items, instead of a loss: it falls with the loss where models are
    calibrated well enough.

    Source: Yang et al. 2024, AdaMerging, arXiv:2310.02575.

    >>> round(entropy(log_shares([0.0, 0.0])), 6)
    0.693147
    """
    shares = np.exp(answer)
    return max(0.0, -float((shares[shares > 0] * answer[shares > 0]).sum()))


def beside_expert(answer: Floats, expert: Reference) -> dict[str, float]:
    """Metrics of one item's answer beside that of the source that owns it.

    - `expert_kl`: Σ q (log q − log p), q the source's; the cross entropy that Expert Merging (arXiv:2509.25712) takes
      as the loss of logits, less a constant.
    - `expert_kl_2`: T² times the same of both at temperature T = 2, which counts unlikely answers more: what DAM
      minimises on each source's own data (Gauthier-Caron et al. 2024, arXiv:2410.08371).
    - `expert_mse`: mean of (log p − log q)², differences of logits up to a constant.
    - `expert_flips`: 1 where the most likely answer is another one (of equals the first counts).
    """
    return {
        "expert_kl": _divergence(answer, np.asarray(expert)),
        "expert_kl_2": SOFT**2 * _divergence(log_shares(answer / SOFT), log_shares(np.asarray(expert) / SOFT)),
        "expert_mse": float(((answer - expert) ** 2).mean()),
        "expert_flips": float(answer.argmax() != expert.argmax()),
    }


def _divergence(answer: Floats, expert: Floats) -> float:
    """Σ q (log q − log p)."""
    shares = np.exp(expert)
    known = shares > 0
    return max(0.0, float((shares[known] * (expert - answer)[known]).sum()))


def neighbour_flips(answers: Sequence[Sequence[object]]) -> list[float]:
    """For each candidate on a line (of coefficients) the share of items that it answers differently from its
    neighbours, averaged over the one or two that it has.

    AdaMMS takes the coefficient with the least: where answers hardly depend on the coefficient, the merge is stable.
    It counts the differences from both neighbours; as there is but one at the ends, ours is a mean.

    Args:
        answers: of each candidate, in the order of its coefficient, the answers to the same items.

    Source: Du et al. 2025, AdaMMS, arXiv:2503.23733.

    >>> neighbour_flips(["aab", "abb", "abb"])
    [0.3333333333333333, 0.16666666666666666, 0.0]
    """
    if len(answers) < 2 or not answers[0] or len({len(row) for row in answers}) != 1:
        raise ValueError("expected two candidates or more, with answers to the same items")
    gaps = [
        sum(a != b for a, b in zip(left, right, strict=True)) / len(left) for left, right in itertools.pairwise(answers)
    ]
    inner = [(before + after) / 2 for before, after in itertools.pairwise(gaps)]
    return [gaps[0], *inner, gaps[-1]]


def _entropy(answer: Tensor, expert: Tensor | None) -> Tensor:
    return -(answer.exp() * answer).sum()


def _kl(answer: Tensor, expert: Tensor | None) -> Tensor:
    assert expert is not None, "the caller has looked"
    return (expert.exp() * (expert - answer)).sum()


def _soft_kl(answer: Tensor, expert: Tensor | None) -> Tensor:
    assert expert is not None, "the caller has looked"
    return SOFT**2 * _kl((answer / SOFT).log_softmax(0), (expert / SOFT).log_softmax(0))


def _mse(answer: Tensor, expert: Tensor | None) -> Tensor:
    assert expert is not None, "the caller has looked"
    return ((answer - expert) ** 2).mean()


DIFFERENTIABLE: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "entropy": _entropy,
    "expert_kl": _kl,
    "expert_kl_2": _soft_kl,
    "expert_mse": _mse,
}
"""Metric → its value, from log-probabilities of an answer and those of the source that owns the item."""
