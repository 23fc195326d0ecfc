"""Against mergekit 0.1.5; see tests/golden/README.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig

from evomerge.merge.execute import merge_to_directory
from evomerge.recipe.schema import Merge, ModelRef, Recipe

GOLDEN = Path(__file__).parents[2] / "golden" / "mergekit"
MERGEKIT_TIES: dict[str, Any] = {"scope": "tensor", "sign_ties": "positive"}
RECIPES: dict[str, dict[str, Any]] = {
    "linear": {"method": "linear", "weight": {"a": 0.5, "b": 1.5, "c": -0.25}},
    "linear_sum": {"method": "linear", "weight": {"a": 0.5, "b": 0.75}, "shared": {"normalize": False}},
    "task_arithmetic": {
        "method": "task_arithmetic",
        "weight": {"a": 0.5, "b": 1.25, "c": -0.4},
        "shared": {"lambda": 0.7},
    },
    "task_arithmetic_normalized": {
        "method": "task_arithmetic",
        "weight": {"a": 0.5, "b": 1.25},
        "shared": {"normalize": True},
    },
    "slerp": {"method": "slerp", "names": ("a", "b"), "shared": {"t": 0.3}},
    "slerp_near": {"method": "slerp", "names": ("c",), "shared": {"t": 0.7}},
    "ties": {
        "method": "ties",
        "weight": {"a": 0.5, "b": 1.25, "c": 0.8},
        "density": {"a": 0.5, "b": 0.25, "c": 0.75},
        "shared": {"lambda": 1.2, **MERGEKIT_TIES},
    },
    "ties_sum": {
        "method": "ties",
        "weight": {"a": 0.5, "b": -0.6, "c": 1.0},
        "density": {"a": 0.5, "b": 0.5, "c": 1.0},
        "shared": {"normalize": False, **MERGEKIT_TIES},
    },
}


@pytest.fixture(scope="module")
def golden() -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(GOLDEN / "merges.safetensors").items():
        model, name = key.split("/", 1)
        found.setdefault(model, {})[name] = tensor
    return found


@pytest.fixture(scope="module")
def places(golden: dict[str, dict[str, Tensor]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("golden")
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        dtype="float32",
    )
    for name in ("base", "a", "b", "c"):
        config.save_pretrained(root / name)
        save_file(golden[name], root / name / "model.safetensors", {"format": "pt"})
    return root


def merged(method: str, places: Path, out: Path, **asked: Any) -> dict[str, Tensor]:
    names = asked.get("names") or tuple(asked["weight"])
    own = {key: asked[key] for key in ("weight", "density") if key in asked}
    recipe = Recipe(
        base=ModelRef(location="base"),
        sources={name: ModelRef(location=name) for name in names},
        merge=Merge(
            method=method,
            parameters=asked.get("shared", {}),
            sources={name: {key: value[name] for key, value in own.items()} for name in names},
        ),
        dtype="float32",
    )
    merge_to_directory(recipe, out, root=places)
    return load_file(out / "model.safetensors")


@pytest.mark.proves("linear", "task_arithmetic", "slerp", "ties", by="golden")
@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_merge_agrees_with_mergekit(
    name: str, golden: dict[str, dict[str, Tensor]], places: Path, tmp_path: Path
) -> None:
    found = merged(places=places, out=tmp_path / "out", **RECIPES[name])

    assert set(found) == set(golden[name])
    for at, tensor in found.items():
        assert torch.allclose(tensor, golden[name][at], rtol=1e-6, atol=2e-7), at
        assert not torch.equal(tensor, golden["base"][at])


@pytest.mark.proves("dare_linear", by="golden")
def test_dare_with_the_l1_rule_has_the_properties_that_mergekits_has(
    golden: dict[str, dict[str, Tensor]], places: Path, tmp_path: Path
) -> None:
    density = 0.3
    theirs = json.loads((GOLDEN / "dare.json").read_text())["dare_linear"]
    found = merged(
        "dare_linear",
        places,
        tmp_path / "out",
        weight={"a": 1.0},
        density={"a": density},
        shared={"rescale": "l1"},
    )

    for at, tensor in found.items():
        moved, full = tensor - golden["base"][at], golden["a"][at] - golden["base"][at]
        spread = 5 * (density * (1 - density) / full.numel()) ** 0.5
        assert abs((moved != 0).float().mean().item() - density) < spread
        assert abs(theirs[at]["kept"] - density) < spread
        assert theirs[at]["l1"] == pytest.approx(1, abs=1e-4)
        assert (moved.abs().sum() / full.abs().sum()).item() == pytest.approx(1, abs=1e-4)
