"""Mixtures of experts: two numbers in a name, dense layers between sparse ones, every expert there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

from evomerge.errors import ArchitectureError
from evomerge.models.architecture import Part, architecture_of
from evomerge.models.checkpoint import open_checkpoint
from evomerge.models.family import fill_numbers, split_numbers

Tiny = Callable[..., PreTrainedModel]
Save = Callable[..., Path]
EXPERT = "model.layers.{layer}.mlp.experts.{expert}.up_proj.weight"


@pytest.fixture
def mixed(tiny: Tiny, save: Save) -> tuple[dict[str, Any], list[str]]:
    """A Qwen2 MoE whose second layer is dense."""
    checkpoint = open_checkpoint(save("m", tiny("qwen2_moe", mlp_only_layers=[1])))
    return checkpoint.config, list(checkpoint.tensors)


@pytest.mark.parametrize(("layer", "expert"), [(0, 0), (3, 3), (11, 127)])
def test_the_first_number_is_the_layer_and_the_second_the_expert(layer: int, expert: int) -> None:
    name = fill_numbers(EXPERT, layer, expert)

    assert name == f"model.layers.{layer}.mlp.experts.{expert}.up_proj.weight"
    assert split_numbers(name) == (EXPERT, layer, expert)


def test_an_experts_tensor_knows_its_expert(tiny: Tiny, save: Save) -> None:
    checkpoint = open_checkpoint(save("m", tiny("mixtral")))
    architecture = architecture_of(checkpoint.config, checkpoint.tensors)

    assert architecture.num_experts == 4
    at = "model.layers.1.block_sparse_moe.experts.3.w2.weight"
    assert architecture.parts[at] == Part("mlp.expert.down", 1, 3)
    assert architecture.parts["model.layers.1.block_sparse_moe.gate.weight"] == Part("mlp.router", 1)


def test_dense_layers_may_lie_between_sparse_ones(mixed: tuple[dict[str, Any], list[str]]) -> None:
    architecture = architecture_of(*mixed)

    assert architecture.parts["model.layers.1.mlp.up_proj.weight"] == Part("mlp.up", 1)
    assert architecture.parts["model.layers.0.mlp.shared_expert.up_proj.weight"] == Part("mlp.shared.up", 0)


def test_a_layer_is_dense_or_sparse_but_not_both(mixed: tuple[dict[str, Any], list[str]]) -> None:
    config, names = mixed

    with pytest.raises(ArchitectureError, match=r"layer 0 has .*mlp\.up_proj\.weight"):
        architecture_of(config, [*names, "model.layers.0.mlp.up_proj.weight"])


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("model.layers.0.mlp.experts.3.up_proj.weight", r"lacks 'model\.layers\.0\.mlp\.experts\.3\.up_proj\.weight'"),
        ("model.layers.0.mlp.gate.weight", "layer 0 of 2 lacks 'model.layers.{layer}.mlp.gate.weight'"),
        ("model.layers.1.mlp.up_proj.weight", "layer 1 of 2 lacks 'model.layers.{layer}.mlp.up_proj.weight'"),
        ("model.layers.0.mlp.shared_expert_gate.weight", "layer 0 of 2 lacks"),
    ],
)
def test_a_lost_tensor_is_named(mixed: tuple[dict[str, Any], list[str]], lost: str, message: str) -> None:
    config, names = mixed

    with pytest.raises(ArchitectureError, match=message):
        architecture_of(config, [name for name in names if name != lost])


@pytest.mark.parametrize("number", [3, 5, None, "4", 0])
def test_the_number_of_experts_must_be_the_configs(mixed: tuple[dict[str, Any], list[str]], number: object) -> None:
    config, names = mixed

    with pytest.raises(ArchitectureError, match=r"config\.json"):
        architecture_of(config | {"num_experts": number}, names)
