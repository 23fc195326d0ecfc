"""Tiny real models, and twins of them: the same function with its units in another order."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
    OlmoeConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2MoeConfig,
)
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

set_verbosity_error()
disable_progress_bar()

SIZES: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 3, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
EXPERTS: dict[str, Any] = {"num_experts": 3, "num_experts_per_tok": 2}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "gpt2": GPT2Config(vocab_size=40, n_embd=24, n_layer=2, n_head=6, n_positions=32, bos_token_id=1, eos_token_id=2),
    "phi3": Phi3Config(**SIZES),
    "gpt_neox": GPTNeoXConfig(**{k: v for k, v in SIZES.items() if k != "num_key_value_heads"}),
    "gemma3_text": Gemma3TextConfig(**SIZES, head_dim=8),
    "mixtral": MixtralConfig(**SIZES, num_local_experts=3),
    "olmoe": OlmoeConfig(**SIZES, **EXPERTS),
    "qwen2_moe": Qwen2MoeConfig(
        **SIZES, **EXPERTS, moe_intermediate_size=12, shared_expert_intermediate_size=16, mlp_only_layers=[1]
    ),
}
TOKENS = torch.arange(1, 33).remainder(40)[None]
TWIN_HEADS = torch.tensor([[4, 5], [1, 0], [3, 2]])
"""Query heads of each key-value head of the twin, as numbers of the base's heads: heads 2, 0, 1, each pair turned or
not."""


def save_model(path: Path, family: str, seed: int, *, near: Path | None = None) -> Path:
    """A model whose every tensor is random; with `near`, a small step away from another."""
    torch.manual_seed(seed)
    model: Any = AutoModelForCausalLM.from_config(CONFIGS[family])
    if near is not None:
        model = AutoModelForCausalLM.from_pretrained(near)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.2 if near is None else 0.02))
    model.save_pretrained(path)
    return path


def copy_model(path: Path, tensors: dict[str, Tensor], out: Path) -> Path:
    """A model's directory with other tensors."""
    out.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out / "model.safetensors")
    (out / "config.json").write_text((path / "config.json").read_text())
    return out


def logits_of(path: Path) -> Tensor:
    """What a model answers to the test's tokens."""
    with torch.no_grad():
        found: Tensor = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()(TOKENS).logits
    return found


def save_twin(path: Path, out: Path) -> Path:
    """A Llama, Qwen2 or GPT-2 with its heads and MLP units in another order, each written out by hand."""
    tensors = load_file(path / "model.safetensors")
    gpt2 = any("c_attn" in name for name in tensors)
    twin = {name: (_twin_gpt2 if gpt2 else _twin_llama)(name, tensor) for name, tensor in tensors.items()}
    return copy_model(path, twin, out)


def _channels(size: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(size))


def _twin_llama(name: str, tensor: Tensor) -> Tensor:
    queries = TWIN_HEADS.reshape(-1)
    if "q_proj" in name:
        return tensor.unflatten(0, (6, 4))[queries].flatten(0, 1)
    if "k_proj" in name or "v_proj" in name:
        return tensor.unflatten(0, (3, 4))[[2, 0, 1]].flatten(0, 1)
    if "o_proj" in name:
        return tensor.unflatten(1, (6, 4))[:, queries].flatten(1, 2)
    if "gate_proj" in name or "up_proj" in name:
        return tensor[_channels(20)]
    return tensor[:, _channels(20)] if "down_proj" in name else tensor


def _twin_gpt2(name: str, tensor: Tensor) -> Tensor:
    heads = torch.tensor([5, 0, 3, 1, 4, 2])
    if "c_attn" in name:  # (in ×) three times six heads of four
        return tensor.unflatten(-1, (3, 6, 4))[..., heads, :].flatten(-3)
    if "attn.c_proj.weight" in name:
        return tensor.unflatten(0, (6, 4))[heads].flatten(0, 1)
    if "c_fc" in name:
        return tensor[..., _channels(96)]
    return tensor[_channels(96)] if "mlp.c_proj.weight" in name else tensor


@pytest.fixture(scope="session")
def logits() -> Callable[[Path], Tensor]:
    return logits_of


@pytest.fixture(scope="session")
def copied() -> Callable[[Path, dict[str, Tensor], Path], Path]:
    return copy_model


@pytest.fixture(scope="session")
def tuned(models: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama a small step away from the base."""
    return save_model(tmp_path_factory.mktemp("tuned") / "m", "llama", 1, near=models("llama"))


def save_tokenizer(path: Path) -> None:
    """A tokenizer of forty words beside a model."""
    words = {f"w{i}": i for i in range(40)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0").save_pretrained(path)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A random model of a family, made once."""
    root, made = tmp_path_factory.mktemp("models"), dict[str, Path]()

    def get(family: str) -> Path:
        if family not in made:
            made[family] = save_model(root / family, family, 0)
            save_tokenizer(made[family])
        return made[family]

    return get


@pytest.fixture(scope="session")
def twins(
    models: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, Path]]:
    """A model and its twin."""
    root, made = tmp_path_factory.mktemp("twins"), dict[str, Path]()

    def get(family: str) -> tuple[Path, Path]:
        if family not in made:
            made[family] = save_twin(models(family), root / family)
        return models(family), made[family]

    return get


@pytest.fixture(scope="session")
def items(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few texts for the forty words."""
    path = tmp_path_factory.mktemp("items") / "items.jsonl"
    generator = torch.Generator().manual_seed(0)
    with path.open("w") as file:
        for _ in range(12):
            words = torch.randint(1, 40, (16,), generator=generator)
            file.write(json.dumps({"text": " ".join(f"w{word}" for word in words)}) + "\n")
    return path
