"""Running text by log-likelihood: all of it, in windows where it is longer than the model.

As the LM Evaluation Harness's `loglikelihood_rolling` (0.4.13): text that nothing precedes starts behind the
tokenizer's first token; each later window predicts as many new tokens as the model is long, the last one with all the
context that still fits. Every token is predicted once.

    word perplexity = exp(Σ −log P / Σ words)      bits per byte = Σ −log P / (ln 2 · Σ bytes)

Both are weighted means over items, of `nats_per_word` by words (before the exponential) and of `bits_per_byte` by
bytes: with such item weights (`weighted`) an eval set's mean is the value of the whole corpus.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from evomerge.errors import Failure, InvalidInputError
from fitness.encoding import Tokens, encode, encode_pair, prefix_token
from fitness.evaluator import Metric, Reference, Responses
from fitness.failures import NonFiniteOutputError, failure_of
from fitness.items import Item
from fitness.metrics import METRICS
from fitness.reading import Reader, max_length
from fitness.tree import Tree, grow

Unit = Literal["bytes", "words"]


@dataclass(frozen=True, slots=True)
class Windows:
    """A text as rows whose predicted tokens are the text's, each once."""

    trees: tuple[Tree, ...]

    @property
    def num_tokens(self) -> int:
        """Predicted tokens."""
        return sum(len(tree.predicted) for tree in self.trees)


class TextScorer:
    """Scores running text with a live model, whose weights may change between calls."""

    def __init__(self, reader: Reader, tokenizer: PreTrainedTokenizerBase) -> None:
        self.reader = reader
        self.tokenizer = tokenizer
        self._windows: dict[tuple[str, str], Windows] = {}

    def score(
        self,
        items: Sequence[Item],
        metrics: Sequence[Metric] | None = None,
        references: Mapping[str, Reference] | None = None,
    ) -> Responses | Failure:
        """Every metric of text that costs nothing, in the order asked, and `greedy` if wanted; or `non_finite`,
        `out_of_memory`.

        Raises:
            InvalidInputError: a context that leaves no room for the text, or a text without tokens.
        """
        start, read = time.perf_counter(), self.reader.tokens
        found = self.log_likelihoods(items)
        if isinstance(found, Failure):
            return found
        values: dict[Metric, tuple[float, ...]] = {
            name: tuple(self.factor(item, name) * value for item, value in zip(items, found, strict=True))
            for name, info in METRICS.items()
            if info.fits("text") and not info.on_demand
        }
        if "greedy" in (metrics or ()):
            said = self.greedy(items)
            if isinstance(said, Failure):
                return said
            values["greedy"] = tuple(map(float, said))
        ids = tuple(item.id for item in items)
        return Responses(ids, values, time.perf_counter() - start, self.reader.tokens - read)

    def log_likelihoods(self, items: Sequence[Item]) -> list[float] | Failure:
        """log P(text | context) of each item, nats."""
        owners = [place for place, item in enumerate(items) for _ in self.windows(item).trees]
        trees = [tree for item in items for tree in self.windows(item).trees]
        parts = np.zeros(len(trees))
        try:
            for row, edges in self.reader.read(trees):
                if not np.isfinite(edges).all():
                    raise NonFiniteOutputError(f"the model's output for item {items[owners[row]].id!r} is not finite")
                parts[row] = edges.sum()
        except (RuntimeError, MemoryError, ArithmeticError) as error:
            failure = failure_of(error)
            if failure is None:
                raise
            return failure
        found = [0.0] * len(items)
        for owner, part in zip(owners, parts, strict=True):
            found[owner] += float(part)
        return found

    def greedy(self, items: Sequence[Item]) -> list[bool] | Failure:
        """Whether each item's text is what greedy decoding says after its context, token by token."""
        owners = [place for place, item in enumerate(items) for _ in self.windows(item).trees]
        trees = [tree for item in items for tree in self.windows(item).trees]
        found = [True] * len(items)
        try:
            for row, said in self.reader.read_greedy(trees):
                found[owners[row]] = found[owners[row]] and said
        except (RuntimeError, MemoryError, ArithmeticError) as error:
            failure = failure_of(error)
            if failure is None:
                raise
            return failure
        return found

    def factor(self, item: Item, metric: Metric) -> float:
        """What a log-likelihood is multiplied by to be the metric."""
        match metric:
            case "log_likelihood":
                return 1.0
            case "bits_per_byte":
                return -1 / (math.log(2) * size(item.text, "bytes"))
            case "nats_per_word":
                return -1 / size(item.text, "words")
            case "nats_per_token":
                return -1 / self.windows(item).num_tokens
        raise ValueError(f"{metric!r} is not defined on running text")

    def windows(self, item: Item) -> Windows:
        """The item's rows; tokenised once."""
        key = (item.context, item.text)
        if key not in self._windows:
            where = f"item {item.id!r} text"
            if item.context:
                context, text = encode_pair(self.tokenizer, item.context, item.text, where)
            else:
                context, text = (prefix_token(self.tokenizer, where),), encode(self.tokenizer, item.text)
            if not text:
                raise InvalidInputError(where, item.text, "a text with tokens")
            limit = max_length(self.reader.model.config)
            if limit is not None and len(context) > limit:
                raise InvalidInputError(f"item {item.id!r} context", f"{len(context)} tokens", f"at most {limit}")
            self._windows[key] = Windows(tuple(grow(*window) for window in _windows(context, text, limit)))
        return self._windows[key]


def _windows(context: Tokens, text: Tokens, limit: int | None) -> list[tuple[Tokens, list[Tokens]]]:
    """(what is only read, [what is predicted]) of each window.

    >>> _windows((0,), (1, 2, 3, 4, 5), 2)
    [((0,), [(1, 2)]), ((2,), [(3, 4)]), ((3, 4), [(5,)])]
    """
    done = len(text) if limit is None else min(len(text), limit - len(context) + 1)
    found, whole = [(context, [text[:done]])], (*context, *text)
    while limit is not None and done < len(text):
        new = min(limit, len(text) - done)
        end = len(context) + done + new  # in `whole`
        found.append((whole[end - limit - 1 : end - new], [whole[end - new : end]]))
        done += new
    return found


def size(text: str, unit: Unit) -> int:
    """Length of a text in UTF-8 bytes or in words, which blanks part, as the harness counts them.

    >>> size("Größe 1", "bytes"), size("Größe 1", "words")
    (9, 2)
    """
    return len(text.encode()) if unit == "bytes" else len(re.split(r"\s+", text))


def weighted(items: Sequence[Item], unit: Unit = "bytes") -> list[Item]:
    """Text items with their length as weight, so that the weighted mean is the corpus's value."""
    return [replace(item, weight=float(size(item.text, unit))) for item in items]
