"""Multiple choice by log-likelihood: one row an item, all choices behind what their contexts have in common.

How the numbers come about, and that the order of the items does not matter, is told in `fitness.reading`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evomerge.errors import Failure, InvalidInputError
from fitness.encoding import encode, encode_pairs
from fitness.evaluator import Metric, Reference, Responses
from fitness.failures import NonFiniteOutputError, failure_of
from fitness.items import Item
from fitness.label_free import beside_expert, entropy, log_shares
from fitness.metrics import METRICS
from fitness.prefixes import common_beginnings
from fitness.reading import Reader, max_length, padded
from fitness.tree import Tree, common_length, plant

__all__ = ["ChoiceScorer", "choice_metrics", "max_length", "padded"]

Scores = tuple[float, ...]
"""The log-likelihood of each choice, nats."""


class ChoiceScorer:
    """Scores multiple-choice items with a live model, whose weights may change between calls.

    Args:
        model: a causal language model with `eager` or `sdpa` attention, on `device`.
        tokenizer: the model's.
        batch_tokens: most tokens (padding included) in one forward pass; a longer single item goes alone.
        device: where the model is.

    Raises:
        ArchitectureError: an attention or a head that cannot be scored.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_tokens: int = 2048,
        device: str | torch.device = "cpu",
    ) -> None:
        self.reader = Reader(model, batch_tokens=batch_tokens, device=device)
        self.model = model
        self.tokenizer = tokenizer
        self._trees: dict[tuple[str, tuple[str, ...], tuple[str, ...]], Tree] = {}

    def score(
        self,
        items: Sequence[Item],
        metrics: Sequence[Metric] | None = None,
        references: Mapping[str, Reference] | None = None,
    ) -> Responses | Failure:
        """Responses in the order asked; or `non_finite`, `out_of_memory`.

        Args:
            metrics: what is wanted beside those that need nothing but the choices' log-likelihoods and, unless they
                are `label_free`, a label.
            references: item id → log-probabilities [choices] of the source that owns the item.

        Raises:
            InvalidInputError: an item that the tokenizer or the model's length cannot take.
            ValueError: a metric that these items or missing references do not allow.
        """
        start, read = time.perf_counter(), self.reader.tokens
        wanted = wanted_metrics(items, metrics or ())
        found = self.log_likelihoods(items)
        values = found if isinstance(found, Failure) else self.values(items, found, wanted, references)
        if isinstance(values, Failure):
            return values
        ids = tuple(i.id for i in items)
        return Responses(ids, values, time.perf_counter() - start, self.reader.tokens - read)

    def values(
        self,
        items: Sequence[Item],
        found: Sequence[Scores],
        wanted: Sequence[Metric],
        references: Mapping[str, Reference] | None = None,
    ) -> dict[Metric, tuple[float, ...]] | Failure:
        """Metric → one value an item, from `log_likelihoods`; the model reads again for `accuracy_pmi` only.

        Args:
            wanted: see `wanted_metrics`.
            references: see `score`.
        """
        values = [choice_metrics(item, scores) for item, scores in zip(items, found, strict=True)]
        if "accuracy_pmi" in wanted:
            without = self.log_likelihoods([unconditioned(item) for item in items])
            if isinstance(without, Failure):
                return without
            for item, own, scores, prior in zip(items, values, found, without, strict=True):
                own["accuracy_pmi"] = accuracy_pmi(item, scores, prior)
        if any(METRICS[name].expert for name in wanted):
            for item, own, scores in zip(items, values, found, strict=True):
                own |= beside_expert(log_shares(scores), reference_of(item, references))
        return {name: tuple(v[name] for v in values) for name in wanted}

    def expect(self, items: Sequence[Item]) -> None:
        """Items of which some will be asked: beginnings that their contexts have in common are read once a call then.

        Numbers change by rounding with what is expected, not with what is asked; so call it with everything that may
        be, before the first item is.
        """
        contexts = [_shared_context(item) for item in items]
        for text in common_beginnings(contexts):
            self.reader.beginnings.add(encode(self.tokenizer, text.rstrip()))

    def log_likelihoods(self, items: Sequence[Item]) -> list[Scores] | Failure:
        """For each item the log-likelihood of each choice given its context, in nats."""
        trees = [self.tree(item) for item in items]
        found: dict[int, Scores] = {}
        try:
            for place, edges in self.reader.read(trees):
                if not np.isfinite(edges).all():
                    raise NonFiniteOutputError(f"the model's output for item {items[place].id!r} is not finite")
                found[place] = tuple(float(edges[list(path)].sum()) for path in trees[place].paths)
        except (RuntimeError, MemoryError, ArithmeticError) as error:
            failure = failure_of(error)
            if failure is None:
                raise
            return failure
        return [found[place] for place in range(len(items))]

    def tree(self, item: Item) -> Tree:
        """The item's row; tokenised once."""
        key = (item.context, item.contexts, item.choices)
        if key not in self._trees:
            self._trees[key] = self._grow(item)
        return self._trees[key]

    def _grow(self, item: Item) -> Tree:
        pairs = encode_pairs(self.tokenizer, item)
        limit = max_length(self.model.config)
        longest = max(len(context) + len(choice) - 1 for context, choice in pairs)
        if limit is not None and longest > limit:
            raise InvalidInputError(f"item {item.id!r}", f"{longest} tokens", f"at most {limit}, the model's length")
        return plant(pairs)


def wanted_metrics(items: Sequence[Item], metrics: Sequence[Metric]) -> tuple[Metric, ...]:
    """The metrics to answer with: those that cost nothing, and those of `metrics`.

    Raises:
        ValueError: one that is not defined on multiple choice, or needs a label that an item lacks.
    """
    labelled = all(item.label is not None for item in items)

    def allowed(name: Metric) -> bool:
        return METRICS[name].fits("choice") and (labelled or METRICS[name].label_free)

    for name in metrics:
        if not allowed(name):
            raise ValueError(f"{name!r} is not defined on these items")
    return tuple(name for name, info in METRICS.items() if name in metrics or (allowed(name) and not info.on_demand))


def choice_metrics(item: Item, scores: Sequence[float]) -> dict[str, float]:
    """Metrics of one item that its choices' log-likelihoods tell. Of equal choices the first counts as the answer, as
    in the LM Evaluation Harness, and lengths are its, too: of `acc_norm` in characters, of `acc_bytes` in UTF-8."""
    found = np.asarray(scores, dtype=np.float64)
    free = {"entropy": entropy(log_shares(found))}
    shifted = np.exp(found - found.max())
    if item.label is None:
        return free
    right = float(found[item.label])
    texts = [choice.removeprefix(item.delimiter) for choice in item.choices]
    characters = np.asarray([len(text) for text in texts], dtype=np.float64)
    sizes = np.asarray([len(text.encode()) for text in texts], dtype=np.float64)
    return free | {
        "accuracy": float(found.argmax() == item.label),
        "accuracy_norm": float((found / characters).argmax() == item.label),
        "accuracy_bytes": float((found / sizes).argmax() == item.label),
        "choice_probability": float(shifted[item.label] / shifted.sum()),
        "log_likelihood": right,
        "margin": right - float(np.delete(found, item.label).max()),
    }


def accuracy_pmi(item: Item, scores: Sequence[float], without: Sequence[float]) -> float:
    """1 where the right choice gains most by the question: arg max log P(choice | context) − log P(choice | premise).

    Source: Holtzman et al. 2021, Surface Form Competition, arXiv:2104.08315 (domain-conditional PMI); with an
    empty premise it is the LM Evaluation Harness's `acc_mutual_info`.
    """
    gain = np.asarray(scores, dtype=np.float64) - np.asarray(without, dtype=np.float64)
    return float(gain.argmax() == item.label)


def unconditioned(item: Item) -> Item:
    """The item's choices behind what its likelihoods without the question are measured after."""
    return replace(item, context=item.unconditioned, contexts=())


def reference_of(item: Item, references: Mapping[str, Reference] | None) -> Reference:
    """The answer of the source that owns an item.

    Raises:
        ValueError: it is not there.
    """
    if references is None or item.id not in references:
        raise ValueError(f"no answer of a source to item {item.id!r} to compare with")
    return references[item.id]


def _shared_context(item: Item) -> str:
    """What all of an item's choices stand behind."""
    least, most = min(item.contexts, default=item.context), max(item.contexts, default=item.context)
    return least[: common_length(least, most)]
