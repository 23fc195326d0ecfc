"""A tiny real Llama and four sources of it: two checkpoints, two LoRA adapters."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from evomerge.recipe.schema import Merge, ModelRef, Parameters, Recipe, Rule

set_verbosity_error()
disable_progress_bar()

RANK = 4
VOCABULARY = 2560  # the embedding is then larger than one block


@dataclass(frozen=True)
class Zoo:
    """Where the models lie."""

    base: Path
    sources: dict[str, Path]

    def recipe(
        self,
        method: str,
        *names: str,
        parameters: Parameters | None = None,
        sources: dict[str, Parameters] | None = None,
        rules: tuple[Rule, ...] = (),
        dtype: str = "bfloat16",
        seed: int = 7,
    ) -> Recipe:
        """A recipe over some of the sources; all of them by default. `itself` is the base as a source."""
        places = {"itself": self.base, **self.sources}
        return Recipe.model_validate(
            {
                "base": ModelRef(location=str(self.base)),
                "sources": {name: ModelRef(location=str(places[name])) for name in names or sorted(self.sources)},
                "merge": Merge(method=method, parameters=parameters or {}, sources=sources or {}, rules=rules),
                "dtype": dtype,
                "seed": seed,
            }
        )


def save_llama(path: Path, seed: int, *, near: Path | None = None, dtype: torch.dtype = torch.bfloat16) -> Path:
    """A tiny Llama with tied embeddings; `near` gives the weights that it is a small step away from."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    if near is not None:
        stored = load_file(near / "model.safetensors")
        for name, parameter in model.named_parameters():
            parameter.data = stored[name].float() + 0.02 * torch.randn_like(parameter)
    model.to(dtype).save_pretrained(path)
    return path


def save_adapter(path: Path, seed: int, base: Path, modules: tuple[str, ...]) -> Path:
    """A LoRA adapter on some modules of every layer, in PEFT's format."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name, weight in load_file(base / "model.safetensors").items():
        if name.split(".")[-2] in modules:
            rows, columns = weight.shape
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{stem}.lora_A.weight"] = 0.2 * torch.randn(RANK, columns, generator=generator)
            tensors[f"{stem}.lora_B.weight"] = 0.2 * torch.randn(rows, RANK, generator=generator)
    path.mkdir()
    save_file(tensors, path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "target_modules": list(modules)}
    (path / "adapter_config.json").write_text(json.dumps(config))
    return path


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    root = tmp_path_factory.mktemp("zoo")
    base = save_llama(root / "base", 0)
    return Zoo(
        base,
        {
            "code": save_llama(root / "code", 1, near=base),
            "math": save_llama(root / "math", 2, near=base),
            "ja": save_adapter(root / "ja", 3, base, ("q_proj", "v_proj")),
            "es": save_adapter(root / "es", 4, base, ("q_proj", "down_proj", "up_proj")),
        },
    )


@pytest.fixture
def tensors() -> Callable[[Path], dict[str, Tensor]]:
    """The weights of a model directory."""

    def read(path: Path) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for file in sorted(path.glob("*.safetensors")):
            found |= load_file(file)
        return found

    return read
