"""A tiny real setting: a two-layer Llama, two fine-tunes of it, a byte tokenizer and an eval set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evomerge.models.checkpoint import content_hash
from evomerge.recipe.schema import Merge, ModelRef, Recipe
from workers.job import WorkerSpec

NUM_ITEMS = 24


def make_spec(folder: Path, **shape: Any) -> WorkerSpec:
    """Models and items under `folder`, and a worker's spec for them; `shape` changes the models' configuration."""
    base = _model(seed=0, **shape)
    refs = {"base": _save(base, folder / "base")}
    for seed, name in enumerate(("math", "ja"), start=1):
        refs[name] = _save(_disturbed(base, seed, **shape), folder / name)
    items = folder / "sums.jsonl"
    items.write_text("".join(json.dumps(_item(n)) + "\n" for n in range(NUM_ITEMS)))
    recipe = Recipe(base=refs.pop("base"), sources=refs, merge=Merge(method="linear"), dtype="float32", seed=1)
    return WorkerSpec(recipe, {"sums": str(items)}, cache=str(folder / "cache"))


def _item(n: int) -> dict[str, object]:
    choices = [f" {n + n + shift}" for shift in range(3)]
    return {"id": f"sum-{n}", "context": f"{n} + {n} =", "choices": choices, "label": 0}


def _model(seed: int, **shape: Any) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = {
        "vocab_size": 258, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.2, "bos_token_id": 256,
        "eos_token_id": 257,
    }  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**config | shape))


def _disturbed(base: LlamaForCausalLM, seed: int, **shape: Any) -> LlamaForCausalLM:
    model = _model(seed, **shape)
    model.load_state_dict({k: base.state_dict()[k] + 0.1 * v for k, v in model.state_dict().items()})
    return model


def _save(model: LlamaForCausalLM, folder: Path) -> ModelRef:
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return ModelRef(location=str(folder), sha256=content_hash(folder))


def _tokenizer() -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: n for n, token in enumerate([*letters, "<s>", "</s>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
