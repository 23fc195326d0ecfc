"""MLPs of two models joined unit by unit: clusters against ZipIt's code, and what the formulas imply."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from api.cli import app
from evomerge.errors import InvalidInputError
from evomerge.merge.execute import merge_to_directory
from evomerge.merge.structure.clusters import pairs, zipped
from evomerge.merge.structure.zip import Settings, zip_models
from evomerge.recipe.schema import Recipe
from evomerge.recipe.text import dump_yaml

GOLDEN = json.loads((Path(__file__).parents[3] / "golden" / "structure" / "zip.json").read_text())
WIDTH = 20


def llama(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=30, intermediate_size=WIDTH, tie_word_embeddings=False, **sizes))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`; `other`, trained apart; `twin`, the base with its units in another order."""
    root = tmp_path_factory.mktemp("zip")
    base = llama(0)
    for parameter in base.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    base.save_pretrained(root / "base")
    llama(1).save_pretrained(root / "other")
    tensors = load_file(root / "base" / "model.safetensors")
    order = torch.randperm(WIDTH, generator=torch.Generator().manual_seed(3))
    for name, tensor in tensors.items():
        if "gate_proj" in name or "up_proj" in name:
            tensors[name] = tensor[order].contiguous()
        if "down_proj" in name:
            tensors[name] = tensor[:, order].contiguous()
    (root / "twin").mkdir()
    save_file(tensors, root / "twin" / "model.safetensors", metadata={"format": "pt"})
    (root / "twin" / "config.json").write_bytes((root / "base" / "config.json").read_bytes())
    return root


def recipe(models: Path, *names: str, **more: Any) -> Recipe:
    data = {
        "base": {"location": str(models / "base")},
        "sources": {name: {"location": str(models / name)} for name in names},
        "merge": {"method": "task_arithmetic", "parameters": {"weight": 0.5}},
        "dtype": "float32",
        **more,
    }
    return Recipe.model_validate(data)


def weights(path: Path) -> dict[str, Tensor]:
    return load_file(path / "model.safetensors")


@pytest.mark.parametrize("run", GOLDEN["runs"])
def test_clusters_are_the_authors(run: str) -> None:
    asked = GOLDEN["runs"][run]
    found = zipped(torch.tensor(GOLDEN["similarity"]), len(asked["clusters"]), alpha=asked["a"], beta=asked["b"])

    assert [list(members) for members in found] == asked["clusters"]


def test_every_unit_is_in_one_cluster_and_pairs_are_across() -> None:
    worth = torch.randn(9, 9, generator=torch.Generator().manual_seed(0))
    found = pairs(worth, apart=4)

    assert sorted(unit for members in found for unit in members) == list(range(18))
    assert [len(members) for members in found] == [2] * 5 + [1] * 8
    assert all(first < 9 <= second for first, second in (m for m in found if len(m) == 2))


@pytest.mark.parametrize("how", ["pairs", "zip"])
def test_a_twin_is_found_unit_by_unit(how: str, models: Path, tmp_path: Path) -> None:
    out = zip_models(recipe(models, "twin"), tmp_path / "out", Settings(how), root=tmp_path)
    before, after = weights(models / "base"), weights(out)
    ids = torch.arange(1, 20)[None]
    with torch.no_grad():
        wanted, found = (AutoModelForCausalLM.from_pretrained(p)(ids).logits for p in (models / "base", out))

    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    if how == "pairs":
        for name, tensor in after.items():
            torch.testing.assert_close(tensor, before[name])


def test_pairs_without_any_apart_are_the_merge_of_aligned_models(models: Path, tmp_path: Path) -> None:
    out = zip_models(recipe(models, "other"), tmp_path / "out", Settings(), root=tmp_path)
    aligned = recipe(models, "other", align={"other": {"method": "weights", "units": ["mlp"]}})
    expected = weights(merge_to_directory(aligned, tmp_path / "aligned", root=tmp_path))

    for name, tensor in weights(out).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_with_all_units_apart_an_mlp_is_the_sum_of_both(share: float, models: Path, tmp_path: Path) -> None:
    settings = Settings(apart=1.0, share=share)
    out = zip_models(recipe(models, "other"), tmp_path / "out", settings, root=tmp_path)
    found, base, other = (AutoModelForCausalLM.from_pretrained(p) for p in (out, models / "base", models / "other"))
    x = torch.randn(7, 16, generator=torch.Generator().manual_seed(4))
    said = json.loads((out / "structure.json").read_text())["mlps"]["mlp.1"]

    assert found.config.intermediate_size == 2 * WIDTH
    assert said == {"width": 40, "of_both": 0, "within_one": 0, "alone": 40, "largest": 1}
    with torch.no_grad():
        for layer in range(2):
            own, theirs = (m.model.layers[layer].mlp(x) for m in (base, other))
            mlp = found.model.layers[layer].mlp(x)
            torch.testing.assert_close(mlp, (1 - share) * own + share * theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", ["pairs", "zip"])
def test_between_them_the_width_grows_by_what_is_apart(how: str, models: Path, tmp_path: Path) -> None:
    settings = Settings(how, apart=0.25)
    out = zip_models(recipe(models, "other"), tmp_path / "out", settings, root=tmp_path)
    model, loading = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)

    assert model.config.intermediate_size == 25
    assert not loading["missing_keys"]
    assert torch.isfinite(model(torch.arange(9)[None]).logits).all()


def test_a_family_that_stores_matrices_the_other_way_round(tmp_path: Path) -> None:
    for seed in (0, 1):
        torch.manual_seed(seed)
        config = GPT2Config(vocab_size=30, n_embd=16, n_layer=1, n_head=2, n_positions=16)
        model = GPT2LMHeadModel(config)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        model.save_pretrained(tmp_path / ("base" if seed == 0 else "other"))
    out = zip_models(recipe(tmp_path, "other"), tmp_path / "out", Settings(apart=1.0), root=tmp_path)
    found, *both = (GPT2LMHeadModel.from_pretrained(tmp_path / name) for name in ("out", "base", "other"))
    x = torch.randn(5, 16)

    assert out == tmp_path / "out"
    assert found.config.n_inner == 128
    with torch.no_grad():
        own, theirs = (model.transformer.h[0].mlp.eval()(x) for model in both)
        torch.testing.assert_close(found.transformer.h[0].mlp.eval()(x), (own + theirs) / 2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "field"),
    [({"how": "glue"}, "how"), ({"apart": 1.5}, "apart"), ({"match": "names"}, "match"),
     ({"match": "activations"}, "items"), ({"tokens": 1}, "tokens")],
)  # fmt: skip
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInputError, match=field):
        Settings(**settings)


def test_recipes_that_cannot_be_joined_are_refused(models: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="one source"):
        zip_models(recipe(models, "other", "twin"), tmp_path / "out", Settings(), root=tmp_path)
    stacked = recipe(models, "other", slices=[{"base": [0, 1]}])
    with pytest.raises(InvalidInputError, match="slices"):
        zip_models(stacked, tmp_path / "out", Settings(), root=tmp_path)
    assert not (tmp_path / "out").exists()


def test_the_command_makes_the_model(models: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(dump_yaml(recipe(models, "other")))
    asked = ["zip", str(tmp_path / "recipe.yaml"), str(tmp_path / "out"), "--how", "zip", "--apart", "0.5"]
    result = CliRunner().invoke(app, asked)

    assert result.exit_code == 0, result.output
    assert weights(tmp_path / "out")["model.layers.0.mlp.up_proj.weight"].shape == (30, 16)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "recipe.yaml"]
