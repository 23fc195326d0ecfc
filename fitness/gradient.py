"""Derivatives of a weighted sum of items' metrics by the weights of the live model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fitness.evaluator import Reference
from fitness.failures import NonFiniteOutputError
from fitness.items import Item
from fitness.label_free import DIFFERENTIABLE as LABEL_FREE
from fitness.loglikelihood import reference_of
from fitness.metrics import METRICS, common_kind
from fitness.scorer import ItemScorer
from fitness.tree import Tree


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
"""Metric of right answers → its value, from the log-likelihoods [choices] of an item's choices and the right one's
place. Those of label-free metrics are in `fitness.label_free`; those of text are the log-likelihood times a factor."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A row that is read, and what its numbers count.

    Attributes:
        value: log-probabilities of the tree's predicted tokens [E], or logits of the next token [vocabulary] → the
            row's share in the sum.
    """

    tree: Tree
    item: Item
    value: Callable[[Tensor], Tensor]


def backward(
    scorer: ItemScorer,
    items: Sequence[Item],
    metric: str,
    weights: Sequence[float],
    references: Mapping[str, Reference] | None = None,
) -> float:
    """Send d(Σ weight · metric)/dθ to the model's parameters that require a gradient, batch by batch.

    As torch does, it adds to `.grad`; hooks that take a gradient away after each batch keep memory at one tensor's.
    Activations are those of one batch of the scorer; beginnings that rows share are read with each.

    Args:
        references: item id → the answer of the source that owns it, for metrics that compare with it.

    Returns:
        The sum itself.

    Raises:
        NonFiniteOutputError: the sum is not finite.
    """
    rows = [
        row
        for item, weight in zip(items, weights, strict=True)
        for row in _rows(scorer, item, metric, weight, references)
    ]
    next_token, reader, total = common_kind(items) == "generation", scorer.choice.reader, 0.0
    for batch in reader.batches([row.tree for row in rows]):
        some = [rows[place] for place in batch]
        trees = [row.tree for row in some]
        with torch.enable_grad():
            if next_token:
                parts = list(reader.next_logits(trees).double())
            else:
                parts = list(torch.split(reader.edges(trees).double(), [len(tree.predictors) for tree in trees]))
            found = torch.stack([row.value(part) for row, part in zip(some, parts, strict=True)]).sum()
        if not torch.isfinite(found):
            raise NonFiniteOutputError(f"the model's output for item {some[0].item.id!r} or the next is not finite")
        found.backward()  # type: ignore[no-untyped-call]
        total += float(found.detach())
    return total


def _rows(
    scorer: ItemScorer, item: Item, metric: str, weight: float, references: Mapping[str, Reference] | None
) -> list[_Row]:
    """An item's rows with what they add to weight · metric."""
    if item.text:
        factor = weight * scorer.text.factor(item, metric)
        return [_Row(tree, item, lambda edges: factor * edges.sum()) for tree in scorer.text.windows(item).trees]
    expert = None
    if METRICS[metric].expert:
        expert = torch.from_numpy(np.asarray(reference_of(item, references), dtype=np.float64))
    if not item.choices:
        return [_Row(scorer.first.tree(item), item, lambda logits: weight * _free(metric, logits, expert))]
    tree = scorer.choice.tree(item)

    def value(edges: Tensor) -> Tensor:
        scores = torch.stack([edges[list(path)].sum() for path in tree.paths])
        if metric in LABEL_FREE:
            return weight * _free(metric, scores, expert)
        assert item.label is not None, "the objectives were checked"
        return weight * DIFFERENTIABLE[metric](scores, item.label)

    return [_Row(tree, item, value)]


def _free(metric: str, scores: Tensor, expert: Tensor | None) -> Tensor:
    return LABEL_FREE[metric](torch.log_softmax(scores, dim=0), None if expert is None else expert.to(scores.device))
