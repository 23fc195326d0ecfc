"""A tiny real Llama with a tokenizer, two fine-tuned checkpoints, an adapter, a GPT-2, and items."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from evomerge.merge.calibration.provider import Model, Provider
from evomerge.merge.inputs import open_inputs
from evomerge.models.content import content_hash
from evomerge.recipe.calibration import Calibration
from evomerge.recipe.schema import Merge, ModelRef, Parameters, Recipe

set_verbosity_error()
disable_progress_bar()

WORDS = 64
ITEMS = {
    "a": [{"text": "w1 w2 w3 w4 w5"}, {"context": "w6 w7", "answer": " w8 w9"}, {"text": "w10 w11 w12"}],
    "b": [{"context": "w20 w21 w22", "choices": [" w23", " w24"], "label": 1}, {"text": "w30 w31 w32 w33"}],
    "c": [{"context": "w40 w41", "references": [" w42"]}, {"text": "w50 w51 w52"}],
}


@dataclass(frozen=True)
class Herd:
    """Where models and items lie."""

    root: Path

    def recipe(
        self,
        method: str,
        *names: str,
        base: str = "base",
        calibration: dict[str, Any] | None = None,
        parameters: Parameters | None = None,
        sources: dict[str, Parameters] | None = None,
        dtype: str = "float32",
    ) -> Recipe:
        """A recipe over some of the models, each with its own items."""
        files = {"sources": {n: {"location": str(self.items(n))} for n in names}, "max_tokens": 16}
        return Recipe.model_validate(
            {
                "base": ModelRef(location=str(self.root / base)),
                "sources": {n: ModelRef(location=str(self.root / n)) for n in names},
                "merge": Merge(method=method, parameters=parameters or {}, sources=sources or {}),
                "calibration": files | (calibration or {}),
                "dtype": dtype,
            }
        )

    def items(self, name: str) -> Path:
        """A source's items."""
        return self.root / f"{name}.jsonl"

    def llama(self, name: str) -> LlamaForCausalLM:
        """A model as transformers loads it."""
        model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(self.root / name, dtype=torch.float32)
        return model

    def ids(self, name: str, items: str) -> list[torch.Tensor]:
        """Items as tokens, (1 × tokens) each: words `w7` are tokens 7."""
        found = []
        for line in self.items(items).read_text().splitlines():
            item = json.loads(line)
            tail = item.get("answer") or (item.get("choices") or [""])[item.get("label", 0)]
            text = item.get("text", item.get("context", "")) + (tail or (item.get("references") or [""])[0])
            found.append(torch.tensor([[int(word[1:]) for word in text.split()]]))
        return found


@pytest.fixture(scope="session")
def herd(tmp_path_factory: pytest.TempPathFactory) -> Herd:
    root = tmp_path_factory.mktemp("herd")
    _llama(root / "base", 0)
    for seed, name in enumerate("ab", start=1):
        _llama(root / name, seed, near=root / "base")
    _adapter(root / "c", root / "base")
    _gpt2(root / "gpt2", 5)
    _gpt2(root / "gpt2-a", 6)
    for name, items in {**ITEMS, "gpt2-a": ITEMS["a"]}.items():
        (root / f"{name}.jsonl").write_text("\n".join(map(json.dumps, items)) + "\n")
    return Herd(root)


@pytest.fixture
def provide(tmp_path: Path) -> Callable[..., Any]:
    """A recipe and kinds → the tensors' statistics: `found(name)[source][kind]`."""

    def provided(recipe: Recipe, *requires: str, cache: Path | None = None, **options: Any) -> Any:
        inputs = open_inputs(recipe, Path(), lambda path: path)
        models = {n: Model(content_hash(s.path), s) for n, s in inputs.sources.items()}
        digest = content_hash(inputs.base.path)
        provider = Provider(inputs.base, inputs.architecture, digest, cache or tmp_path / "cache", **options)
        statistics = provider.statistics("test", frozenset(requires), recipe.calibration, models)
        jobs = {job.name: job for job in _jobs(recipe, inputs)}
        return lambda name: statistics.of(jobs[name])

    return provided


def _jobs(recipe: Recipe, inputs: Any) -> Any:
    from evomerge.merge.plan import plan

    plain = recipe.model_copy(update={"merge": Merge(method="linear"), "calibration": None})
    return plan(plain, inputs.base.tensors, inputs.architecture, inputs.changed).jobs


def calibration(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with other calibration fields."""
    assert recipe.calibration is not None
    changed = Calibration.model_validate(recipe.calibration.model_dump() | changes)
    return recipe.model_copy(update={"calibration": changed})


def _tokenizer(path: Path) -> None:
    tokenizer = Tokenizer(WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))  # no secret
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0").save_pretrained(path)


def _llama(path: Path, seed: int, near: Path | None = None) -> None:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=False, initializer_range=0.3,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    if near is not None:
        stored = load_file(near / "model.safetensors")
        for name, parameter in model.named_parameters():
            parameter.data = stored[name] + 0.05 * torch.randn_like(parameter)
    model.save_pretrained(path)
    _tokenizer(path)


def _gpt2(path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=WORDS, n_embd=16, n_layer=1, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(path)
    _tokenizer(path)


def _adapter(path: Path, base: Path) -> None:
    generator = torch.Generator().manual_seed(9)
    tensors = {}
    for name, weight in load_file(base / "model.safetensors").items():
        if "q_proj" in name or "down_proj" in name:
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{stem}.lora_A.weight"] = 0.2 * torch.randn(2, weight.shape[1], generator=generator)
            tensors[f"{stem}.lora_B.weight"] = 0.2 * torch.randn(weight.shape[0], 2, generator=generator)
    path.mkdir()
    save_file(tensors, path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "down_proj"]}
    (path / "adapter_config.json").write_text(json.dumps(config))
