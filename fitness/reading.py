"""What a live model says at the nodes of trees: rows of equal padded length, the head only where it is needed.

The same numbers whatever the order of the rows: they are padded to a length that depends on the row alone, and the same
set of rows always forms the same batches. What other rows are read changes a number only where the arithmetic of a
matrix product depends on its number of rows; `experiments/benchmarks/scoring` measures that. A row that begins with one
of the `beginnings` is always read in two pieces, whoever else begins so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from evomerge.errors import ArchitectureError
from fitness.encoding import Tokens
from fitness.failures import NonFiniteOutputError
from fitness.prefixes import Beginning, Beginnings
from fitness.tree import Tree, plant
from fitness.ways import Ways, body_of, is_known, ways_of

HEAD_ELEMENTS = 1 << 24
"""Most logits at one time: positions × vocabulary."""

SOFTMAX_ROWS = 8
"""Positions whose logits are in float32 at one time: few enough to stay in the processor's cache."""

ATTENDED = 16
"""Of a batch, most tokens attended to for each token read."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Batch:
    """Rows that are read together.

    Attributes:
        places: of the rows among all.
        trees: without what `beginning` holds.
    """

    places: tuple[int, ...]
    trees: tuple[Tree, ...]
    beginning: Beginning | None = None


class Reader:
    """Reads trees with a live model, whose weights may change between calls.

    Args:
        model: a causal language model with `eager` or `sdpa` attention, on `device`.
        batch_tokens: most tokens (padding included) in one forward pass; a longer single row goes alone.
        device: where the model is.

    Attributes:
        beginnings: that are read once a call for all rows that have them.
        tokens: read so far, padding included.

    Raises:
        ArchitectureError: an attention that takes no mask, or a model whose head is no matrix behind a causal model's
            last hidden state.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        batch_tokens: int = 2048,
        device: str | torch.device = "cpu",
    ) -> None:
        _check_model(model)
        self.model = model
        self.model.train(False)
        self._body = body_of(model)
        self.batch_tokens = batch_tokens
        self.device = torch.device(device)
        self.beginnings = Beginnings()
        self.tokens = 0
        self._ways = Ways()
        self._keeps = True  # what the model keeps of a beginning is keys and values
        if not is_known(model):
            self._ways = ways_of(model, self._branches)
            self._keeps = self._ways.beginnings

    # -- numbers --------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def read(self, trees: Sequence[Tree]) -> Iterator[tuple[int, Floats]]:
        """(a row's place, the log-probability of each of its predicted tokens [E]), in any order."""
        for batch in self._shared_batches(trees):
            found = self._edges(batch.trees, batch.beginning).double().cpu().numpy()
            ends = np.cumsum([len(tree.predictors) for tree in batch.trees])
            yield from zip(batch.places, np.split(found, ends[:-1]), strict=True)

    @torch.inference_mode()
    def read_next(self, trees: Sequence[Tree]) -> Iterator[tuple[int, Floats]]:
        """(a row's place, the log-probabilities [vocabulary] of what follows its first predictor), in any order."""
        for batch in self._shared_batches(trees):
            for place, logits in zip(batch.places, self._next(batch.trees, batch.beginning), strict=True):
                yield place, torch.log_softmax(logits.float(), dim=-1).double().cpu().numpy()

    @torch.inference_mode()
    def read_greedy(self, trees: Sequence[Tree]) -> Iterator[tuple[int, bool]]:
        """(a row's place, whether each of its predicted tokens is the most likely one), in any order."""
        for batch in self._shared_batches(trees):
            hidden = self._hidden(batch.trees, batch.beginning)
            for row, (place, tree) in enumerate(zip(batch.places, batch.trees, strict=True)):
                pairs = list(zip(tree.predictors, tree.predicted, strict=True))
                yield place, all(self._are_greedy(hidden[row], pairs[i : i + 16]) for i in range(0, len(pairs), 16))

    def _are_greedy(self, hidden: Tensor, pairs: Sequence[tuple[int, int]]) -> bool:
        logits = self._logits(hidden[torch.tensor([node for node, _ in pairs], device=hidden.device)])
        if not torch.isfinite(logits).all():
            raise NonFiniteOutputError("the model's output for running text is not finite")
        return logits.argmax(dim=-1).tolist() == [token for _, token in pairs]

    def batches(self, trees: Sequence[Tree]) -> Iterator[list[int]]:
        """Places of rows that are read together, without anything shared."""
        yield from self._batches(dict(enumerate(trees)))

    def edges(self, trees: Sequence[Tree]) -> Tensor:
        """The log-probability of each predicted token, one tree's after another's, [sum of E] float32.

        Autograd goes through it where the caller lets it.
        """
        return self._edges(trees, None)

    def next_logits(self, trees: Sequence[Tree]) -> Tensor:
        """Logits [rows, vocabulary] of what follows each row's first predictor; autograd goes through it."""
        return self._next(trees, None)

    # -- batches --------------------------------------------------------------------------------------------------

    def _batches(self, rows: Mapping[int, Tree]) -> Iterator[list[int]]:
        """Rows of one padded length, in an order that depends on the rows and not on how they were given."""

        def key(place: int) -> tuple[int, bool, tuple[int, ...], tuple[int, ...]]:
            tree = rows[place]
            return padded(len(tree)), tree.is_chain, tree.tokens, tree.predicted

        keys = {place: key(place) for place in rows}
        for (length, _), group in groupby(sorted(rows, key=keys.__getitem__), key=lambda place: keys[place][:2]):
            places = list(group)
            start = rows[places[0]].start
            step = max(1, min(self.batch_tokens // length, ATTENDED * self.batch_tokens // (start + length)))
            yield from (places[i : i + step] for i in range(0, len(places), step))

    def _shared_batches(self, trees: Sequence[Tree]) -> Iterator[_Batch]:
        """All rows, with the beginnings that they share."""
        groups: dict[int, dict[int, list[int]]] = {}  # beginning → its tokens in common → places
        alone = []
        for place, tree in enumerate(trees):
            found = self.beginnings.of(tree.tokens[: tree.trunk - 1]) if self._keeps and tree.trunk else None
            if found is None:
                alone.append(place)
            else:
                groups.setdefault(found[0], {}).setdefault(found[1], []).append(place)
        for number in sorted(groups):
            whole = self._begin(self.beginnings.known[number])
            for length, places in sorted(groups[number].items()):
                if whole is None:
                    alone += places
                else:
                    rows = {place: trees[place].behind(length) for place in places}
                    yield from self._batched(rows, whole.first(length))
        yield from self._batched({place: trees[place] for place in alone}, None)

    def _batched(self, rows: Mapping[int, Tree], beginning: Beginning | None) -> Iterator[_Batch]:
        for batch in self._batches(rows):
            yield _Batch(tuple(batch), tuple(rows[place] for place in batch), beginning)

    def _begin(self, tokens: Tokens) -> Beginning | None:
        """A beginning, read; None where the model keeps something else than keys and values."""
        beginning, n = Beginning(), len(tokens)
        self._hidden([Tree(n, tokens, tuple(range(-1, n - 1)), (), (), ())], beginning)
        self._keeps = self._keeps and beginning.close(n, int(self.model.config.num_hidden_layers))
        return beginning if self._keeps else None

    # -- forward passes -------------------------------------------------------------------------------------------

    def _edges(self, trees: Sequence[Tree], beginning: Beginning | None) -> Tensor:
        hidden = self._hidden(trees, beginning)
        nodes = [row * hidden.shape[1] + node for row, tree in enumerate(trees) for node in tree.predictors]
        picked = [token for tree in trees for token in tree.predicted]
        return self._log_probabilities(hidden.flatten(0, 1), nodes, picked)

    def _next(self, trees: Sequence[Tree], beginning: Beginning | None) -> Tensor:
        hidden = self._hidden(trees, beginning)
        rows = torch.arange(len(trees), device=hidden.device)
        return self._logits(hidden[rows, torch.tensor([tree.predictors[0] for tree in trees], device=hidden.device)])

    def _hidden(self, trees: Sequence[Tree], beginning: Beginning | None) -> Tensor:
        """The model's last hidden states, [rows, padded length, width]."""
        if not self._ways.trees and not all(tree.is_chain for tree in trees):
            return self._one_by_one(trees)
        length = padded(max(map(len, trees)))
        self.tokens += len(trees) * length
        tokens = np.zeros((len(trees), length), dtype=np.int64)
        for row, tree in enumerate(trees):
            tokens[row, : len(tree)] = tree.tokens
        how: dict[str, Any] = {"use_cache": False}
        if beginning is not None or not all(tree.is_chain for tree in trees):
            depths, seen = _pack(trees, length)
            how |= {"position_ids": depths.to(self.device), "attention_mask": self._masks(depths, seen, trees[0].start)}
        if beginning is not None:
            how |= {"past_key_values": beginning, "use_cache": True}
        found: Tensor = self._body(input_ids=torch.from_numpy(tokens).to(self.device), **how)[0]
        return found

    def _one_by_one(self, trees: Sequence[Tree]) -> Tensor:
        """`_hidden`, every path from a root to a leaf in a row of its own."""
        paths = [(row, path) for row, tree in enumerate(trees) for path in tree.chains()]
        rows = [Tree(len(path), tuple(trees[row].tokens[n] for n in path), tuple(range(-1, len(path) - 1)), (), (), ())
                for row, path in paths]  # fmt: skip
        step = max(1, self.batch_tokens // padded(max(map(len, rows))))
        found = [hidden for i in range(0, len(rows), step) for hidden in self._hidden(rows[i : i + step], None)]
        whole: Tensor = found[0].new_zeros((len(trees), padded(max(map(len, trees))), found[0].shape[-1]))
        for (row, path), hidden in zip(paths, found, strict=True):
            whole[row, torch.tensor(path, device=whole.device)] = hidden[: len(path)]
        return whole

    def _branches(self, one: tuple[int, ...], two: tuple[int, ...], shared: int, before: bool) -> tuple[Tensor, Tensor]:
        """See `ways.Branching`."""
        tree = plant([(one[:shared], (*one[shared:], 0)), (one[:shared], (*two[shared:], 0))])
        first, second = tree.chains()
        if not before:
            (hidden,) = self._hidden([tree], None)
            return hidden[torch.tensor(first)], hidden[torch.tensor(second)]
        beginning, known = self._begin(one[: shared - 1]), shared - 1
        if beginning is None:
            raise ArchitectureError("the model keeps something else than keys and values")
        (hidden,) = self._hidden([tree.behind(known)], beginning.first(known))
        return hidden[torch.tensor(first[known:]) - known], hidden[torch.tensor(second[known:]) - known]

    def _log_probabilities(self, hidden: Tensor, nodes: Sequence[int], picked: Sequence[int]) -> Tensor:
        """log P(token | node) for each pair, [E] float32; the head runs once a node.

        Args:
            hidden: [nodes of all rows, width].
        """
        unique, node_of = np.unique(np.asarray(nodes), return_inverse=True)
        order = np.argsort(node_of, kind="stable")
        at, rows = torch.from_numpy(unique).to(hidden.device), torch.from_numpy(node_of[order]).to(hidden.device)
        tokens = torch.tensor(picked, device=hidden.device)[torch.from_numpy(order).to(hidden.device)]
        counts = np.searchsorted(node_of[order], np.arange(len(unique) + 1))
        step = max(16, HEAD_ELEMENTS // int(self._head.weight.shape[0]))
        found = []
        for first in range(0, len(unique), step):
            logits = self._logits(hidden[at[first : first + step]])
            for begin in range(0, len(logits), SOFTMAX_ROWS):
                some = torch.log_softmax(logits[begin : begin + SOFTMAX_ROWS], dim=-1, dtype=torch.float32)
                edges = slice(counts[first + begin], counts[first + begin + len(some)])
                found.append(some[rows[edges] - (first + begin), tokens[edges]])
        back = torch.from_numpy(np.argsort(order)).to(hidden.device)
        return torch.cat(found)[back]

    def _logits(self, hidden: Tensor) -> Tensor:
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        logits: Tensor = self._head(hidden)
        if self._ways.scale != 1:
            logits = logits * self._ways.scale
        return logits if cap is None else cap * torch.tanh(logits / cap)

    @property
    def _head(self) -> Any:
        return self.model.get_output_embeddings()  # type: ignore[no-untyped-call]

    # -- masks ----------------------------------------------------------------------------------------------------

    def _masks(self, depths: Tensor, seen: Tensor, start: int) -> Tensor | Mapping[str, Tensor]:
        """Additive attention masks [R, 1, L, start + L]: one, or one for each kind of layer where a window cuts a path
        off.

        Args:
            start: tokens before every row, all of which its nodes see.
        """
        config, rows = self.model.config, len(depths)
        if start:
            seen = torch.cat([torch.ones(rows, seen.shape[1], start, dtype=torch.bool), seen], dim=2)
        full, window = self._additive(seen), getattr(config, "sliding_window", None)
        if window is None or int(depths.max()) < window:
            return full
        attended = torch.cat([torch.arange(start).expand(rows, -1), depths], dim=1)
        sliding = self._additive(seen & (depths[:, :, None] - attended[:, None, :] < window))
        kinds = getattr(config, "layer_types", None)
        return sliding if kinds is None else {"full_attention": full, "sliding_attention": sliding}

    def _additive(self, seen: Tensor) -> Tensor:
        dtype = self.model.dtype
        mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
        return mask[:, None].to(self.device)


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


def _pack(trees: Sequence[Tree], length: int) -> tuple[Tensor, Tensor]:
    """Depths [R, L] and what each node sees of its row [R, L, L]; padding sees itself and is seen by nothing."""
    depths = np.full((len(trees), length), trees[0].start, dtype=np.int64)
    seen = np.broadcast_to(np.eye(length, dtype=np.bool_), (len(trees), length, length)).copy()
    for row, tree in enumerate(trees):
        n = len(tree)
        depths[row, :n], seen[row, :n, :n] = tree.depths(), tree.ancestors()
    return torch.from_numpy(depths), torch.from_numpy(seen)


def _check_model(model: PreTrainedModel) -> None:
    config = model.config
    attention = config._attn_implementation
    if attention not in ("eager", "sdpa"):
        raise ArchitectureError(f"attention {attention!r} takes no tree mask; load the model with 'eager' or 'sdpa'")
    if model.get_output_embeddings() is None:  # type: ignore[no-untyped-call]
        raise ArchitectureError(f"{type(model).__name__} has no language-model head")
