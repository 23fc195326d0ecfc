"""vLLM against the plain decoder: the same answers, the same ends, and nothing left of earlier weights.

Needs vLLM, which `docs/scoring-generation.md` says how to install.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from evomerge.errors import EvomergeError, Failure, FailureReason
from fitness.generation import GenerationScorer, longest
from fitness.items import Answering, Item
from fitness.vllm_decoder import VllmDecoder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.filterwarnings("ignore"),  # its imports warn of what they themselves deprecate
]

BASE = Path("~/.cache/evomerge/smollm2-135m-instruct").expanduser()
SHAPE = {"head_dim": 32, "hidden_size": 128, "initializer_range": 0.1}
"""vLLM's attention on a CPU has no heads of fewer entries."""

HEAD = "Math: 91 + 70 = 161\nTom has 37 eggs.\n" * 6
WHOLE = Answering("continuation", max_new_tokens=12)
ITEMS = [
    *(Item(f"shot-{n}", f"{HEAD}Math: {n} + {n} =", answering=WHOLE) for n in range(6)),
    *(Item(f"bare-{n}", f"Tom has {n} eggs" * (n + 1), answering=WHOLE) for n in range(4)),
    Item("other", HEAD[100::-1] + "Math", answering=replace(WHOLE, max_new_tokens=5)),
]

MakeModel = Callable[..., PreTrainedModel]


@dataclass
class Changing:
    """A live model that a test changes."""

    model: PreTrainedModel
    version: int = 0
    on_path: bool = False
    without: str = ""

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self.model.named_parameters():
            if not self.without or self.without not in name:
                yield name, tensor

    def disturb(self, seed: int, size: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(size * torch.randn(parameter.shape, generator=generator))
        self.version += 1


def two(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], **changes: Any
) -> tuple[Changing, GenerationScorer, GenerationScorer]:
    """A live model, and scorers of it with vLLM and without."""
    live, length = Changing(model, **changes), longest(tokenizer, items)
    fast = GenerationScorer(model, tokenizer, engine=lambda plain: VllmDecoder(plain, live, length=length))
    return live, fast, GenerationScorer(model, tokenizer)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}), ("llama", {"tie_word_embeddings": True}), ("mistral", {}),
        ("qwen2", {"use_sliding_window": False}), ("qwen3", {}),
    ],
)  # fmt: skip
def test_answers_are_those_of_the_plain_decoder_under_any_weights(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase, family: str, changes: dict[str, Any]
) -> None:
    live, fast, plain = two(make_model(family, "sdpa", **SHAPE, **changes), tokenizer, ITEMS)
    said = []
    for seed in range(3):
        expected = plain.write(ITEMS)

        assert fast.write(ITEMS) == expected
        assert fast.write(ITEMS) == expected, "with beginnings that were read before"
        said.append([answer.text for answer in expected if not isinstance(expected, Failure)])
        live.disturb(seed, 0.05)
    assert said[0] != said[1] != said[2]


def test_answers_end_where_those_of_the_plain_decoder_end(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    model = make_model("llama", "sdpa", **SHAPE)
    whole = GenerationScorer(model, tokenizer).answers(ITEMS)
    assert isinstance(whole, list)
    stops = [text[len(text) // 2 :][:2] for text in whole]
    assert all(stops)
    asked = [replace(i, answering=replace(WHOLE, stop=(s,))) for i, s in zip(ITEMS, stops, strict=True)]
    asked += [replace(item, id=f"line-{item.id}", answering=None) for item in ITEMS]
    asked += [replace(item, id=f"cut-{item.id}", answering=replace(WHOLE, max_new_tokens=1)) for item in ITEMS]
    end = model.generation_config.eos_token_id
    with torch.inference_mode():
        first = int(model(torch.tensor([tokenizer.encode(ITEMS[0].context)])).logits[0, -1].argmax())
    model.generation_config.eos_token_id = [end, first]
    _, fast, plain = two(model, tokenizer, asked)
    expected = plain.write(asked)
    assert not isinstance(expected, Failure)
    found = fast.write(asked)

    assert found == expected
    assert any(answer.finished and answer.text for answer in expected[: len(ITEMS)]), "a stop"
    assert expected[0].num_tokens == 0, "a token that ends a sequence"
    assert expected[0].finished
    assert any(not answer.finished and answer.num_tokens == 1 for answer in expected[-len(ITEMS) :]), "cut"


def test_what_is_not_finite_is_a_failure_and_the_next_weights_mend_it(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    model = make_model("llama", "sdpa", **SHAPE)
    live, fast, plain = two(model, tokenizer, ITEMS)
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    before = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
    live.version += 1
    failure = fast.write(ITEMS)
    with torch.no_grad():
        weight.copy_(before)
    live.version += 1

    assert isinstance(failure, Failure)
    assert failure.reason is FailureReason.NON_FINITE
    assert fast.write(ITEMS) == plain.write(ITEMS)


@pytest.mark.parametrize("without", ["layers.1.self_attn.q_proj", "layers.0.mlp.down_proj", "embed_tokens"])
def test_weights_that_are_not_taken_over_are_noticed_at_the_start(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase, without: str
) -> None:
    model = make_model("llama", "sdpa", **SHAPE)

    with pytest.raises(EvomergeError, match="vLLM computes something else"):
        two(model, tokenizer, ITEMS, without=without)


def test_a_model_that_vllm_cannot_hold_is_an_error_that_says_so(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(EvomergeError, match="vLLM does not start with LlamaForCausalLM"):
        two(make_model("llama", "sdpa"), tokenizer, ITEMS)


@pytest.mark.skipif(not BASE.is_dir(), reason="the demo's base is not on this machine")
def test_a_real_model_and_a_merge_of_it_answer_as_without_vllm() -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(BASE, dtype="float32"), AutoTokenizer.from_pretrained(BASE)
    solved = "Tom has 3 eggs and sells 1. How many are left? 2\n\n" * 8
    asked = [
        *(Item(f"sum-{n}", f"{n} + {n + 7} =", answering=replace(WHOLE, max_new_tokens=24)) for n in range(4)),
        *(Item(f"shot-{n}", f"{solved}Ana has {n + 9} eggs and sells {n}. How many are left?") for n in range(4)),
    ]
    live, fast, plain = two(model, tokenizer, asked)
    expected = plain.answers(asked)

    assert fast.answers(asked) == expected
    live.disturb(0, 0.003)
    assert fast.answers(asked) == plain.answers(asked) != expected
