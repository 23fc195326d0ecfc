"""Choice scoring against one plain forward pass a choice, order, batches and failures."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from evomerge.errors import ArchitectureError, Failure, FailureReason, InvalidInputError
from fitness.encoding import encode_choices
from fitness.evaluator import Responses
from fitness.items import Item
from fitness.loglikelihood import ChoiceScorer, choice_metrics, padded

MakeModel = Callable[..., PreTrainedModel]
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gpt2", "gpt_neox")
VARIANTS = [(f, a) for f in FAMILIES for a in ("eager", "sdpa") if (f, a) != ("gemma2", "sdpa")]  # it has eager only


def plain(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, item: Item) -> list[float]:
    """One unpadded forward pass a choice, with the model's own mask, positions and head."""
    context, choices = encode_choices(tokenizer, item)
    found = []
    for choice in choices:
        tokens = torch.tensor([context + choice])
        with torch.inference_mode():
            logits = model(tokens[:, :-1]).logits[0, len(context) - 1 :]
        chosen = torch.log_softmax(logits.float(), dim=-1).gather(1, torch.tensor(choice)[:, None])
        found.append(float(chosen.double().sum()))
    return found


def scored(scorer: ChoiceScorer, items: Sequence[Item]) -> list[tuple[float, ...]]:
    found = scorer.log_likelihoods(items)
    assert not isinstance(found, Failure), found
    return found


@pytest.mark.parametrize(("family", "attention"), VARIANTS)
def test_equals_one_forward_pass_a_choice(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], family: str, attention: str
) -> None:
    model = make_model(family, attention)
    found = scored(ChoiceScorer(model, tokenizer, batch_tokens=256), items)

    for item, scores in zip(items, found, strict=True):
        assert scores == pytest.approx(plain(model, tokenizer, item), abs=1e-4), item.id


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_order_of_the_items_changes_nothing(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], dtype: torch.dtype
) -> None:
    scorer = ChoiceScorer(make_model(dtype=dtype), tokenizer, batch_tokens=256)
    straight = dict(zip([i.id for i in items], scored(scorer, items), strict=True))
    shuffled = random.Random(1).sample(list(items), len(items))

    assert dict(zip([i.id for i in shuffled], scored(scorer, shuffled), strict=True)) == straight


@pytest.mark.parametrize("batch_tokens", [1, 100, 4096])
def test_other_items_and_the_batch_size_do_not_matter(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], batch_tokens: int
) -> None:
    model = make_model()
    together = scored(ChoiceScorer(model, tokenizer, batch_tokens=batch_tokens), items)
    alone = [scored(ChoiceScorer(model, tokenizer), [item])[0] for item in items]

    for left, right in zip(together, alone, strict=True):
        assert left == pytest.approx(right, abs=1e-5)


def test_new_weights_in_place_give_new_scores(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]
) -> None:
    model = make_model()
    scorer = ChoiceScorer(model, tokenizer)
    before = scored(scorer, items)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.5)
    after = scored(scorer, items)

    assert before != after
    assert after[0] == pytest.approx(plain(model, tokenizer, items[0]), abs=1e-4)


def test_the_vocabulary_may_need_several_rounds_of_the_head(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    whole = scored(ChoiceScorer(model, tokenizer), items)
    monkeypatch.setattr("fitness.reading.HEAD_ELEMENTS", 1)

    assert np.concatenate(scored(ChoiceScorer(model, tokenizer), items)) == pytest.approx(
        np.concatenate(whole), abs=1e-5
    )


def test_score_reports_every_metric_in_the_order_asked(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]
) -> None:
    scorer = ChoiceScorer(make_model(), tokenizer)
    responses = scorer.score(items)
    assert isinstance(responses, Responses)

    assert responses.item_ids == tuple(i.id for i in items)
    assert set(responses.values) == {
        "accuracy",
        "accuracy_norm",
        "accuracy_bytes",
        "choice_probability",
        "log_likelihood",
        "margin",
    }
    for item, scores, found in zip(items, scored(scorer, items), responses.values["log_likelihood"], strict=True):
        assert item.label is not None
        assert found == scores[item.label]
    assert responses.tokens >= sum(len(scorer.tree(i)) for i in items)


@given(st.lists(st.floats(-50, 0), min_size=2, max_size=6), st.data())
def test_metrics_of_an_item_agree_with_each_other(scores: list[float], data: st.DataObject) -> None:
    label = data.draw(st.integers(0, len(scores) - 1))
    item = Item("i", "c", tuple(f" {'x' * n}" for n in range(1, len(scores) + 1)), label)
    found = choice_metrics(item, scores)

    assert 0 <= found["choice_probability"] <= 1
    assert found["accuracy"] == 1 or found["margin"] <= 0
    assert found["accuracy"] == 0 or found["margin"] >= 0
    assert found["log_likelihood"] == scores[label]


def test_of_equal_choices_the_first_is_the_answer() -> None:
    item = Item("i", "c", (" a", " b", " c"), 1)

    assert choice_metrics(item, [-2.0, -1.0, -1.0])["accuracy"] == 1
    assert choice_metrics(item, [-1.0, -1.0, -2.0])["accuracy"] == 0


def test_nan_weights_are_a_failure_that_names_an_item(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]
) -> None:
    model = make_model()
    with torch.no_grad():
        next(iter(model.base_model.parameters())).fill_(float("nan"))
    failure = ChoiceScorer(model, tokenizer).score(items)

    assert isinstance(failure, Failure)
    assert failure.reason is FailureReason.NON_FINITE
    assert any(item.id in failure.message for item in items)


def test_memory_that_is_not_there_is_a_failure(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]
) -> None:
    model = make_model()
    model.base_model.register_forward_hook(lambda *_: torch.empty(1 << 55))  # torch's own allocator refuses
    failure = ChoiceScorer(model, tokenizer).score(items)

    assert isinstance(failure, Failure)
    assert failure.reason is FailureReason.OUT_OF_MEMORY
    assert "batch_tokens" in failure.message


def test_other_errors_of_torch_are_not_hidden(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]
) -> None:
    model = make_model()
    model.base_model.register_forward_hook(lambda *_: torch.ones(2) @ torch.ones(3))

    with pytest.raises(RuntimeError, match="size"):
        ChoiceScorer(model, tokenizer).score(items)


def test_an_item_longer_than_the_model_is_an_error(make_model: MakeModel, tokenizer: PreTrainedTokenizerBase) -> None:
    long = Item("long", "九" * 300, (" 1", " 2"), 0)

    with pytest.raises(InvalidInputError, match=r"'long'.*at most 256"):
        ChoiceScorer(make_model(), tokenizer).score([long])


def test_attention_without_masks_is_refused(make_model: MakeModel, tokenizer: PreTrainedTokenizerBase) -> None:
    model = make_model()
    model.config._attn_implementation = "flash_attention_2"

    with pytest.raises(ArchitectureError, match="flash_attention_2"):
        ChoiceScorer(model, tokenizer)


def test_a_choice_without_a_token_of_its_own_is_an_error() -> None:
    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    item = Item("i", "capit", ("al", " of"), 0)

    with pytest.raises(InvalidInputError, match="'i' choices: got 'al'"):
        encode_choices(PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]"), item)


def test_an_all_blank_context_starts_with_the_first_token(tokenizer: PreTrainedTokenizerBase) -> None:
    context, choices = encode_choices(tokenizer, Item("i", " ", ("a", "b"), 0))

    assert context == (0,)
    assert tokenizer.decode(choices[0]) == " a"


@given(st.integers(1, 100_000))
def test_padding_is_small_and_stable(length: int) -> None:
    assert padded(length) % 8 == 0
    assert length <= padded(length) <= max(length + 7, length * 1.125)
    assert padded(padded(length)) == padded(length)
