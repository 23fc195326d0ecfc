"""Multiple choice by log-likelihood: one row an item, the head only where a choice's token is predicted.

The same numbers whatever the order of the items: rows are padded to a length that depends on the item alone, and the
same set of items always forms the same batches. What other items are asked changes a number only where the arithmetic
of a matrix product depends on its number of rows; `experiments/benchmarks/scoring` measures that.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evomerge.errors import ArchitectureError, Failure, InvalidInputError
from fitness.encoding import encode_choices
from fitness.evaluator import Responses
from fitness.failures import NonFiniteOutputError, failure_of
from fitness.items import Item
from fitness.tree import Tree, grow

HEAD_ELEMENTS = 1 << 24
"""Most logits at one time (64 MiB in float32): positions × vocabulary."""

Row = tuple[int, Tree]
"""An item's place among those asked, and its tree."""


class ChoiceScorer:
    """Scores multiple-choice items with a live model, whose weights may change between calls.

    Args:
        model: a causal language model with `eager` or `sdpa` attention, on `device`.
        tokenizer: the model's.
        batch_tokens: most tokens (padding included) in one forward pass; a longer single item goes alone.
        device: where the model is.

    Raises:
        ArchitectureError: an attention or a head that the tree's mask or the direct use of the head does not fit.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_tokens: int = 2048,
        device: str | torch.device = "cpu",
    ) -> None:
        _check_model(model)
        self.model = model
        self.model.train(False)
        self.tokenizer = tokenizer
        self.batch_tokens = batch_tokens
        self.device = torch.device(device)
        self._trees: dict[tuple[str, tuple[str, ...]], Tree] = {}

    def score(self, items: Sequence[Item]) -> Responses | Failure:
        """Responses in the order asked, with every metric of multiple choice; or `non_finite`, `out_of_memory`.

        Raises:
            InvalidInputError: an item that the tokenizer or the model's length cannot take.
        """
        start = time.perf_counter()
        found = self.log_likelihoods(items)
        if isinstance(found, Failure):
            return found
        tokens = sum(padded(len(self.tree(item))) for item in items)
        values = [choice_metrics(item, scores) for item, scores in zip(items, found, strict=True)]
        names = ("accuracy", "accuracy_norm", "choice_probability", "log_likelihood", "margin")
        by_metric = {name: tuple(v[name] for v in values) for name in names}
        return Responses(tuple(i.id for i in items), by_metric, time.perf_counter() - start, tokens)

    def log_likelihoods(self, items: Sequence[Item]) -> list[tuple[float, ...]] | Failure:
        """For each item the log-likelihood of each choice given the context, in nats."""
        trees = [self.tree(item) for item in items]
        found: dict[int, tuple[float, ...]] = {}
        try:
            for batch in self.batches(items, trees):
                for (place, tree), edges in zip(batch, self._edges([t for _, t in batch]), strict=True):
                    if not np.isfinite(edges).all():
                        raise NonFiniteOutputError(f"the model's output for item {items[place].id!r} is not finite")
                    found[place] = tuple(float(edges[list(path)].sum()) for path in tree.paths)
        except (RuntimeError, MemoryError, ArithmeticError) as error:
            failure = failure_of(error)
            if failure is None:
                raise
            return failure
        return [found[place] for place in range(len(items))]

    def tree(self, item: Item) -> Tree:
        """The item's row; tokenised once."""
        key = (item.context, item.choices)
        if key not in self._trees:
            self._trees[key] = self._grow(item)
        return self._trees[key]

    def _grow(self, item: Item) -> Tree:
        context, choices = encode_choices(self.tokenizer, item)
        limit = max_length(self.model.config)
        longest = len(context) + max(map(len, choices)) - 1
        if limit is not None and longest > limit:
            raise InvalidInputError(f"item {item.id!r}", f"{longest} tokens", f"at most {limit}, the model's length")
        return grow(context, choices)

    def batches(self, items: Sequence[Item], trees: Sequence[Tree]) -> Iterator[list[Row]]:
        """Rows of one padded length, in an order that depends on the items and not on how they were given."""
        key = [(padded(len(t)), item.id, item.context) for item, t in zip(items, trees, strict=True)]
        order = sorted(range(len(items)), key=key.__getitem__)
        for length, places in groupby(order, key=lambda place: key[place][0]):
            rows = [(place, trees[place]) for place in places]
            step = max(1, self.batch_tokens // length)
            yield from (rows[i : i + step] for i in range(0, len(rows), step))

    @torch.inference_mode()
    def _edges(self, trees: Sequence[Tree]) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
        """For each tree the log-probability of each predicted token, [E]."""
        ends = np.cumsum([len(tree.predictors) for tree in trees])
        return np.split(self.edges(trees).double().cpu().numpy(), ends[:-1])

    def edges(self, trees: Sequence[Tree]) -> Tensor:
        """The log-probability of each predicted token, one tree's after another's, [sum of E] float32.

        Autograd goes through it where the caller lets it.
        """
        length = padded(max(map(len, trees)))
        tokens, depths, seen = _pack(trees, length)
        hidden = self.model.base_model(
            input_ids=tokens.to(self.device),
            position_ids=depths.to(self.device),
            attention_mask=self._masks(depths, seen),
            use_cache=False,
        ).last_hidden_state
        nodes = [row * length + node for row, tree in enumerate(trees) for node in tree.predictors]
        picked = [token for tree in trees for token in tree.predicted]
        return self._log_probabilities(hidden.flatten(0, 1), nodes, picked)

    def _log_probabilities(self, hidden: Tensor, nodes: Sequence[int], picked: Sequence[int]) -> Tensor:
        """log P(token | node) for each pair, [E] float32; the head runs once a node.

        Args:
            hidden: [nodes of all rows, width].
        """
        unique, edge_of = np.unique(np.asarray(nodes), return_inverse=True)
        head = self.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        step = max(16, HEAD_ELEMENTS // int(head.weight.shape[0]))
        found = torch.empty(len(nodes), dtype=torch.float32, device=hidden.device)
        tokens = torch.tensor(picked, device=hidden.device)
        for first in range(0, len(unique), step):
            at = torch.from_numpy(unique[first : first + step]).to(hidden.device)
            edges = torch.from_numpy(np.flatnonzero((edge_of >= first) & (edge_of < first + step))).to(hidden.device)
            logits = head(hidden[at])
            if cap is not None:
                logits = cap * torch.tanh(logits / cap)
            rows = torch.from_numpy(edge_of).to(hidden.device)[edges] - first
            found[edges] = torch.log_softmax(logits, dim=-1, dtype=torch.float32)[rows, tokens[edges]]
        return found

    def _masks(self, depths: Tensor, seen: Tensor) -> Tensor | Mapping[str, Tensor]:
        """Additive attention masks [R, 1, L, L]: one, or one for each kind of layer where a window cuts a path off."""
        config = self.model.config
        full, window = self._additive(seen), getattr(config, "sliding_window", None)
        if window is None or int(depths.max()) < window:
            return full
        near = depths[:, :, None] - depths[:, None, :] < window
        sliding = self._additive(seen & near)
        kinds = getattr(config, "layer_types", None)
        return sliding if kinds is None else {"full_attention": full, "sliding_attention": sliding}

    def _additive(self, seen: Tensor) -> Tensor:
        dtype = self.model.dtype
        mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
        return mask[:, None].to(self.device)


def choice_metrics(item: Item, scores: Sequence[float]) -> dict[str, float]:
    """Metrics of one item from its choices' log-likelihoods. Of equal choices the first counts as the answer, as in the
    LM Evaluation Harness."""
    assert item.label is not None, "the item's parser checked this"
    found = np.asarray(scores, dtype=np.float64)
    right = float(found[item.label])
    lengths = np.asarray([len(choice) - len(item.delimiter) for choice in item.choices], dtype=np.float64)
    shifted = np.exp(found - found.max())
    return {
        "accuracy": float(found.argmax() == item.label),
        "accuracy_norm": float((found / lengths).argmax() == item.label),
        "choice_probability": float(shifted[item.label] / shifted.sum()),
        "log_likelihood": right,
        "margin": right - float(np.delete(found, item.label).max()),
    }


def padded(length: int) -> int:
    """Length of a row of `length` tokens: a multiple of 8, coarser for long rows (at most an eighth is padding beyond
    64 tokens), so that similar items share a batch.

    >>> [padded(n) for n in (1, 8, 50, 250, 1000)]
    [8, 8, 56, 256, 1024]
    """
    step = max(8, 1 << max(0, length.bit_length() - 5))
    return -(-length // step) * step


def max_length(config: Any) -> int | None:
    """Most positions that a model was made for."""
    for name in ("n_positions", "max_position_embeddings", "n_ctx"):
        found = getattr(config, name, None)
        if isinstance(found, int):
            return found
    return None


def _pack(trees: Sequence[Tree], length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids and depths [R, L] and what each node sees [R, L, L]; padding sees itself and is seen by nothing."""
    tokens = np.zeros((len(trees), length), dtype=np.int64)
    depths = np.zeros((len(trees), length), dtype=np.int64)
    seen = np.broadcast_to(np.eye(length, dtype=np.bool_), (len(trees), length, length)).copy()
    for row, tree in enumerate(trees):
        n = len(tree)
        tokens[row, :n], depths[row, :n], seen[row, :n, :n] = tree.tokens, tree.depths(), tree.ancestors()
    return torch.from_numpy(tokens), torch.from_numpy(depths), torch.from_numpy(seen)


def _check_model(model: PreTrainedModel) -> None:
    config = model.config
    attention = config._attn_implementation
    if attention not in ("eager", "sdpa"):
        raise ArchitectureError(f"attention {attention!r} takes no tree mask; load the model with 'eager' or 'sdpa'")
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds:
        raise ArchitectureError(f"layers of kind {sorted(kinds)} cannot be scored; only full and sliding attention can")
    for name in ("logit_scale", "logits_scaling"):
        if getattr(config, name, None) not in (None, 1, 1.0):
            raise ArchitectureError(f"{config.model_type!r} scales its logits ({name}); this head cannot be scored yet")
    if model.get_output_embeddings() is None:  # type: ignore[no-untyped-call]
        raise ArchitectureError(f"{type(model).__name__} has no language-model head")
