"""Greedy answers of many prompts at a time: beginnings that prompts share run once, rows that are done leave the batch.

An answer does not depend on what else is asked. Every prompt is read in the same pieces whatever its company: blocks
of `BLOCK` tokens, then the rest, padded on the left to a length that depends on the prompt alone and by one token at
least (so that the attention's path with a mask is always taken), and no batch is narrower than `LEAST_ROWS` (products
of fewer rows are summed in another order). Whether a row of a matrix product depends on the number of rows is the
processor's matter: `experiments/benchmarks/generation` measures what is left of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from fitness.alone import write_alone
from fitness.encoding import Tokens
from fitness.failures import NonFiniteOutputError
from fitness.loglikelihood import padded
from fitness.ways import body_of, pads

BLOCK = 64
"""Tokens of a piece of a prompt that may be shared with others."""

STEP = 32
"""The rest of a prompt is padded to a multiple of this: fewer, wider batches are worth some padding."""

LEAST_ROWS = 4
"""Narrower batches are filled up with copies: float32 products of one to three rows round otherwise (measured)."""

CACHE = 4
"""Prompts and answers of a batch hold so many times the tokens of a forward pass: a step of one token for each of 50
rows takes hardly longer than for each of 15."""

REPACK = 0.75
"""Rows leave the cache when no more than this share of them still writes; to copy it for each would cost more."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What to continue.

    Attributes:
        key: orders prompts of one length in a way that does not depend on how they were given.
        tokens: at least one.
        most: an answer's most tokens.
        stopped: whether an answer of these tokens has come to its end.
    """

    key: str
    tokens: Tokens
    most: int
    stopped: Callable[[list[int]], bool]

    @property
    def blocks(self) -> int:
        """How many whole blocks come before the last piece, which has one token at least."""
        return (len(self.tokens) - 1) // BLOCK


@dataclass(frozen=True, slots=True)
class Written:
    """An answer.

    Attributes:
        tokens: without the token that ends a sequence.
        finished: whether it came to its end, by that token or by `Prompt.stopped`, within its most tokens.
    """

    tokens: tuple[int, ...]
    finished: bool


class Decoder(Protocol):
    """Continues prompts greedily with a live model, whose weights may change between calls."""

    def write(self, prompts: Sequence[Prompt]) -> list[Written]:
        """The answer to each prompt, in the order given.

        Raises:
            NonFiniteOutputError: NaN or infinity instead of the next token's logits.
        """
        ...


class GreedyDecoder:
    """Continues prompts with a live model, whose weights may change between calls.

    Args:
        model: a causal language model, on `device`; one that batches with padding do not fit answers prompt by prompt.
        ends: tokens that end a sequence.
        pad: the token that fills a row up; any.
        batch_tokens: most tokens in one forward pass; the cache of a batch holds `CACHE` times as many. A longer single
            prompt goes alone.
    """

    def __init__(
        self, model: PreTrainedModel, *, ends: frozenset[int], pad: int, batch_tokens: int, device: torch.device
    ) -> None:
        self.model, self.ends, self.pad, self.batch_tokens, self.device = model, ends, pad, batch_tokens, device
        self._together = pads(model)

    @torch.inference_mode()
    def write(self, prompts: Sequence[Prompt]) -> list[Written]:
        """The answer to each prompt, in the order given.

        Raises:
            NonFiniteOutputError: NaN or infinity instead of the next token's logits.
        """
        if not self._together:
            return [self._alone(prompt) for prompt in prompts]
        found: dict[int, Written] = {}
        shared = _Shared()
        for places in self._batches(prompts):
            batch = [prompts[place] for place in places]
            found.update(zip(places, self._write(batch, shared), strict=True))
        return [found[place] for place in range(len(prompts))]

    def _alone(self, prompt: Prompt) -> Written:
        tokens, finished = write_alone(self.model, prompt.tokens, prompt.most, prompt.stopped, self.ends, self.pad)
        return Written(tuple(tokens), finished)

    def _batches(self, prompts: Sequence[Prompt]) -> Iterator[list[int]]:
        """Places of prompts of one shape, those that begin alike beside each other."""
        shapes = [self._shape(prompt) for prompt in prompts]

        def order(place: int) -> tuple[object, ...]:
            return (*shapes[place], prompts[place].tokens, prompts[place].key)

        for (blocks, rest, most), group in groupby(sorted(range(len(prompts)), key=order), key=shapes.__getitem__):
            places = list(group)
            piece = max(rest, BLOCK if blocks else 0)
            fits = min(self.batch_tokens // piece, CACHE * self.batch_tokens // (blocks * BLOCK + rest + most))
            step = max(1, fits)
            yield from (places[first : first + step] for first in range(0, len(places), step))

    def _shape(self, prompt: Prompt) -> tuple[int, int, int]:
        """Blocks, length of the padded rest, most tokens."""
        blocks = prompt.blocks if self._shares(prompt) else 0
        rest = len(prompt.tokens) - blocks * BLOCK + 1
        return blocks, max(padded(rest), -(-rest // STEP) * STEP), prompt.most

    def _shares(self, prompt: Prompt) -> bool:
        """Padding between a block and the rest would move a window of attention."""
        window = getattr(self.model.config, "sliding_window", None)
        return window is None or padded(len(prompt.tokens) + 1) + STEP + prompt.most < window

    def _write(self, prompts: Sequence[Prompt], shared: _Shared) -> list[Written]:
        blocks, rest, most = self._shape(prompts[0])
        cache, rows = self._read_blocks(prompts, blocks, shared)
        start, wide = blocks * BLOCK, max(len(prompts), LEAST_ROWS)
        rows = [*rows, *(rows[-1] for _ in range(wide - len(rows)))]
        _select(cache, rows)
        tokens = torch.full((wide, rest), self.pad)
        mask = torch.ones((wide, start + rest), dtype=torch.long)
        for row in range(wide):
            tail = prompts[min(row, len(prompts) - 1)].tokens[start:]
            tokens[row, rest - len(tail) :] = torch.tensor(tail)
            mask[row, start : start + rest - len(tail)] = 0
        writing = _Writing(self.model, self.ends, prompts, cache, mask.to(self.device))
        return writing.run(tokens.to(self.device), most)

    def _read_blocks(self, prompts: Sequence[Prompt], blocks: int, shared: _Shared) -> tuple[DynamicCache, list[int]]:
        """A cache of the prompts' different beginnings, and which of them each prompt has."""
        heads = [prompt.tokens[: blocks * BLOCK] for prompt in prompts]
        if blocks and len(set(heads)) == 1 and shared.head == heads[0]:
            return shared.copy(), [0] * len(prompts)
        cache, rows = DynamicCache(config=self.model.config), [0] * len(prompts)
        before: list[Tokens] = [()]
        for end in range(BLOCK, blocks * BLOCK + 1, BLOCK):
            unique = list(dict.fromkeys(head[:end] for head in heads))
            _select(cache, [before.index(head[:-BLOCK]) for head in unique])
            self._read(torch.tensor([head[-BLOCK:] for head in unique]), cache)
            before = unique
        rows = [before.index(head) for head in heads]
        if blocks and len(before) == 1:
            shared.keep(before[0], cache)
        return cache, rows

    def _read(self, tokens: Tensor, cache: DynamicCache) -> None:
        rows, begin = len(tokens), cache.get_seq_length()
        body_of(self.model)(
            input_ids=tokens.to(self.device),
            attention_mask=torch.ones((rows, begin + BLOCK), dtype=torch.long, device=self.device),
            position_ids=torch.arange(begin, begin + BLOCK, device=self.device)[None].expand(rows, -1),
            past_key_values=cache,
            use_cache=True,
        )


class _Shared:
    """The beginning that all prompts of the last batch had in common, for the next batch."""

    def __init__(self) -> None:
        self.head: Tokens | None = None
        self._cache = DynamicCache()

    def keep(self, head: Tokens, cache: DynamicCache) -> None:
        self.head, self._cache = head, _copy(cache)

    def copy(self) -> DynamicCache:
        return _copy(self._cache)


class _Writing:
    """A batch that has been read up to the last piece of its prompts; rows beyond them are copies of the last."""

    def __init__(
        self,
        model: PreTrainedModel,
        ends: frozenset[int],
        prompts: Sequence[Prompt],
        cache: DynamicCache,
        mask: Tensor,
    ) -> None:
        self._model, self._ends, self._prompts, self._cache, self._mask = model, ends, prompts, cache, mask
        self._answers: list[list[int]] = [[] for _ in prompts]
        self._finished = [False] * len(prompts)
        self._rows = list(range(len(prompts)))  # row of the batch → prompt, of those that still write or wait to leave

    def run(self, tokens: Tensor, most: int) -> list[Written]:
        """Args:
        tokens: [R, rest] the last piece of each prompt, padded on the left.
        """
        positions = (self._mask.cumsum(1) - 1).clamp_(min=0)[:, -tokens.shape[1] :]
        for _ in range(most):
            chosen = self._next(tokens, positions)
            self._take(chosen.tolist())
            if all(self._finished):
                break
            tokens, positions = self._repacked(chosen[:, None], positions[:, -1:] + 1)
            self._mask = torch.cat([self._mask, self._mask.new_ones((len(tokens), 1))], dim=1)
        return [Written(tuple(a), f) for a, f in zip(self._answers, self._finished, strict=True)]

    def _next(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """The most likely next token of each row, [R]; of equal ones the first."""
        logits = self._model(
            input_ids=tokens,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        top, chosen = logits.max(dim=-1)  # NaN is the largest of all
        if not torch.isfinite(top).all():
            raise NonFiniteOutputError("the model's output is not finite while it answers")
        found: Tensor = chosen
        return found

    def _take(self, chosen: Sequence[int]) -> None:
        for prompt, token in zip(self._rows, chosen, strict=False):
            if self._finished[prompt]:
                continue
            if token in self._ends:
                self._finished[prompt] = True
            else:
                self._answers[prompt].append(token)
                self._finished[prompt] = self._prompts[prompt].stopped(self._answers[prompt])

    def _repacked(self, tokens: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Without the rows that are done, once they are many."""
        live = [row for row, prompt in enumerate(self._rows) if not self._finished[prompt]]
        wide = max(len(live), LEAST_ROWS)
        if wide > REPACK * len(tokens):
            return tokens, positions
        self._rows = [self._rows[row] for row in live]
        keep = [*live, *(live[-1] for _ in range(wide - len(live)))]
        _select(self._cache, keep)
        self._mask = self._mask[keep]
        return tokens[keep], positions[keep]


def _copy(cache: DynamicCache) -> DynamicCache:
    """A cache that grows on its own: layers replace their tensors and never change them."""
    made = copy.copy(cache)
    made.layers = [copy.copy(layer) for layer in cache.layers]
    return made


def _select(cache: Any, rows: Sequence[int]) -> None:
    """Make `rows` the rows of a cache; one without tokens has none."""
    if cache.get_seq_length():
        cache.batch_select_indices(torch.tensor(rows, device=cache.layers[0].keys.device))
