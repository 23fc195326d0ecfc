"""Generation items: the greedy answer is compared with the references after normalisation."""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from evomerge.errors import Failure, InvalidInputError
from fitness.encoding import Tokens, encode
from fitness.evaluator import Responses
from fitness.failures import NonFiniteOutputError, failure_of
from fitness.items import Item
from fitness.loglikelihood import max_length, padded


class GenerationScorer:
    """Scores generation items with a live model, whose weights may change between calls.

    Args:
        model: a causal language model on `device`.
        tokenizer: the model's.
        batch_tokens: most tokens (prompts, padding and answers) in one batch; a longer single item goes alone.
        device: where the model is.
        max_new_tokens: an answer's most tokens.
        stop_at_newline: whether an answer ends with its first line (leading empty lines do not count).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_tokens: int = 2048,
        device: str | torch.device = "cpu",
        max_new_tokens: int = 32,
        stop_at_newline: bool = True,
    ) -> None:
        self.model = model
        self.model.train(False)
        self.tokenizer = tokenizer
        self.batch_tokens = batch_tokens
        self.device = torch.device(device)
        self.max_new_tokens = max_new_tokens
        self.stop_at_newline = stop_at_newline
        self._prompts: dict[str, Tokens] = {}

    def score(self, items: Sequence[Item]) -> Responses | Failure:
        """`exact_match` of each item, in the order asked; or `non_finite`, `out_of_memory`.

        Raises:
            InvalidInputError: prompt and answer do not fit into the model's length.
        """
        start = time.perf_counter()
        answers = self.answers(items)
        if isinstance(answers, Failure):
            return answers
        matches = tuple(float(matches_any(a, i.references)) for a, i in zip(answers, items, strict=True))
        tokens = sum(padded(len(self.prompt(i))) for i in items) + sum(map(self._length, answers))
        ids = tuple(i.id for i in items)
        return Responses(ids, {"exact_match": matches}, time.perf_counter() - start, tokens)

    def answers(self, items: Sequence[Item]) -> list[str] | Failure:
        """The greedy answer to each item, without the prompt."""
        prompts = [self.prompt(item) for item in items]
        found: dict[int, str] = {}
        try:
            for places in self._batches(items, prompts):
                texts = self._generate([prompts[place] for place in places])
                found.update(zip(places, texts, strict=True))
        except (RuntimeError, MemoryError, ArithmeticError) as error:
            failure = failure_of(error)
            if failure is None:
                raise
            return failure
        return [found[place] for place in range(len(items))]

    def prompt(self, item: Item) -> Tokens:
        """The item's context in tokens; tokenised once."""
        if item.context not in self._prompts:
            tokens, limit = encode(self.tokenizer, item.context), max_length(self.model.config)
            if not tokens:
                raise InvalidInputError(f"item {item.id!r} context", item.context, "a context with tokens")
            if limit is not None and len(tokens) + self.max_new_tokens > limit:
                asked = f"{len(tokens)} tokens and {self.max_new_tokens} of the answer"
                raise InvalidInputError(f"item {item.id!r}", asked, f"at most {limit}, the model's length")
            self._prompts[item.context] = tokens
        return self._prompts[item.context]

    def _batches(self, items: Sequence[Item], prompts: Sequence[Tokens]) -> Iterator[list[int]]:
        """Places of items whose prompts have one padded length, in an order that depends on the items alone."""
        key = [(padded(len(p)), item.id, item.context) for item, p in zip(items, prompts, strict=True)]
        order = sorted(range(len(items)), key=key.__getitem__)
        for length, group in groupby(order, key=lambda place: key[place][0]):
            places = list(group)
            step = max(1, self.batch_tokens // (length + self.max_new_tokens))
            yield from (places[i : i + step] for i in range(0, len(places), step))

    def _generate(self, prompts: Sequence[Tokens]) -> list[str]:
        length = padded(max(map(len, prompts)))
        tokens = torch.full((len(prompts), length), self._pad, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for row, prompt in enumerate(prompts):  # on the left: answers start at the same column
            tokens[row, length - len(prompt) :] = torch.tensor(prompt)
            mask[row, length - len(prompt) :] = 1
        stop = [_LineEnd(self._newlines.to(self.device), self._blanks.to(self.device), length)]
        with torch.inference_mode():
            output = self.model.generate(  # type: ignore[operator]  # mixed in by transformers without a type
                input_ids=tokens.to(self.device),
                attention_mask=mask.to(self.device),
                generation_config=self._settings,
                logits_processor=LogitsProcessorList([_CheckFinite()]),
                stopping_criteria=StoppingCriteriaList(stop if self.stop_at_newline else []),
            )
        texts = self.tokenizer.batch_decode(output[:, length:], skip_special_tokens=True)
        return [self._first_line(text) if self.stop_at_newline else text for text in texts]

    def _first_line(self, text: str) -> str:
        return text.strip().split("\n", 1)[0] if text.strip() else ""

    def _length(self, answer: str) -> int:
        return len(self.tokenizer.encode(answer, add_special_tokens=False))

    @property
    def _pad(self) -> int:
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0):
            if isinstance(token, int):
                return token
        raise AssertionError("0 is an int")

    @cached_property
    def _settings(self) -> GenerationConfig:
        own = getattr(self.model, "generation_config", None)
        end = own.eos_token_id if own is not None and own.eos_token_id is not None else self.tokenizer.eos_token_id
        return GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=False, num_beams=1, max_new_tokens=self.max_new_tokens, pad_token_id=self._pad, eos_token_id=end
        )

    @cached_property
    def _pieces(self) -> list[str]:
        return [str(self.tokenizer.decode([token])) for token in range(len(self.tokenizer))]

    @cached_property
    def _newlines(self) -> Tensor:
        return torch.tensor([i for i, piece in enumerate(self._pieces) if "\n" in piece], dtype=torch.long)

    @cached_property
    def _blanks(self) -> Tensor:
        return torch.tensor([i for i, piece in enumerate(self._pieces) if not piece.strip()], dtype=torch.long)


class _LineEnd(StoppingCriteria):
    """A row is done when a line break follows something that is not blank."""

    def __init__(self, newlines: Tensor, blanks: Tensor, prompt_length: int) -> None:
        self.newlines, self.blanks, self.prompt_length = newlines, blanks, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        answer = input_ids[:, self.prompt_length :]
        started = (~torch.isin(answer, self.blanks)).any(dim=1)
        return started & torch.isin(answer[:, -1], self.newlines)


class _CheckFinite(LogitsProcessor):
    """The most likely of NaN logits is token 0, without a complaint: look before the choice."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if torch.isnan(scores).any() or torch.isposinf(scores).any():
            raise NonFiniteOutputError("the model's output is not finite while it answers")
        return scores


def matches_any(answer: str, references: Sequence[str]) -> bool:
    """Whether an answer equals one of the references after `normalise`."""
    return normalise(answer) in {normalise(reference) for reference in references}


def normalise(text: str) -> str:
    """Unicode NFKC, case folded, blanks collapsed, without quotes around and punctuation behind; signs stay.

    >>> normalise('  "The  Answer." '), normalise("-5."), normalise("６１")
    ('the answer', '-5', '61')
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"\s+", " ", folded).strip(" \"'`“”‘’").rstrip(" .,;:!?。、").strip(" \"'`“”‘’")
