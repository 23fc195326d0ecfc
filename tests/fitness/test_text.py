"""Running text against plain forward passes, in windows, and its means."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from evomerge.errors import Failure, FailureReason, InvalidInputError
from fitness.encoding import encode
from fitness.evaluator import Responses
from fitness.items import Item
from fitness.scorer import make_scorer
from fitness.text import _windows, size, weighted
from tests.fitness.test_loglikelihood import MakeModel

TEXTS = [
    Item("long", "", text="Tom has 37 eggs and sells 15. Now Tom has 22. " * 5),
    Item("short", "", text="九十一 足す 七十"),
    Item("behind", "Q: Which city is the capital of France?\nA:", text=" Paris"),
]


def answered(scorer, items, *metrics) -> Responses:
    found = scorer.score(items, metrics)
    assert isinstance(found, Responses), found
    return found


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_log_likelihoods_are_those_of_plain_forward_passes(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase, family: str
) -> None:
    model = make_model(family, "sdpa")
    values = answered(make_scorer(model, tokenizer), TEXTS).values
    for n, item in enumerate(TEXTS):
        context = encode(tokenizer, item.context) or (0,)
        tokens = torch.tensor([[*context, *encode(tokenizer, item.text)]])
        with torch.inference_mode():
            logits = torch.log_softmax(model(tokens[:, :-1]).logits[0, len(context) - 1 :].float(), -1)
        own = float(logits.gather(1, tokens[0, len(context) :, None]).double().sum())

        assert values["log_likelihood"][n] == pytest.approx(own, abs=2e-3)
        assert values["bits_per_byte"][n] == pytest.approx(-own / math.log(2) / len(item.text.encode()), rel=1e-4)
        assert values["nats_per_word"][n] == pytest.approx(-own / len(item.text.split(" ")), rel=1e-4)
        assert values["nats_per_token"][n] == pytest.approx(-own / (tokens.shape[1] - len(context)), rel=1e-4)


def test_weighted_means_are_the_values_of_the_corpus(make_model: MakeModel, tokenizer: PreTrainedTokenizerBase) -> None:
    items = weighted(TEXTS)
    found = answered(make_scorer(make_model(), tokenizer), items).values
    total = sum(item.weight for item in items)
    mean = sum(i.weight * v for i, v in zip(items, found["bits_per_byte"], strict=True)) / total

    assert total == sum(size(item.text, "bytes") for item in TEXTS)
    assert mean == pytest.approx(-sum(found["log_likelihood"]) / math.log(2) / total)


@given(st.integers(1, 40), st.integers(1, 5), st.integers(5, 12))
def test_windows_predict_every_token_once_and_fit(length: int, before: int, limit: int) -> None:
    context, text = tuple(range(before)), tuple(range(before, before + length))
    windows = _windows(context, text, limit)

    assert tuple(token for _, [new] in windows for token in new) == text
    for read, [new] in windows:
        assert len(read) + len(new) - 1 <= limit
        assert new[0] == read[-1] + 1  # nothing is left out in between
    assert all(len(read) + len(new) - 1 == limit for read, [new] in windows[1:])


def test_bad_texts_are_named(make_model: MakeModel, tokenizer: PreTrainedTokenizerBase) -> None:
    scorer = make_scorer(make_model(), tokenizer)

    with pytest.raises(InvalidInputError, match=r"'behind' context.*at most 256"):
        scorer.score([replace(TEXTS[2], context="九" * 300)])
    with pytest.raises(ValueError, match="no answer"):
        scorer.answers(TEXTS)


def test_a_model_that_is_not_finite_is_a_failure(make_model: MakeModel, tokenizer: PreTrainedTokenizerBase) -> None:
    model = make_model()
    with torch.no_grad():
        next(iter(model.base_model.parameters())).fill_(float("nan"))
    failure = make_scorer(model, tokenizer).score(TEXTS)

    assert isinstance(failure, Failure)
    assert failure.reason is FailureReason.NON_FINITE


def test_a_text_is_greedy_where_every_token_is_the_likeliest(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    model, contexts = make_model(), [f"Tom has {n} eggs" for n in range(20)]
    items, wanted = [], []
    for context in contexts:
        tokens = encode(tokenizer, context)
        best = int(model(torch.tensor([tokens])).logits[0, -1].argmax())
        for text in (tokenizer.decode([best]), " x"):
            items.append(Item(f"{context}{text}", context, text=text))
            wanted.append(float(encode(tokenizer, context + text)[len(tokens) :] == (best,)))
    scorer = make_scorer(model, tokenizer)

    assert list(answered(scorer, items, "greedy").values["greedy"]) == wanted
    assert set(wanted) == {0.0, 1.0}
    assert "greedy" not in answered(scorer, items).values
