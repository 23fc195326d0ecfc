"""Tiny real models of every known family, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OlmoeConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
GROUPED: dict[str, Any] = {**SIZES, "num_key_value_heads": 2}
GPT2: dict[str, Any] = {
    "vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EXPERTS: dict[str, Any] = {"num_experts": 4, "moe_intermediate_size": 24, "num_experts_per_tok": 2}
SHARED: dict[str, Any] = {**EXPERTS, "shared_expert_intermediate_size": 40}
FAMILIES: dict[str, Callable[..., PretrainedConfig]] = {
    "llama": lambda **more: LlamaConfig(**GROUPED | more),
    "mistral": lambda **more: MistralConfig(**GROUPED | more),
    "qwen2": lambda **more: Qwen2Config(**GROUPED | more),
    "qwen3": lambda **more: Qwen3Config(**GROUPED | {"head_dim": 8} | more),
    "gemma2": lambda **more: Gemma2Config(**GROUPED | {"head_dim": 8} | more),
    "gemma3_text": lambda **more: Gemma3TextConfig(**GROUPED | {"head_dim": 8} | more),
    "phi3": lambda **more: Phi3Config(**GROUPED | more),
    "gpt2": lambda **more: GPT2Config(**GPT2 | more),
    "gpt_neox": lambda **more: GPTNeoXConfig(**SIZES | more),
    "mixtral": lambda **more: MixtralConfig(**GROUPED | {"num_local_experts": 4} | more),
    "qwen2_moe": lambda **more: Qwen2MoeConfig(**GROUPED | SHARED | more),
    "qwen3_moe": lambda **more: Qwen3MoeConfig(**GROUPED | EXPERTS | {"head_dim": 8} | more),
    "olmoe": lambda **more: OlmoeConfig(**GROUPED | {"num_experts": 4, "num_experts_per_tok": 2} | more),
}
Tiny = Callable[..., PreTrainedModel]
Save = Callable[..., Path]

set_verbosity_error()
disable_progress_bar()


def tiny_model(family: str = "llama", seed: int = 0, **more: Any) -> PreTrainedModel:
    """A model whose every tensor, norms and biases too, is random."""
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(FAMILIES[family](**more))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@pytest.fixture(scope="session", params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    return tiny_model


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Saves a model (by default a tiny Llama) under a name and gives its directory."""

    def _save(name: str, model: PreTrainedModel | None = None, **more: Any) -> Path:
        (model or tiny_model()).save_pretrained(tmp_path / name, **more)
        return tmp_path / name

    return _save
