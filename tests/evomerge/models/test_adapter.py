from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from evomerge.errors import CheckpointError, NonFiniteError
from evomerge.models.adapter import is_adapter, open_adapter

Tiny = Callable[..., PreTrainedModel]

# PEFT 0.21 asks for an attribute that transformers 5.23 renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

LLAMA: dict[str, Any] = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj", "o_proj", "down_proj"]}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", LLAMA),
    "all-linear": ("llama", LLAMA | {"target_modules": "all-linear"}),
    "rslora": ("llama", LLAMA | {"use_rslora": True}),
    "patterns": (
        "llama",
        LLAMA
        | {
            "rank_pattern": {"q_proj": 2, r"model\.layers\.1\.mlp\.down_proj": 7},
            "alpha_pattern": {"layers.0.self_attn.v_proj": 11, ".*down_proj": 3, ".*": 5},
        },
    ),
    "patterns-rslora": ("llama", LLAMA | {"use_rslora": True, "rank_pattern": {"o_proj": 1}}),
    "some-layers": ("llama", LLAMA | {"layers_to_transform": [1]}),
    "embedding": ("llama", LLAMA | {"target_modules": ["embed_tokens", "lm_head", "q_proj"]}),
    "conv1d": ("gpt2", {"r": 3, "target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "conv1d-and-embedding": ("gpt2", {"r": 3, "target_modules": ["c_fc", "wpe"], "fan_in_fan_out": True}),
    "fused": ("gpt_neox", {"r": 4, "target_modules": ["query_key_value", "dense_4h_to_h"]}),
}


def train(model: PreTrainedModel, out: Path, **config: Any) -> None:
    """Save a LoRA whose factors are all random."""
    tuned = get_peft_model(model, LoraConfig(lora_dropout=0.1, **config))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    tuned.save_pretrained(out, save_embedding_layers=False)


@pytest.fixture
def plain(tmp_path: Path, tiny: Tiny) -> Path:
    train(tiny(), tmp_path / "plain", **LLAMA)
    return tmp_path / "plain"


def edit(at: Path, **fields: Any) -> None:
    path = at / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("case", sorted(CASES))
def test_base_plus_delta_is_what_peft_merges(case: str, tiny: Tiny, tmp_path: Path) -> None:
    family, config = CASES[case]
    base = {name: value.clone() for name, value in tiny(family).state_dict().items()}
    train(tiny(family), tmp_path, **config)
    adapter = open_adapter(tmp_path)
    merged = PeftModel.from_pretrained(tiny(family), tmp_path).merge_and_unload().state_dict()
    changed = {name for name in base if not torch.equal(base[name], merged[name])}

    assert adapter.names == changed
    assert changed
    for name in base:
        delta = adapter.delta(name)
        if delta is None:
            assert name not in changed
            continue
        assert delta.dtype == torch.float32
        assert tuple(delta.shape) == adapter.shape(name) == tuple(base[name].shape)
        torch.testing.assert_close(base[name] + delta, merged[name], rtol=2e-6, atol=4e-6)


def test_the_delta_is_nearer_to_the_exact_product_than_float32_arithmetic(plain: Path) -> None:
    stored = load_file(plain / "adapter_model.safetensors")
    name = "base_model.model.model.layers.0.mlp.down_proj.lora_{}.weight"
    exact = stored[name.format("B")].double() @ stored[name.format("A")].double() * 1.5
    delta = open_adapter(plain).delta("model.layers.0.mlp.down_proj.weight")

    assert delta is not None
    assert torch.equal(delta, exact.float())


def test_an_adapter_is_told_from_a_checkpoint(plain: Path, tmp_path: Path) -> None:
    assert is_adapter(plain)
    assert not is_adapter(tmp_path)
    assert not is_adapter(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bias", "some"),
        ("init_lora_weights", "pissa"),
        ("layer_replication", [[0, 1], [0, 2]]),
        ("trainable_token_indices", [1]),
        ("target_parameters", ["mlp.experts"]),
        ("use_qalora", True),
        ("peft_type", "LOHA"),
        ("peft_type", None),
        ("something_new", {"beta": 1}),
        ("r", "8"),
        ("lora_alpha", None),
        ("rank_pattern", [4]),
    ],
)
def test_what_has_no_exact_delta_is_refused_by_its_field(plain: Path, field: str, value: object) -> None:
    edit(plain, **{field: value})

    with pytest.raises(CheckpointError, match=rf"adapter_config\.json: {field} is"):
        open_adapter(plain)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"r": 8}, r"factors A \[4, \d+\] and B \[\d+, 4\]; expected rank 8"),
        ({"rank_pattern": {"(": 4}}, "'\\(' is no regular expression"),
        ({"alpha_pattern": {"q_proj": "9"}}, "pattern 'q_proj' is '9'; expected a number"),
    ],
)
def test_a_config_that_does_not_fit_the_factors_is_refused(plain: Path, fields: dict[str, Any], message: str) -> None:
    edit(plain, **fields)

    with pytest.raises(CheckpointError, match=message):
        open_adapter(plain)


def test_factors_that_do_not_belong_are_refused_by_name(plain: Path) -> None:
    path = plain / "adapter_model.safetensors"
    stored = load_file(path)
    lost = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"

    save_file({name: tensor for name, tensor in stored.items() if name != lost}, path)
    with pytest.raises(CheckpointError, match=r"'model\.layers\.0\.self_attn\.q_proj' has only .*lora_A"):
        open_adapter(plain)
    save_file(stored | {"base_model.model.model.norm.lora_magnitude_vector": torch.ones(3)}, path)
    with pytest.raises(CheckpointError, match=r"lora_magnitude_vector' is no LoRA factor"):
        open_adapter(plain)


def test_files_that_are_missing_or_pickled_are_named(plain: Path) -> None:
    (plain / "adapter_model.safetensors").rename(plain / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"'adapter_model\.bin'.*never loads"):
        open_adapter(plain)

    (plain / "adapter_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"expected adapter_model\.safetensors"):
        open_adapter(plain)


def test_nan_in_a_factor_is_found_and_named(plain: Path) -> None:
    path = plain / "adapter_model.safetensors"
    stored = load_file(path)
    bad = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"
    stored[bad][3, 1] = float("nan")
    save_file(stored, path)
    adapter = open_adapter(plain)

    assert adapter.delta("model.layers.0.self_attn.v_proj.weight") is not None
    with pytest.raises(NonFiniteError, match=r"plain: tensor '.*1\.self_attn\.v_proj\.lora_B\.weight'.*\[3, 1\]"):
        adapter.delta("model.layers.1.self_attn.v_proj.weight")
