"""How a model begins an answer: the distribution of the first token, without an answer being written.

Generation items have no choices to be sure about; the first token stands for the answer, as in AdaMerging's and DAM's
losses on language models, at the cost of reading the prompt once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from evomerge.errors import Failure, InvalidInputError
from fitness.encoding import encode
from fitness.evaluator import Metric, Reference, Responses
from fitness.failures import NonFiniteOutputError, failure_of
from fitness.items import Item
from fitness.label_free import Floats, beside_expert, entropy
from fitness.loglikelihood import reference_of
from fitness.metrics import METRICS
from fitness.reading import Reader, max_length
from fitness.tree import Tree, grow


class FirstTokenScorer:
    """Label-free metrics of generation items with a live model, whose weights may change between calls."""

    def __init__(self, reader: Reader, tokenizer: PreTrainedTokenizerBase) -> None:
        self.reader = reader
        self.tokenizer = tokenizer
        self._trees: dict[str, Tree] = {}

    def score(
        self,
        items: Sequence[Item],
        metrics: Sequence[Metric] | None = None,
        references: Mapping[str, Reference] | None = None,
    ) -> Responses | Failure:
        """The metrics asked (None: `entropy`), in the order asked; or `non_finite`, `out_of_memory`.

        Raises:
            InvalidInputError: a prompt without tokens, or one longer than the model.
            ValueError: a metric beside a source without the source's answers.
        """
        start, read, wanted = time.perf_counter(), self.reader.tokens, tuple(metrics or ("entropy",))
        beside = any(METRICS[name].expert for name in wanted)
        values: list[dict[str, float]] = []
        found = self.answers(items)
        if isinstance(found, Failure):
            return found
        for item, answer in zip(items, found, strict=True):
            own = {"entropy": entropy(answer)}
            values.append(own | beside_expert(answer, reference_of(item, references)) if beside else own)
        by_metric = {name: tuple(own[name] for own in values) for name in wanted}
        ids = tuple(item.id for item in items)
        return Responses(ids, by_metric, time.perf_counter() - start, self.reader.tokens - read)

    def answers(self, items: Sequence[Item]) -> list[Floats] | Failure:
        """Log-probabilities [vocabulary] of each answer's first token."""
        found: dict[int, Floats] = {}
        try:
            for place, answer in self.reader.read_next([self.tree(item) for item in items]):
                if not np.isfinite(answer).all():
                    raise NonFiniteOutputError(f"the model's output for item {items[place].id!r} is not finite")
                found[place] = answer
        except (RuntimeError, MemoryError, ArithmeticError) as error:
            failure = failure_of(error)
            if failure is None:
                raise
            return failure
        return [found[place] for place in range(len(items))]

    def tree(self, item: Item) -> Tree:
        """The prompt as a row; what it predicts is not looked at. Tokenised once."""
        if item.context not in self._trees:
            tokens, limit = encode(self.tokenizer, item.context), max_length(self.reader.model.config)
            if not tokens or (limit is not None and len(tokens) > limit):
                allowed = "at least 1" if not tokens else f"at most {limit}, the model's length"
                raise InvalidInputError(f"item {item.id!r} context", f"{len(tokens)} tokens", allowed)
            self._trees[item.context] = grow(tokens, [tokens[:1]])
        return self._trees[item.context]
