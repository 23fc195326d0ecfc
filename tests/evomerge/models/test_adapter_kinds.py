"""Adapters beyond plain LoRA whose delta is exact: PEFT's own merge is the reference."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, ShiraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from evomerge.errors import CheckpointError
from evomerge.models.adapter import open_adapter
from evomerge.models.checkpoint import open_checkpoint
from evomerge.models.content import content_hash
from evomerge.models.source import open_source

Tiny = Callable[..., PreTrainedModel]
Save = Callable[..., Path]

# PEFT 0.21 asks for an attribute that transformers 5.23 renamed.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Adapter 'default'.*invalid shape"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning"),
]

LLAMA: dict[str, Any] = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"]}
WITH_BIAS = {"attention_bias": True}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "modules-to-save": ("llama", {"tie_word_embeddings": False}, LLAMA | {"modules_to_save": ["lm_head", "norm"]}),
    "embedding-saved": ("llama", {"tie_word_embeddings": False}, LLAMA | {"modules_to_save": ["embed_tokens"]}),
    "lora-bias": ("llama", WITH_BIAS, LLAMA | {"lora_bias": True, "target_modules": ["q_proj"]}),
    "bias-all": ("llama", WITH_BIAS, LLAMA | {"bias": "all"}),
    "bias-of-adapted": ("gpt2", {}, {"r": 3, "target_modules": ["c_fc"], "fan_in_fan_out": True, "bias": "lora_only"}),
    "dora": ("llama", {}, LLAMA | {"use_dora": True}),
    "dora-rslora": ("llama", {}, LLAMA | {"use_dora": True, "use_rslora": True}),
    "dora-conv1d": ("gpt2", {}, {"r": 3, "target_modules": ["c_fc"], "fan_in_fan_out": True, "use_dora": True}),
}


def train(model: PreTrainedModel, out: Path, config: LoraConfig | ShiraConfig) -> None:
    """Save an adapter whose trained tensors are all random."""
    tuned = get_peft_model(model, config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    tuned.save_pretrained(out, save_embedding_layers=False)


def check_against_peft(fresh: Callable[[], PreTrainedModel], path: Path) -> None:
    base = {name: value.clone() for name, value in fresh().state_dict().items()}
    merged = PeftModel.from_pretrained(fresh(), path).merge_and_unload().state_dict()
    adapter = open_adapter(path)
    changed = {name for name in base if not torch.equal(base[name], merged[name])}

    assert adapter.names == changed
    assert changed
    for name in changed:
        delta = adapter.delta(name, base[name])
        assert delta is not None
        assert delta.dtype == torch.float32
        torch.testing.assert_close(base[name] + delta, merged[name], rtol=2e-6, atol=4e-6)


@pytest.mark.parametrize("case", sorted(CASES))
def test_base_plus_delta_is_what_peft_merges(case: str, tiny: Tiny, tmp_path: Path) -> None:
    family, model, config = CASES[case]
    train(tiny(family, **model), tmp_path, LoraConfig(**config))

    check_against_peft(lambda: tiny(family, **model), tmp_path)


def test_a_sparse_adapter_is_what_peft_merges(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny(), tmp_path, ShiraConfig(r=3, target_modules=["q_proj", "down_proj"], random_seed=5))

    check_against_peft(tiny, tmp_path)


def test_factors_are_those_of_the_delta_and_only_of_plain_lora(save: Save, tiny: Tiny, tmp_path: Path) -> None:
    gpt2 = {"r": 3, "lora_alpha": 7, "target_modules": ["c_fc", "wpe"], "fan_in_fan_out": True}
    train(tiny("gpt2"), tmp_path / "plain", LoraConfig(**gpt2))
    train(tiny("gpt2"), tmp_path / "dora", LoraConfig(**gpt2 | {"use_dora": True, "target_modules": ["c_fc"]}))
    base = open_checkpoint(save("base", tiny("gpt2")))
    plain, dora = (open_source(kind, tmp_path / kind, base) for kind in ("plain", "dora"))

    assert plain.factored == dict.fromkeys(plain.changed, 3)
    assert dora.changed
    assert not dora.factored
    for name in plain.changed:
        delta, factors = plain.delta(name), plain.factors(name)
        turned = plain.factors(name, transposed=True)
        assert delta is not None
        assert factors is not None
        assert turned is not None
        assert factors.rank == turned.rank == 3
        torch.testing.assert_close(factors.product(), delta, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(turned.product(), delta.t(), rtol=1e-5, atol=1e-6)
    assert dora.factors(next(iter(dora.changed))) is None


def test_what_a_kind_needs_and_lacks_is_named(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny(), tmp_path, LoraConfig(**LLAMA | {"use_dora": True}))
    path = tmp_path / "adapter_model.safetensors"
    stored = load_file(path)

    save_file({name: tensor for name, tensor in stored.items() if "magnitude" not in name}, path)
    with pytest.raises(CheckpointError, match="has only"):
        open_adapter(tmp_path)
    save_file(stored | {"base_model.model.model.norm.weight": torch.ones(32)}, path)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight' is no LoRA factor, nor does"):
        open_adapter(tmp_path)


def test_sparse_entries_outside_the_tensor_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny(), tmp_path, ShiraConfig(r=2, target_modules=["q_proj"], random_seed=5))
    path = tmp_path / "adapter_model.safetensors"
    stored = load_file(path)
    name = "base_model.model.model.layers.0.self_attn.q_proj.shira_indices"
    stored[name][0, 0] = 32
    save_file(stored, path)

    with pytest.raises(CheckpointError, match="points outside 'model"):
        open_adapter(tmp_path).delta("model.layers.0.self_attn.q_proj.weight", torch.zeros(32, 32))


def test_a_field_that_changes_the_delta_changes_the_hash(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny(), tmp_path, LoraConfig(**LLAMA))
    plain = content_hash(tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 12}))

    assert content_hash(tmp_path) != plain
