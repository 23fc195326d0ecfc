"""Models of families that nobody described: merged tensor by tensor, by what their names say."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from api.recipes import write
from evomerge.errors import ArchitectureError, InvalidInputError
from evomerge.merge.execute import merge_to_directory
from evomerge.merge.inputs import open_inputs
from evomerge.merge.resident import Resident
from evomerge.models.checkpoint import open_checkpoint
from evomerge.models.source import architecture_of_checkpoint
from evomerge.recipe.schema import Recipe
from search_spaces import make_space
from search_spaces.groups import covers, make_groups
from tests.evomerge.models.any_family import kinds, save_any

USUAL = (
    "smollm3", "granite", "olmo2", "cohere2", "glm4", "starcoder2", "opt", "bert", "deepseek_v3", "gpt_oss",
    "qwen3_next", "mamba", "nemotron_h", "llama4_text",
)  # fmt: skip
REWRITTEN = {"youtu"}
"""Of these transformers loads something else than the file holds: zeros for the padding token's row."""
LEAST = 120
"""Families of transformers that can be built this small: more than these are tried."""


def saved(kind: str, path: Path) -> dict[str, Path]:
    return {name: save_any(kind, path / name, seed) for seed, name in enumerate(("base", "a", "b"))}


def recipe_of(models: dict[str, Path], method: str = "linear", **more: object) -> Recipe:
    return Recipe.model_validate(
        {
            "base": {"location": str(models["base"])},
            "sources": {name: {"location": str(models[name])} for name in ("a", "b")},
            "merge": {"method": method, **more},
            "dtype": "float32",
        }
    )


def tensors(path: Path) -> dict[str, Tensor]:
    return {name: tensor for file in path.glob("*.safetensors") for name, tensor in load_file(file).items()}


def check(kind: str, path: Path) -> None:
    """The average of two models, in its layers, loaded by transformers."""
    models = saved(kind, path)
    checkpoint = open_checkpoint(models["base"])
    architecture = architecture_of_checkpoint(checkpoint)
    halves = make_groups(min(2, architecture.num_layers), [["attention"], ["*"]], architecture)
    out = merge_to_directory(recipe_of(models), path / "out", root=path)
    a, b, found = (tensors(at) for at in (models["a"], models["b"], out))

    assert list(architecture.parts) == list(checkpoint.tensors)
    assert architecture.family == checkpoint.config["model_type"]
    assert {part.layer for part in architecture.parts.values()} - {None} == set(range(architecture.num_layers))
    assert covers(halves, architecture)
    assert found.keys() == a.keys()
    for name, tensor in found.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, (a[name].float() + b[name].float()) / 2, atol=1e-6, rtol=1e-6)
    resident = Resident(recipe_of(models, "task_arithmetic"))
    resident.materialize(recipe_of(models, "task_arithmetic"))
    resident.materialize(recipe_of(models))
    live = AutoModelForCausalLM.from_pretrained(out).state_dict()
    assert [n for n, t in resident.model.state_dict().items() if not torch.equal(t, live[n])] == []


@pytest.mark.parametrize("kind", USUAL)
def test_models_of_other_families_are_merged_by_what_their_names_say(kind: str, tmp_path: Path) -> None:
    check(kind, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_language_model_of_transformers_can_be_merged(tmp_path: Path) -> None:
    built, failed = 0, dict[str, Exception]()
    for kind in sorted(set(kinds()) - REWRITTEN):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                save_any(kind, tmp_path / "try" / kind, 0)
        except Exception:  # sizes that this class does not take, or a package that is not here
            continue
        built += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                check(kind, tmp_path / kind)
            except Exception as error:
                failed[kind] = error
    assert built >= LEAST
    assert failed == {}


def test_sparse_and_spectral_methods_and_rules_by_layer_and_role_work_there_too(tmp_path: Path) -> None:
    models = saved("olmo2", tmp_path)
    rules = [{"layers": [1, 1], "roles": ["mlp.down"], "parameters": {"weight": 0.0}}]
    out = merge_to_directory(
        recipe_of(models, "ties", rules=rules, parameters={"normalize": False}), tmp_path / "out", root=tmp_path
    )
    base, found = tensors(models["base"]), tensors(out)
    merge_to_directory(recipe_of(models, "tsv_m"), tmp_path / "spectral", root=tmp_path)

    same = [name for name in base if torch.equal(base[name], found[name])]
    assert same == ["model.layers.1.mlp.down_proj.weight"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"align": {"a": {"method": "weights"}}}, "olmo2.*nobody has described this family"),
        (
            {"path": {"host": "a", "layers": [{"model": "a", "layer": 0}, {"model": "b", "layer": 1}]}},
            "olmo2.*nobody has described this family",
        ),
    ],
)
def test_what_names_do_not_say_is_refused(more: dict[str, object], message: str, tmp_path: Path) -> None:
    recipe = Recipe.model_validate({**recipe_of(saved("olmo2", tmp_path)).model_dump(mode="json"), **more})

    with pytest.raises((ArchitectureError, InvalidInputError), match=message):
        merge_to_directory(recipe, tmp_path / "out", root=tmp_path)


def test_a_source_of_another_family_is_refused(tmp_path: Path) -> None:
    models = saved("olmo2", tmp_path) | {"a": save_any("granite", tmp_path / "granite", 3)}

    with pytest.raises(ArchitectureError, match="'granite', the base model is 'olmo2'"):
        open_inputs(recipe_of(models), tmp_path, _no_recipes)


def _no_recipes(path: Path) -> Path:
    raise AssertionError(path)


def test_a_live_model_that_gets_its_weights_through_files_is_the_language_model_of_what_is_carried(
    tmp_path: Path,
) -> None:
    models = saved("nemotron_h", tmp_path)
    plain = merge_to_directory(recipe_of(models), tmp_path / "out", root=tmp_path)
    eyes = {f"language_model.{name}": tensor for name, tensor in tensors(models["a"]).items()}
    for file in models["a"].glob("model*"):
        file.unlink()
    save_file({**eyes, "vision_tower.weight": torch.ones(2)}, models["a"] / "model.safetensors", {"format": "pt"})
    carrying = recipe_of(models).model_dump(by_alias=True) | {"carry": {"host": "a", "sources": {"a": {}}}}
    resident = Resident(Recipe.model_validate(carrying))
    resident.materialize(Recipe.model_validate(carrying))
    expected = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32).state_dict()

    with pytest.raises(ArchitectureError, match="other tensors than its files have"):
        resident.projection()
    assert [n for n, t in resident.model.state_dict().items() if not torch.equal(t, expected[n])] == []


def test_slices_cut_what_the_config_says_layer_by_layer(tmp_path: Path) -> None:
    models = saved("olmo3", tmp_path)
    recipe = Recipe.model_validate(
        {
            **recipe_of(models).model_dump(mode="json", exclude_none=True),
            "slices": [{"sources": {"a": [0, 1], "b": [0, 1]}}, {"sources": {"a": [0, 0], "b": [1, 1]}}],
        }
    )
    out = merge_to_directory(recipe, tmp_path / "out", root=tmp_path)
    model = AutoModelForCausalLM.from_pretrained(out)

    assert model.config.num_hidden_layers == len(model.config.layer_types) == 3
    assert open_checkpoint(out).config["num_hidden_layers"] == 3


def test_a_recipe_for_such_models_is_written_for_mergekit_and_read_again(tmp_path: Path) -> None:
    rules = [{"roles": ["mlp"], "parameters": {"weight": 0.25}}]
    recipe = recipe_of(saved("olmo2", tmp_path), rules=rules)
    text, _, _ = write(recipe, "mergekit")

    assert "mlp" in text
    assert text.count("0.25") >= 1


def test_paths_through_such_layers_are_no_search_space(tmp_path: Path) -> None:
    models = saved("olmo2", tmp_path)
    checkpoint = open_checkpoint(models["base"])
    recipe = recipe_of(models)

    with pytest.raises(InvalidInputError, match=r"space.kind.*olmo2.*nobody has described this family"):
        make_space(
            {"kind": "data_flow", "host": "a"},
            base=recipe.base,
            sources=dict(recipe.sources),
            architecture=architecture_of_checkpoint(checkpoint),
            dtype="float32",
            seed=0,
            tensors=checkpoint.tensors,
        )
