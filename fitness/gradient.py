"""Derivatives of a weighted sum of items' metrics by the weights of the live model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fitness.failures import NonFiniteOutputError
from fitness.items import Item
from fitness.loglikelihood import ChoiceScorer


def _log_likelihood(scores: Tensor, label: int) -> Tensor:
    return scores[label]


def _choice_probability(scores: Tensor, label: int) -> Tensor:
    return torch.softmax(scores, dim=0)[label]


def _margin(scores: Tensor, label: int) -> Tensor:
    """Of equal rivals the first counts, so this is a derivative from one side there."""
    rivals = torch.cat([scores[:label], scores[label + 1 :]])
    return scores[label] - rivals[rivals.argmax()]


DIFFERENTIABLE: dict[str, Callable[[Tensor, int], Tensor]] = {
    "log_likelihood": _log_likelihood,
    "choice_probability": _choice_probability,
    "margin": _margin,
}
"""Metric → its value, from the log-likelihoods [choices] of an item's choices and the right one's place."""


def backward(scorer: ChoiceScorer, items: Sequence[Item], metric: str, weights: Sequence[float]) -> float:
    """Send d(Σ weight · metric)/dθ to the model's parameters that require a gradient, batch by batch.

    As torch does, it adds to `.grad`; hooks that take a gradient away after each batch keep memory at one tensor's.
    Activations are those of one batch of the scorer.

    Returns:
        The sum itself.

    Raises:
        NonFiniteOutputError: the sum is not finite.
    """
    value, trees, total = DIFFERENTIABLE[metric], [scorer.tree(item) for item in items], 0.0
    for batch in scorer.batches(items, trees):
        with torch.enable_grad():
            edges = scorer.edges([tree for _, tree in batch]).double()
            ends = np.cumsum([len(tree.predictors) for _, tree in batch]).tolist()
            found = torch.zeros((), dtype=torch.float64, device=edges.device)
            for (place, tree), end in zip(batch, ends, strict=True):
                own, item = edges[end - len(tree.predictors) : end], items[place]
                scores = torch.stack([own[list(path)].sum() for path in tree.paths])
                assert item.label is not None, "the item's parser checked this"
                found = found + weights[place] * value(scores, item.label)
        if not torch.isfinite(found):
            raise NonFiniteOutputError(
                f"the model's output for item {items[batch[0][0]].id!r} or the next is not finite"
            )
        found.backward()  # type: ignore[no-untyped-call]
        total += float(found.detach())
    return total
