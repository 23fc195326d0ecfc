"""Beginnings that items share are read once, and change nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evomerge.errors import Failure
from evomerge.models.dataflow import DataFlow, Visit
from fitness.items import Item
from fitness.loglikelihood import ChoiceScorer
from fitness.prefixes import GROUP_COST, LEAST_CHARACTERS, LEAST_SHARED, Beginnings, common_beginnings
from fitness.tree import common_length
from tests.fitness.test_loglikelihood import VARIANTS, MakeModel, plain, scored

SHOTS = "Tom has 37 eggs and sells 15. Now Tom has 22\n\nQ: Which city is the capital of France?\nA: Paris\n\n" * 2


def with_shots(items: Sequence[Item]) -> list[Item]:
    return [replace(item, context=SHOTS + item.context) for item in items]


@pytest.mark.parametrize(
    ("family", "attention"), [v for v in VARIANTS if v[1] == "sdpa" or v[0] in ("gemma2", "llama")]
)
def test_numbers_are_those_of_one_forward_pass_a_choice_and_examples_are_read_once(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], family: str, attention: str
) -> None:
    model, asked = make_model(family, attention), with_shots(items)[::2]
    alone, sharing = ChoiceScorer(model, tokenizer), ChoiceScorer(model, tokenizer)
    sharing.expect(asked)
    apart, together = scored(alone, asked), scored(sharing, asked)

    assert len(sharing.reader.beginnings.known) == 1
    assert sharing.reader.tokens < 0.6 * alone.reader.tokens
    for item, scores, others in zip(asked, together, apart, strict=True):
        assert scores == pytest.approx(others, abs=1e-4), item.id
    assert together[-1] == pytest.approx(plain(model, tokenizer, asked[-1]), abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_else_is_asked_does_not_matter(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], dtype: torch.dtype
) -> None:
    asked = with_shots(items)
    scorer = ChoiceScorer(make_model(attention="sdpa", dtype=dtype), tokenizer)
    scorer.expect(asked)
    together = scored(scorer, asked)

    assert scored(scorer, asked[::-1])[::-1] == together
    for item, scores in zip(asked[::4], together[::4], strict=True):
        assert scored(scorer, [item])[0] == pytest.approx(scores, abs=1e-5 if dtype == torch.float32 else 0.1)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_paths_through_layers_share_beginnings_too(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], family: str
) -> None:
    model, asked = make_model(family), with_shots(items)[:6]
    flow = DataFlow(model)
    flow.follow([Visit(flow.own, layer, scale) for layer, scale in ((0, 1.0), (1, 0.9), (0, 1.1), (1, 1.0))], "stream")
    alone, sharing = ChoiceScorer(model, tokenizer), ChoiceScorer(model, tokenizer)
    sharing.expect(asked)

    assert np.concatenate(scored(sharing, asked)) == pytest.approx(np.concatenate(scored(alone, asked)), abs=1e-3)
    assert sharing.reader.tokens < 0.6 * alone.reader.tokens


def test_new_weights_give_new_beginnings(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]
) -> None:
    model, asked = make_model(), with_shots(items)[:3]
    scorer = ChoiceScorer(model, tokenizer)
    scorer.expect(asked)
    scored(scorer, asked)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.5)

    assert scored(scorer, asked)[0] == pytest.approx(plain(model, tokenizer, asked[0]), abs=1e-4)


def test_models_that_keep_something_else_are_read_as_before(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]
) -> None:
    model, asked = make_model(), with_shots(items)[:4]
    apart = scored(ChoiceScorer(model, tokenizer), asked)
    scorer = ChoiceScorer(model, tokenizer)
    scorer.expect(asked)
    inner = model.base_model
    forward = inner.forward
    inner.forward = lambda *a, **k: forward(*a, **(k | {"past_key_values": None}))  # as a model without such a cache

    assert scored(scorer, asked) == apart
    assert scored(scorer, asked) == apart


words = st.lists(st.sampled_from(["ab" * 40, "ac" * 50, "d" * 300, "e"]), max_size=4).map("".join)


def saved(texts: Sequence[str], cuts: Sequence[int]) -> float:
    """Characters saved by the stretches of texts in lexical order that are cut there."""
    total = 0.0
    for first, end in pairwise([0, *cuts, len(texts)]):
        shared = min((common_length(a, b) for a, b in pairwise(texts[first:end])), default=0)
        if end - first > 1:
            total += (end - first - 1) * shared - GROUP_COST if shared >= LEAST_CHARACTERS else -np.inf
    return total


@given(st.lists(words, min_size=1, max_size=7))
def test_no_other_groups_save_more(texts: list[str]) -> None:
    ordered = sorted(texts)
    best = max(saved(ordered, cuts) for n in range(len(texts)) for cuts in combinations(range(1, len(texts)), n))
    beginnings = common_beginnings(texts)
    having = [[text for text in ordered if text.startswith(beginning)] for beginning in beginnings]

    assert bool(beginnings) == (best > 0)
    assert all(
        len(beginning) >= LEAST_CHARACTERS and len(some) > 1 for beginning, some in zip(beginnings, having, strict=True)
    )
    if len(beginnings) == 1:  # then the texts that have it are a stretch
        assert (len(having[0]) - 1) * len(beginnings[0]) - GROUP_COST >= best


def test_the_nearest_beginning_is_taken() -> None:
    known = Beginnings()
    long = tuple(range(60))
    for tokens in (long[:20], long[:40], (7, *range(100, 120)), (1,) * (LEAST_SHARED - 1)):
        known.add(tokens)

    def nearest(tokens: tuple[int, ...]) -> int:
        return max(common_length(tokens, one) for one in known.known)

    assert len(known.known) == 3
    for tokens in (long, long[:30], (7, *range(100, 110), 5, 5, 5, 5, 5, 5, 5), (*long[:25], 99)):
        found = known.of(tokens)
        assert (found[1] if found else 0) == (nearest(tokens) if nearest(tokens) >= LEAST_SHARED else 0)
    assert known.of((3, 4, 5)) is None


def test_choices_with_contexts_of_their_own_are_a_forest(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    model = make_model("mistral", "sdpa")
    found = [
        Item("shared", "", (" 161", " 161"), 0, contexts=("Tom has 37 eggs", "Tom has 37 tickets")),
        Item("nothing", "", (" Paris", " 22", " 2"), 1, contexts=("Q: Which city", "A:", "Q")),
        Item("inside", "", (" has 37", " sells"), 1, contexts=("Tom", "Tom has")),
    ]
    scores = scored(ChoiceScorer(model, tokenizer), found)

    for item, own in zip(found, scores, strict=True):
        for context, choice, score in zip(item.contexts, item.choices, own, strict=True):
            single = Item(item.id, context, (choice, " x"), 0)
            assert score == pytest.approx(plain(model, tokenizer, single)[0], abs=1e-4)


def test_failures_in_beginnings_are_failures(
    make_model: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]
) -> None:
    model, asked = make_model(), with_shots(items)
    scorer = ChoiceScorer(model, tokenizer)
    scorer.expect(asked)
    with torch.no_grad():
        next(iter(model.base_model.parameters())).fill_(np.nan)

    assert isinstance(scorer.log_likelihoods(asked), Failure)
