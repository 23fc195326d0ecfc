"""Generation items: greedy answers, and every metric that one answer allows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evomerge.errors import Failure, InvalidInputError
from fitness.answer_metrics import Answer, AnswerMetrics, Measure
from fitness.decoding import Decoder, GreedyDecoder, Prompt, Written
from fitness.encoding import Tokens, encode
from fitness.evaluator import Reference, Responses
from fitness.extract import first_line
from fitness.failures import failure_of
from fitness.items import Answering, Item
from fitness.loglikelihood import max_length, padded

Engine = Callable[[GreedyDecoder], Decoder]

PLAIN = Answering()
"""How items without `answering` are answered: with a first line."""

MAX_NEW_TOKENS = 32
"""An answer's most tokens, where nothing says."""


def longest(tokenizer: PreTrainedTokenizerBase, items: Iterable[Item], max_new_tokens: int = MAX_NEW_TOKENS) -> int:
    """Most tokens of an item's prompt and its answer; 0 without items."""
    return max(
        (
            len(encode(tokenizer, item.context)) + ((item.answering or PLAIN).max_new_tokens or max_new_tokens)
            for item in items
        ),
        default=0,
    )


class GenerationScorer:
    """Scores generation items with a live model, whose weights may change between calls.

    Args:
        model: a causal language model on `device`.
        tokenizer: the model's.
        batch_tokens: most tokens in one forward pass, see `fitness.decoding`.
        device: where the model is.
        max_new_tokens: an answer's most tokens, where its item does not say.
        measures: metrics that need more than the answer, by name: `code_passes`, `judge`.
        engine: makes of the plain decoder the one that writes the answers; none: it writes them itself.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_tokens: int = 2048,
        device: str | torch.device = "cpu",
        max_new_tokens: int = MAX_NEW_TOKENS,
        measures: Mapping[str, Measure] | None = None,
        engine: Engine | None = None,
    ) -> None:
        self.model = model
        self.model.train(False)
        self.tokenizer = tokenizer
        self.max_new_tokens = max_new_tokens
        self.metrics = AnswerMetrics(measures or {})
        self._prompts: dict[str, Tokens] = {}
        self._last: dict[str, frozenset[int]] = {}
        self._batch_tokens, self._device = batch_tokens, torch.device(device)
        self._engine = None if engine is None else engine(self._plain)

    def score(
        self,
        items: Sequence[Item],
        metrics: Sequence[str] | None = None,
        references: Mapping[str, Reference] | None = None,
    ) -> Responses | Failure:
        """Responses in the order asked: every cheap metric that all items allow, and those of `metrics` that cost
        something; or `non_finite`, `out_of_memory`.

        Args:
            references: not looked at here.

        Raises:
            InvalidInputError: prompt and answer do not fit into the model's length; a metric that items do not allow.
        """
        start = time.perf_counter()
        answers = self.write(items)
        if isinstance(answers, Failure):
            return answers
        values = self.metrics(items, answers, metrics or ())
        if isinstance(values, Failure):
            return values
        ids = tuple(item.id for item in items)
        return Responses(ids, values, time.perf_counter() - start, self.tokens(items, answers))

    def tokens(self, items: Sequence[Item], answers: Sequence[Answer]) -> int:
        """That went through the model for these answers."""
        return sum(padded(len(self.prompt(item))) for item in items) + sum(answer.num_tokens for answer in answers)

    def answers(self, items: Sequence[Item]) -> list[str] | Failure:
        """The text of each answer, see `write`."""
        found = self.write(items)
        return found if isinstance(found, Failure) else [answer.text for answer in found]

    def write(self, items: Sequence[Item]) -> list[Answer] | Failure:
        """The greedy answer to each item, without the prompt and from its first stop on."""
        prompts = [self._asked(item) for item in items]
        try:
            written = (self._engine or self._plain).write(prompts)
        except (RuntimeError, MemoryError, ArithmeticError) as error:
            failure = failure_of(error)
            if failure is None:
                raise
            return failure
        return [self._answer(item, one) for item, one in zip(items, written, strict=True)]

    def prompt(self, item: Item) -> Tokens:
        """The item's context in tokens; tokenised once."""
        if item.context not in self._prompts:
            tokens = encode(self.tokenizer, item.context)
            if not tokens:
                raise InvalidInputError(f"item {item.id!r} context", item.context, "a context with tokens")
            self._prompts[item.context] = tokens
        return self._prompts[item.context]

    def _asked(self, item: Item) -> Prompt:
        tokens, limit = self.prompt(item), max_length(self.model.config)
        most = (item.answering or PLAIN).max_new_tokens or self.max_new_tokens
        if limit is not None and len(tokens) + most > limit:
            asked = f"{len(tokens)} tokens and {most} of the answer"
            raise InvalidInputError(f"item {item.id!r}", asked, f"at most {limit}, the model's length")
        return Prompt(item.id, tokens, most, self._stopper(item.answering or PLAIN))

    def _stopper(self, answering: Answering) -> Callable[[list[int]], bool]:
        """Whether an answer of these tokens holds a stop. Text is made only after tokens that may end one."""
        line, stops = answering.extract == "first_line", answering.stop
        ends = [stop[-1] for stop in stops] + ["\n"] * line
        last = frozenset[int]().union(*(self._with(letter) for letter in ends))

        def stopped(tokens: list[int]) -> bool:
            if tokens[-1] not in last:
                return False
            text = self._text(tokens)
            return (line and "\n" in text.lstrip()) or any(stop in text for stop in stops)

        return stopped

    def _answer(self, item: Item, written: Written) -> Answer:
        answering, text = item.answering or PLAIN, self._text(list(written.tokens))
        for stop in answering.stop:
            text = text.split(stop, 1)[0]
        if answering.extract == "first_line":
            text = first_line(text)
        return Answer(text, len(written.tokens), written.finished)

    def _text(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def _with(self, letter: str) -> frozenset[int]:
        """Tokens after which a text may end with this letter: part of a letter in bytes counts, and a blank is not
        seen where a tokenizer takes it off a text's beginning."""
        if letter not in self._last:
            hidden = letter.isspace() and letter != "\n"
            found = (n for n, piece in enumerate(self._pieces) if hidden or letter in piece or "\ufffd" in piece)
            self._last[letter] = frozenset(found)
        return self._last[letter]

    @cached_property
    def _pieces(self) -> list[str]:
        return [str(self.tokenizer.decode([token])) for token in range(len(self.tokenizer))]

    @cached_property
    def _plain(self) -> GreedyDecoder:
        return GreedyDecoder(
            self.model, ends=self._ends, pad=self._pad, batch_tokens=self._batch_tokens, device=self._device
        )

    @property
    def _pad(self) -> int:
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0):
            if isinstance(token, int):
                return token
        raise AssertionError("0 is an int")

    @property
    def _ends(self) -> frozenset[int]:
        own = getattr(self.model, "generation_config", None)
        end = own.eos_token_id if own is not None and own.eos_token_id is not None else self.tokenizer.eos_token_id
        return frozenset(end if isinstance(end, list) else [] if end is None else [end])
