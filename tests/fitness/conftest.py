"""Tiny real models of several families, and a real tokenizer made on the spot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from fitness.items import Item

torch.set_num_threads(1)  # tiny products gain nothing from more, and lose much on a busy machine

CORPUS = [
    "Japanese: 九十一 足す 七十\nMath: 91 + 70 = 161",
    "Q: Which city is the capital of France?\nA: Paris",
    "Tom has 37 eggs and sells 15. Now Tom has 22",
    "Spanish: Ana tiene 18 boletos y recibe 93.\nEnglish: Ana has 18 tickets and gets 93.",
] * 4

COMMON = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "head_dim": 8, "bos_token_id": 0, "eos_token_id": 0,
    "pad_token_id": 0, "initializer_range": 0.3,
}  # fmt: skip

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": COMMON | {"model_type": "llama"},
    "mistral": COMMON | {"model_type": "mistral", "sliding_window": 12},
    "qwen2": COMMON | {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1},
    "qwen3": COMMON | {"model_type": "qwen3"},
    "gemma2": COMMON | {"model_type": "gemma2", "sliding_window": 12, "final_logit_softcapping": 2.0},
    "gemma3": COMMON | {"model_type": "gemma3_text", "sliding_window": 12, "sliding_window_pattern": 2},
    "phi3": COMMON | {"model_type": "phi3"},
    "gpt2": {
        "model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": 0.3,
        "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
    },
    "gpt_neox": COMMON | {"model_type": "gpt_neox"},
}  # fmt: skip


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    """Byte-level BPE, trained on a few lines, as SmolLM2's is."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    bpe.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>", bos_token="<|end|>", pad_token="<|end|>")


@pytest.fixture(scope="session")
def make_model(tokenizer: PreTrainedTokenizerBase) -> Callable[..., PreTrainedModel]:
    def make(
        family: str = "llama", attention: str = "eager", dtype: torch.dtype = torch.float32, **changes: Any
    ) -> PreTrainedModel:
        torch.manual_seed(0)
        config = AutoConfig.for_model(**(FAMILIES[family] | changes), vocab_size=len(tokenizer))
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype)
        assert isinstance(model, PreTrainedModel)
        return model.train(False)

    return make


@pytest.fixture(scope="session")
def items() -> Sequence[Item]:
    """Choices that share beginnings, one-token choices, a choice that is the beginning of another, blanks at the end of
    a context, and lengths that fall into several buckets."""
    sums = [
        Item(
            f"sum-{i}",
            f"Japanese: {'九十一' * (1 + i % 4)} 足す 七十\nMath:",
            (f" {i} + 70 = 161", f" {i} + 70 = 151", f" {i} - 70 = 21", f" {i} + 70 = 1"),
            label=i % 4,
            group="sum" if i % 3 else "rest",
        )
        for i in range(12)
    ]
    return [
        *sums,
        Item("short", "Q:", (" a", " b"), 1, group="rest"),
        Item("digit", "Tom has 37 eggs and sells 15. Now Tom has", (" 2", " 22", " 221"), 0, group="rest"),
        Item("blank", "Q: Which city is the capital of France?\nA: ", ("Paris", "London"), 0, group="rest"),
    ]
