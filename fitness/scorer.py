"""One scorer for every kind of item."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evomerge.errors import Failure
from fitness.evaluator import Responses, Scorer
from fitness.generation import GenerationScorer
from fitness.items import Item
from fitness.loglikelihood import ChoiceScorer
from fitness.metrics import common_kind


class ItemScorer:
    """Multiple-choice items go to one scorer, generation items to another; a call holds items of one kind.

    Raises (from `score`):
        InvalidInputError: items of both kinds in one call.
    """

    def __init__(self, choice: ChoiceScorer, generation: Scorer) -> None:
        self.choice = choice
        self.generation = generation

    def score(self, items: Sequence[Item]) -> Responses | Failure:
        """Responses to items of one kind, in the order asked; without items, none."""
        if not items:
            return Responses((), {}, 0.0, 0)
        return (self.choice if common_kind(items) == "choice" else self.generation).score(items)


def make_scorer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_tokens: int = 2048,
    device: str | torch.device = "cpu",
    max_new_tokens: int = 32,
) -> ItemScorer:
    """A scorer of all kinds of items for a live model, whose weights may change between calls.

    Args:
        batch_tokens: most tokens in one forward pass.
        device: where the model is.
        max_new_tokens: of a generation item's answer.
    """
    return ItemScorer(
        ChoiceScorer(model, tokenizer, batch_tokens=batch_tokens, device=device),
        GenerationScorer(model, tokenizer, batch_tokens=batch_tokens, device=device, max_new_tokens=max_new_tokens),
    )
