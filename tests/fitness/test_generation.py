"""Generated answers against a plain greedy loop, and what counts as the same answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evomerge.errors import Failure, FailureReason, InvalidInputError
from fitness.answers import exact_match, normalise
from fitness.evaluator import Responses
from fitness.generation import GenerationScorer
from fitness.items import Answering, Item
from fitness.scorer import make_scorer

MakeModel = Callable[..., PreTrainedModel]

PROMPTS = ("Q: Which city", "Tom has 37 eggs", "Japanese: 九十一 足す 七十 " * 2, "1")
ITEMS = [Item(f"g{n}", prompt, references=("x",)) for n, prompt in enumerate(PROMPTS)]
WHOLE = [replace(item, answering=Answering("whole")) for item in ITEMS]


def plain(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, count: int) -> str:
    """One token after the other, one prompt, no padding, no cache."""
    tokens = tokenizer.encode(prompt)
    start = len(tokens)
    for _ in range(count):
        with torch.inference_mode():
            token = int(model(torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        tokens.append(token)
    return str(tokenizer.decode(tokens[start:]))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "qwen2"])
def test_answers_equal_a_plain_greedy_loop(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase, family: str
) -> None:
    model = make_model(family)
    scorer = GenerationScorer(model, tokenizer, max_new_tokens=6)
    expected = [plain(model, tokenizer, prompt, 6) for prompt in PROMPTS]

    assert scorer.answers(WHOLE) == expected
    assert len(set(expected)) > 1


def test_an_exact_match_is_one_and_the_order_is_kept(make_model: MakeModel, tokenizer: PreTrainedTokenizerBase) -> None:
    model = make_model()
    first = GenerationScorer(model, tokenizer, max_new_tokens=6).answers(ITEMS)
    assert not isinstance(first, Failure)
    items = [
        Item("right", PROMPTS[0], references=("no", f" {first[0]} ")),
        Item("wrong", PROMPTS[1], references=("no",)),
    ]
    scorer = make_scorer(model, tokenizer, max_new_tokens=6)
    there, back = scorer.score(items), scorer.score(items[::-1])
    assert isinstance(there, Responses)
    assert isinstance(back, Responses)

    assert (there.item_ids, there.values["exact_match"]) == (("right", "wrong"), (1.0, 0.0))
    assert (back.item_ids, back.values["exact_match"]) == (("wrong", "right"), (0.0, 1.0))


def test_an_answer_ends_with_its_first_line(make_model: MakeModel, tokenizer: PreTrainedTokenizerBase) -> None:
    model = make_model()
    newline = tokenizer.encode("\n")[0]
    steps = []
    with torch.no_grad():  # a model that says nothing but line breaks after its first token
        head = model.get_output_embeddings()
        head.bias = torch.nn.Parameter(torch.zeros(head.weight.shape[0]))
        model.register_forward_pre_hook(
            lambda *_: (steps.append(1), head.bias.__setitem__(newline, 1e4 if len(steps) > 2 else -1e4))[-1]
        )
        answers = GenerationScorer(model, tokenizer, max_new_tokens=20).answers(ITEMS[:1])

    assert not isinstance(answers, Failure)
    assert "\n" not in answers[0]
    assert len(steps) == 3


def test_nan_weights_are_a_failure(make_model: MakeModel, tokenizer: PreTrainedTokenizerBase) -> None:
    model = make_model()
    with torch.no_grad():
        next(iter(model.base_model.parameters())).fill_(float("nan"))
    failure = make_scorer(model, tokenizer).score(ITEMS)

    assert isinstance(failure, Failure)
    assert failure.reason is FailureReason.NON_FINITE


def test_a_prompt_without_room_for_an_answer_is_an_error(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(InvalidInputError, match=r"'long'.*at most 256"):
        make_scorer(make_model(), tokenizer).score([Item("long", "九" * 300, references=("1",))])


def test_items_of_both_kinds_in_one_call_are_an_error(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    scorer = make_scorer(make_model(), tokenizer)

    with pytest.raises(InvalidInputError, match="generation item like the others"):
        scorer.score([*ITEMS, Item("choice", "c", (" a", " b"), 0)])
    assert scorer.score([]) == Responses((), {}, 0.0, 0)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [(" Paris.", "paris"), ("６１", "61"), ('"The  Answer"', "the answer"), ("61。", "61"), ("-5.", "-5")],
)
def test_what_counts_as_the_same_answer(answer: str, reference: str) -> None:
    assert exact_match(answer, ["other", reference])
    assert normalise(normalise(answer)) == normalise(answer)


@pytest.mark.parametrize(("answer", "reference"), [("-5", "5"), ("1.5", "15"), ("Paris, France", "Paris"), ("", "x")])
def test_what_does_not(answer: str, reference: str) -> None:
    assert not exact_match(answer, [reference])
