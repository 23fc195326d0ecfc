"""One scorer for every kind of item."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evomerge.errors import Failure, InvalidInputError
from fitness.answer_metrics import Measure, extracted
from fitness.answers import normalise
from fitness.evaluator import Metric, Reference, Responses
from fitness.first_token import FirstTokenScorer
from fitness.generation import MAX_NEW_TOKENS, Engine, GenerationScorer
from fitness.harness.answers import JudgedAnswers, check_documents, is_judged
from fitness.items import Item
from fitness.label_free import log_shares
from fitness.loglikelihood import ChoiceScorer, wanted_metrics
from fitness.metrics import common_kind, metric
from fitness.text import TextScorer


class ItemScorer:
    """Items go to the scorer of their kind; a call holds items of one kind.

    Args:
        choice: its way to read the model serves texts and first tokens, too.

    Raises (from `score` and `answers`):
        InvalidInputError: items of several kinds in one call.
    """

    def __init__(self, choice: ChoiceScorer, generation: GenerationScorer) -> None:
        self.choice = choice
        self.generation = generation
        self.text = TextScorer(choice.reader, choice.tokenizer)
        self.first = FirstTokenScorer(choice.reader, choice.tokenizer)
        self.judged = JudgedAnswers()

    def expect(self, items: Sequence[Item]) -> None:
        """Items of which some will be asked, see `ChoiceScorer.expect`."""
        self.choice.expect(items)

    def score(
        self,
        items: Sequence[Item],
        metrics: Sequence[Metric] | None = None,
        references: Mapping[str, Reference] | None = None,
    ) -> Responses | Failure:
        """Responses to items of one kind, in the order asked; without items, none. See `Scorer`."""
        if not items:
            return Responses((), {}, 0.0, 0)
        judged, kind = tuple(name for name in metrics or () if is_judged(name)), common_kind(items)
        if judged:
            check_documents(items, judged)
            own = tuple(name for name in metrics or () if name not in judged)
            score = self._score_judged_choices if kind == "choice" else self._score_judged_texts
            return score(items, own, judged, references)
        if kind == "choice":
            return self.choice.score(items, metrics, references)
        if kind == "text":
            return self.text.score(items, metrics, references)
        return self._score_generation(items, metrics, references)

    def answers(self, items: Sequence[Item]) -> dict[str, Reference] | Failure:
        """Item id → the answer as a distribution: what other models are compared with where this one owns the item.

        Raises:
            ValueError: running text, which has no answer.
        """
        kind = common_kind(items)
        if kind == "text":
            raise ValueError("running text has no answer to compare with")
        if kind == "choice":
            scores = self.choice.log_likelihoods(items)
            found = scores if isinstance(scores, Failure) else [log_shares(each) for each in scores]
        else:
            found = self.first.answers(items)
        return found if isinstance(found, Failure) else {i.id: a for i, a in zip(items, found, strict=True)}

    def said(self, items: Sequence[Item]) -> list[object] | Failure:
        """What the model answers, as values that are equal where two models say the same: the most likely choice (of
        equals the first), or the extracted answer after normalisation.

        Raises:
            InvalidInputError: running text, which has no answer.
        """
        if common_kind(items) == "text":
            raise InvalidInputError(f"item {items[0].id}", "running text", "an item with an answer")
        if common_kind(items) == "choice":
            scores = self.choice.log_likelihoods(items)
            return scores if isinstance(scores, Failure) else [max(range(len(s)), key=s.__getitem__) for s in scores]
        written = self.generation.write(items)
        if isinstance(written, Failure):
            return written
        return [normalise(extracted(item, answer)) for item, answer in zip(items, written, strict=True)]

    def _score_generation(
        self, items: Sequence[Item], metrics: Sequence[Metric] | None, references: Mapping[str, Reference] | None
    ) -> Responses | Failure:
        """Answers are written only where a metric looks at them."""
        begun = tuple(name for name in metrics or () if metric(name).kind == "choice")
        written = None if metrics is None else tuple(name for name in metrics if name not in begun)
        parts: list[Responses] = []
        for scorer, wanted in ((self.first, begun), (self.generation, written)):
            if wanted or wanted is None:
                outcome = scorer.score(items, wanted, references)
                if isinstance(outcome, Failure):
                    return outcome
                parts.append(outcome)
        return _together(parts)

    def _score_judged_choices(
        self,
        items: Sequence[Item],
        own: Sequence[Metric],
        judged: Sequence[Metric],
        references: Mapping[str, Reference] | None,
    ) -> Responses | Failure:
        """What tasks' own code says and what we say of the same log-likelihoods."""
        start, read = time.perf_counter(), self.choice.reader.tokens
        scores = self.choice.log_likelihoods(items)
        if isinstance(scores, Failure):
            return scores
        ours = self.choice.values(items, scores, wanted_metrics(items, own), references) if own else {}
        if isinstance(ours, Failure):
            return ours
        values = self.judged.values(items, judged, scores) | ours
        ids = tuple(item.id for item in items)
        return Responses(ids, values, time.perf_counter() - start, self.choice.reader.tokens - read)

    def _score_judged_texts(
        self,
        items: Sequence[Item],
        own: Sequence[Metric],
        judged: Sequence[Metric],
        references: Mapping[str, Reference] | None,
    ) -> Responses | Failure:
        """What tasks' own code says and what we say of the same written answers."""
        start = time.perf_counter()
        begun = tuple(name for name in own if metric(name).kind == "choice")
        written = tuple(name for name in own if name not in begun)
        answers = self.generation.write(items)
        if isinstance(answers, Failure):
            return answers
        ours = self.generation.metrics(items, answers, written) if written else {}
        if isinstance(ours, Failure):
            return ours
        values = self.judged.values(items, judged, [[answer.text] for answer in answers]) | ours
        tokens = self.generation.tokens(items, answers)
        found = Responses(tuple(item.id for item in items), values, time.perf_counter() - start, tokens)
        first = self.first.score(items, begun, references) if begun else None
        return first if isinstance(first, Failure) else _together([found, *([first] if first else [])])


def _together(parts: Sequence[Responses]) -> Responses:
    """Responses of the same items by different metrics."""
    values = {name: answers for part in parts for name, answers in part.values.items()}
    return Responses(parts[0].item_ids, values, sum(p.seconds for p in parts), sum(p.tokens for p in parts))


def make_scorer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_tokens: int = 2048,
    device: str | torch.device = "cpu",
    max_new_tokens: int = MAX_NEW_TOKENS,
    measures: Mapping[str, Measure] | None = None,
    engine: Engine | None = None,
) -> ItemScorer:
    """A scorer of all kinds of items for a live model, whose weights may change between calls.

    Args:
        batch_tokens: most tokens in one forward pass.
        device: where the model is.
        max_new_tokens: of a generation item's answer, where the item does not say.
        measures: metrics of generated answers that need more than the answer, see `GenerationScorer`.
        engine: what writes answers in the place of the plain decoder, see `GenerationScorer`.
    """
    return ItemScorer(
        ChoiceScorer(model, tokenizer, batch_tokens=batch_tokens, device=device),
        GenerationScorer(
            model,
            tokenizer,
            batch_tokens=batch_tokens,
            device=device,
            max_new_tokens=max_new_tokens,
            measures=measures,
            engine=engine,
        ),
    )
