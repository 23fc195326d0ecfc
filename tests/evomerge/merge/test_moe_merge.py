"""Mixtures of experts are merged tensor by tensor, experts by number; on disk and in a live model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, MixtralConfig, OlmoeConfig, Qwen2MoeConfig, Qwen3MoeConfig

from evomerge.merge.execute import merge_to_directory
from evomerge.merge.resident import Resident
from evomerge.recipe.schema import Recipe

SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "num_experts_per_tok": 2,
}  # fmt: skip
NARROW: dict[str, Any] = {"num_experts": 4, "moe_intermediate_size": 24}
CONFIGS = {
    "mixtral": MixtralConfig(**SIZES, num_local_experts=4),
    "qwen2_moe": Qwen2MoeConfig(**SIZES, **NARROW, shared_expert_intermediate_size=40, mlp_only_layers=[1]),
    "qwen3_moe": Qwen3MoeConfig(**SIZES, **NARROW, head_dim=8),
    "olmoe": OlmoeConfig(**SIZES, num_experts=4),
}
TOKENS = torch.arange(1, 17)[None]


def save(path: Path, family: str, seed: int, near: Path | None = None) -> Path:
    torch.manual_seed(seed)
    model: Any = AutoModelForCausalLM.from_config(CONFIGS[family])
    if near is not None:
        model = AutoModelForCausalLM.from_pretrained(near)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.1 if near is None else 0.02))
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def trios(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path, Path]]:
    root, made = tmp_path_factory.mktemp("moe"), dict[str, tuple[Path, Path, Path]]()

    def get(family: str) -> tuple[Path, Path, Path]:
        if family not in made:
            base = save(root / f"{family}-base", family, 0)
            code, math = (save(root / f"{family}-{i}", family, i, near=base) for i in (1, 2))
            made[family] = (base, code, math)
        return made[family]

    return get


def recipe(paths: tuple[Path, Path, Path], method: str, **parameters: Any) -> Recipe:
    base, code, math = map(str, paths)
    return Recipe.model_validate(
        {
            "base": {"location": base},
            "sources": {"code": {"location": code}, "math": {"location": math}},
            "merge": {"method": method, "parameters": parameters},
            "dtype": "float32",
        }
    )


def live(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(TOKENS).logits
    return found


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_the_mean_on_disk_is_the_mean_of_live_models(family: str, trios: Any, tmp_path: Path) -> None:
    """transformers stacks experts in memory: the mean of its stacks is an independent answer."""
    base, code, math = trios(family)
    out = merge_to_directory(recipe((base, code, math), "linear", weight=1.0), tmp_path / "out", root=tmp_path)
    expected, other = live(code), live(math)
    with torch.no_grad():
        for mine, theirs in zip(expected.parameters(), other.parameters(), strict=True):
            mine.add_(theirs).div_(2)

    merged = live(out)
    for (name, got), wanted in zip(merged.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(got, wanted, msg=name)
    torch.testing.assert_close(logits(merged), logits(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe"])
@pytest.mark.parametrize(("method", "parameters"), [("ties", {"density": 0.5}), ("dare_linear", {"density": 0.5})])
def test_a_live_model_gets_the_written_bytes(
    family: str, method: str, parameters: dict[str, Any], trios: Any, tmp_path: Path
) -> None:
    asked = recipe(trios(family), method, **parameters)
    out = merge_to_directory(asked, tmp_path / "out", root=tmp_path)
    resident = Resident(asked)
    resident.materialize(asked)

    written, from_file = live(out), dict(live(out).named_parameters())
    assert all(tensor.equal(from_file[name]) for name, tensor in resident.model.named_parameters())
    assert logits(resident.model).equal(logits(written))
    assert set(load_file(out / "model.safetensors")) == set(load_file(trios(family)[0] / "model.safetensors"))


def test_rules_reach_experts_and_routers(trios: Any, tmp_path: Path) -> None:
    base, code, math = trios("mixtral")
    asked = recipe((base, code, math), "linear", weight=1.0)
    rules = [{"roles": ["mlp.expert"], "source": "code", "parameters": {"weight": 0.0}},
             {"roles": ["mlp.router"], "source": "math", "parameters": {"weight": 0.0}}]  # fmt: skip
    asked = Recipe.model_validate(
        asked.model_dump(by_alias=True) | {"merge": {**asked.merge.model_dump(), "rules": rules}}
    )
    merged = load_file(merge_to_directory(asked, tmp_path / "out", root=tmp_path) / "model.safetensors")
    coding, maths = load_file(code / "model.safetensors"), load_file(math / "model.safetensors")

    for name, tensor in merged.items():
        if ".experts." in name:
            torch.testing.assert_close(tensor, maths[name])
        elif "block_sparse_moe.gate" in name:
            torch.testing.assert_close(tensor, coding[name])
