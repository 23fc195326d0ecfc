"""Batches against answers one by one: shared beginnings, rows that leave, widths, sliding windows, new weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evomerge.models.dataflow import DataFlow, Visit
from fitness import decoding
from fitness.decoding import BLOCK
from fitness.generation import GenerationScorer
from fitness.items import Answering, Item

MakeModel = Callable[..., PreTrainedModel]

HEAD = "Math: 91 + 70 = 161\nTom has 37 eggs.\n" * 6
WHOLE = Answering("continuation", max_new_tokens=12)
ITEMS = [
    *(Item(f"shot-{n}", f"{HEAD}Math: {n} + {n} =", answering=WHOLE) for n in range(6)),
    *(Item(f"bare-{n}", f"Tom has {n} eggs" * (n + 1), answering=WHOLE) for n in range(4)),
    Item("other", HEAD[100::-1] + "Math", answering=replace(WHOLE, max_new_tokens=5)),
]


def greedy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, item: Item) -> str:
    """One token after the other, no padding, no cache."""
    tokens = tokenizer.encode(item.context)
    start = len(tokens)
    assert item.answering is not None
    for _ in range(item.answering.max_new_tokens or 0):
        with torch.inference_mode():
            token = int(model(torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        tokens.append(token)
    return str(tokenizer.decode(tokens[start:]))


@pytest.mark.parametrize(
    ("family", "attention"),
    [
        ("llama", "eager"), ("llama", "sdpa"), ("mistral", "sdpa"), ("qwen2", "sdpa"), ("qwen3", "sdpa"),
        ("gemma2", "eager"), ("gpt2", "sdpa"), ("gpt_neox", "sdpa"),
    ],
)  # fmt: skip
def test_answers_are_those_of_a_plain_loop(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase, family: str, attention: str
) -> None:
    model = make_model(family, attention)
    scorer = GenerationScorer(model, tokenizer)
    expected = [greedy(model, tokenizer, item) for item in ITEMS]

    assert len(scorer.prompt(ITEMS[0])) > 2 * BLOCK  # more than one block is shared
    assert scorer.answers(ITEMS) == expected
    assert len(set(expected)) > 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_answers_do_not_depend_on_their_company(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype
) -> None:
    model = make_model("llama", "sdpa", dtype)
    scorer = GenerationScorer(model, tokenizer)
    together = scorer.answers(ITEMS)
    assert isinstance(together, list)

    assert scorer.answers(ITEMS[::-1]) == together[::-1]
    assert scorer.answers(ITEMS[::3]) == together[::3]
    assert [scorer.answers([item]) for item in ITEMS] == [[answer] for answer in together]
    assert GenerationScorer(model, tokenizer, batch_tokens=64).answers(ITEMS) == together


def test_shared_beginnings_are_read_once(make_model: MakeModel, tokenizer: PreTrainedTokenizerBase) -> None:
    model = make_model()
    read: list[int] = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    scorer = GenerationScorer(model, tokenizer, max_new_tokens=1)
    shots = [replace(item, answering=Answering("continuation", max_new_tokens=1)) for item in ITEMS[:6]]
    scorer.answers(shots)
    once = sum(read)
    read.clear()
    scorer.answers(shots[:1])

    assert once < 2 * sum(read)  # six prompts for less than the price of two
    assert max(read) >= BLOCK


def test_rows_that_are_done_leave(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that goes on is not worth the steps of those that ended."""
    model = make_model()
    rows: list[int] = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    long = Item("long", "Tom has 1", answering=Answering("continuation", max_new_tokens=12))
    scorer = GenerationScorer(model, tokenizer)
    assert scorer.answers([long]) != [""]
    first = greedy(model, tokenizer, replace(long, answering=Answering("continuation", max_new_tokens=1)))
    short = [replace(long, id=str(n), answering=replace(WHOLE, stop=(first,))) for n in range(15)]
    expected = [greedy(model, tokenizer, long), *[""] * 15]
    rows.clear()

    assert scorer.answers([long, *short]) == expected
    assert rows == [16, *[decoding.LEAST_ROWS] * 11]


def test_weights_that_changed_are_seen(make_model: MakeModel, tokenizer: PreTrainedTokenizerBase) -> None:
    model, other = make_model(), make_model("llama", initializer_range=0.5)
    scorer = GenerationScorer(model, tokenizer)
    before = scorer.answers(ITEMS)
    with torch.no_grad():
        for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
            mine.copy_(theirs)

    assert scorer.answers(ITEMS) == [greedy(other, tokenizer, item) for item in ITEMS]
    assert scorer.answers(ITEMS) != before


def test_layers_that_are_visited_twice_keep_two_caches(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    model = make_model("qwen2", use_sliding_window=False)
    flow = DataFlow(model)
    flow.follow([Visit(flow.own, n, scale) for n, scale in ((0, 1.0), (1, 0.9), (1, 1.0), (0, 0.8))], "stream")

    assert GenerationScorer(model, tokenizer).answers(ITEMS) == [greedy(model, tokenizer, item) for item in ITEMS]


def test_answers_end_at_their_stops_which_do_not_belong_to_them(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    model = make_model()
    scorer = GenerationScorer(model, tokenizer)
    full = greedy(model, tokenizer, ITEMS[0])
    places = [n for n in range(1, len(full)) if full[n : n + 2].isprintable() and full.count(full[n : n + 2]) == 1]
    stop = full[places[len(places) // 2] :][:2]
    [stopped] = scorer.write([replace(ITEMS[0], answering=replace(WHOLE, stop=("never", stop)))])  # type: ignore[misc]
    [whole] = scorer.write(ITEMS[:1])  # type: ignore[misc]

    assert stopped.text == full.split(stop)[0]
    assert (stopped.finished, whole.finished) == (True, False)
    assert stopped.num_tokens < whole.num_tokens == WHOLE.max_new_tokens
