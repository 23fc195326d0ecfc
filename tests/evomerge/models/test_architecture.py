from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

from evomerge.errors import ArchitectureError
from evomerge.models.architecture import architecture_of
from evomerge.models.checkpoint import open_checkpoint
from evomerge.models.family import families

Tiny = Callable[..., PreTrainedModel]
Save = Callable[..., Path]

BLOCK = {"attention.q", "attention.k", "attention.v", "attention.o", "mlp.gate", "mlp.up", "mlp.down"}
NORMS = {"norm.attention", "norm.mlp"}
ATTENTION = {"attention.q", "attention.k", "attention.v", "attention.o"}
EXPERTS = {"mlp.router", "mlp.expert.gate", "mlp.expert.up", "mlp.expert.down"}
SHARED = {"mlp.shared.router", "mlp.shared.gate", "mlp.shared.up", "mlp.shared.down"}
LAYER_ROLES = {
    "llama": BLOCK | NORMS,
    "mistral": BLOCK | NORMS,
    "qwen2": BLOCK | NORMS,
    "qwen3": BLOCK | NORMS | {"norm.q", "norm.k"},
    "gemma2": BLOCK | NORMS | {"norm.attention.post", "norm.mlp.post"},
    "gemma3_text": BLOCK | NORMS | {"norm.attention.post", "norm.mlp.post", "norm.q", "norm.k"},
    "phi3": NORMS | {"attention.qkv", "attention.o", "mlp.gate_up", "mlp.down"},
    "gpt2": NORMS | {"attention.qkv", "attention.o", "mlp.up", "mlp.down"},
    "gpt_neox": NORMS | {"attention.qkv", "attention.o", "mlp.up", "mlp.down"},
    "mixtral": ATTENTION | NORMS | EXPERTS,
    "qwen2_moe": ATTENTION | NORMS | EXPERTS | SHARED,
    "qwen3_moe": ATTENTION | NORMS | EXPERTS | {"norm.q", "norm.k"},
    "olmoe": ATTENTION | NORMS | EXPERTS | {"norm.q", "norm.k"},
}
TIED = {"gemma2", "gemma3_text", "gpt2"}


@pytest.fixture
def llama(save: Save) -> tuple[dict[str, Any], list[str]]:
    checkpoint = open_checkpoint(save("llama"))
    return checkpoint.config, list(checkpoint.tensors)


def test_every_stored_tensor_of_every_family_has_its_part(family: str, tiny: Tiny, save: Save) -> None:
    checkpoint = open_checkpoint(save("m", tiny(family)))
    architecture = architecture_of(checkpoint.config, checkpoint.tensors)
    layers = Counter(part.layer for part in architecture.parts.values())

    assert list(architecture.parts) == list(checkpoint.tensors)
    assert architecture.family == family
    assert architecture.num_layers == 2
    for layer in (0, 1):
        assert {part.role for part in architecture.parts.values() if part.layer == layer} == LAYER_ROLES[family]
    assert layers[0] == layers[1]
    outside = {"embedding", "norm.final"} | ({"position"} if family == "gpt2" else set())
    outside |= set() if family in TIED else {"head"}
    assert {part.role for part in architecture.parts.values() if part.layer is None} == outside
    assert set(architecture.roles) == LAYER_ROLES[family] | outside
    assert bool(architecture.tied) == (family in TIED)


def test_every_tensor_of_a_live_model_is_found_in_its_checkpoint(family: str, tiny: Tiny, save: Save) -> None:
    model = tiny(family)
    checkpoint = open_checkpoint(save("m", model))
    architecture = architecture_of(checkpoint.config, checkpoint.tensors)

    found = set()
    for name, value in model.state_dict().items():
        parts = architecture.parts_of(name, value)
        assert parts, name
        assert all(checkpoint.read(at).equal(view) for at, view in parts.items()), name
        found |= set(parts)
    assert found == set(checkpoint.tensors)


@pytest.mark.parametrize("tied", [True, False])
def test_tying_follows_the_config_in_every_family(family: str, tied: bool, tiny: Tiny, save: Save) -> None:
    checkpoint = open_checkpoint(save("m", tiny(family, tie_word_embeddings=tied)))
    architecture = architecture_of(checkpoint.config, checkpoint.tensors)
    head, embedding = families()[family].head, families()[family].embedding

    assert architecture.tied == ({head: embedding} if tied else {})
    assert architecture.find(head) == (embedding if tied else head)


def test_without_a_word_in_the_config_a_missing_head_means_tied(llama: tuple[dict[str, Any], list[str]]) -> None:
    config, names = llama
    silent = {key: value for key, value in config.items() if key != "tie_word_embeddings"}

    assert architecture_of(silent, names).tied == {}
    assert architecture_of(silent, [n for n in names if n != "lm_head.weight"]).tied
    with pytest.raises(ArchitectureError, match=r"lacks the head 'lm_head\.weight'"):
        architecture_of(config, [n for n in names if n != "lm_head.weight"])


def test_checkpoints_that_leave_the_prefix_off_are_known() -> None:
    """As the first GPT-2 checkpoint was published: no prefix, and its causal masks as tensors."""
    modules = ["ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"]
    names = ["wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias", "h.0.attn.bias"]
    names += [f"h.0.{module}.{kind}" for module in modules for kind in ("weight", "bias")]
    architecture = architecture_of({"model_type": "gpt2", "n_layer": 1}, names)

    assert architecture.parts["h.0.attn.bias"].role == "buffer"
    assert architecture.parts["h.0.attn.c_attn.bias"].role == "attention.qkv"
    assert architecture.find("transformer.h.0.attn.c_attn.bias") == "h.0.attn.c_attn.bias"
    assert architecture.find("lm_head.weight") == "wte.weight"
    assert "buffer" not in architecture.roles


def test_unknown_tensors_are_named(llama: tuple[dict[str, Any], list[str]]) -> None:
    config, names = llama

    with pytest.raises(ArchitectureError, match=r"'model\.layers\.0\.mlp\.experts\.weight': no such tensor"):
        architecture_of(config, [*names, "model.layers.0.mlp.experts.weight"])


def test_two_spellings_of_one_tensor_are_refused(llama: tuple[dict[str, Any], list[str]]) -> None:
    config, names = llama

    with pytest.raises(ArchitectureError, match=r"'model\.norm\.weight' and 'norm\.weight' are the same"):
        architecture_of(config, [*names, "norm.weight"])


def test_every_single_missing_tensor_is_noticed_and_named(family: str, tiny: Tiny, save: Save) -> None:
    checkpoint = open_checkpoint(save("m", tiny(family)))

    for name in checkpoint.tensors:
        if name.endswith(".bias") and ".1." not in name and ".0." not in name:
            continue  # a lone bias outside the layers may be absent: its loss shows against the base
        with pytest.raises(ArchitectureError, match="lacks"):
            architecture_of(checkpoint.config, [n for n in checkpoint.tensors if n != name])


@pytest.mark.parametrize(
    ("num_layers", "message"),
    [(1, r"'model\.layers\.1\..*says num_hidden_layers 1"), (3, "layer 2 of 3 lacks"), (0, "is 0"), ("2", "is '2'")],
)
def test_the_number_of_layers_must_be_the_configs(
    llama: tuple[dict[str, Any], list[str]], num_layers: object, message: str
) -> None:
    config, names = llama

    with pytest.raises(ArchitectureError, match=message):
        architecture_of(config | {"num_hidden_layers": num_layers}, names)


def test_families_are_plain_data() -> None:
    at = Path(families.__wrapped__.__code__.co_filename).with_name("families.json")

    assert set(json.loads(at.read_text())) == set(LAYER_ROLES) == set(families())
