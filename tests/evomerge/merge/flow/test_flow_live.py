"""A resident model on a recipe's path against the exported checkpoint of the same recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from evomerge.errors import ArchitectureError, InvalidInputError
from evomerge.merge.execute import merge_to_directory
from evomerge.merge.resident import Resident
from evomerge.recipe.schema import Merge, Recipe
from tests.evomerge.merge.conftest import Zoo
from tests.evomerge.merge.flow.trio import (
    FAMILIES,
    SCALES,
    SIGNED,
    TEXT,
    Trio,
    load,
    logits_of,
    make_model,
    make_trio,
    path_of,
)

PLAIN = Merge(method="linear")
MERGED_HOPS = (("merged", 0), ("base", 1), ("merged", 1), ("math", 2), ("merged", 1), ("code", 0), ("merged", 2))


def exported(recipe: Recipe, out: Path) -> Any:
    return load(merge_to_directory(recipe, out, root=out.parent, check_hashes=False))


def near(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert (found - expected).abs().max() < 1e-3
    assert torch.equal(found.argmax(-1), expected.argmax(-1))


@pytest.fixture(scope="module")
def resident(llamas: Trio) -> Resident:
    return Resident(llamas.recipe(path_of()).parameter_part)


@pytest.mark.parametrize("semantics", ["stream", "delta"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_resident_path_is_its_export(trios: Mapping[str, Trio], family: str, semantics: str, tmp_path: Path) -> None:
    trio = trios[family]
    recipe = trio.hybrid(path_of(SIGNED, semantics, host="merged", hops=MERGED_HOPS))
    resident = Resident(recipe.parameter_part)
    resident.materialize(recipe)

    near(logits_of(resident.model), logits_of(exported(recipe, tmp_path / "out")))


def test_candidates_follow_each_other_and_leave_nothing_behind(
    llamas: Trio, resident: Resident, tmp_path: Path
) -> None:
    recipes = {
        "path": llamas.recipe(path_of(SIGNED)),
        "hybrid": llamas.hybrid(path_of(SCALES, "delta", hops=MERGED_HOPS)),
        "merge": llamas.hybrid(path_of()).parameter_part,
        "short": llamas.hybrid(path_of((0.8, 1.2), host="code", hops=[("merged", 2), ("merged", 2)])),
    }
    expected = {name: logits_of(exported(recipe, tmp_path / name)) for name, recipe in recipes.items()}
    for name in ("path", "hybrid", "short", "merge", "path", "merge", "hybrid"):
        resident.materialize(recipes[name])

        near(logits_of(resident.model), expected[name])


def test_a_path_copies_no_weights(llamas: Trio, resident: Resident) -> None:
    resident.materialize(llamas.recipe(path_of(SIGNED)))
    layers = resident.model.base_model.layers
    mapped = {t.data_ptr() for t in resident._base.values()} | {
        operand.tensor.data_ptr() for source in resident._operands.values() for operand in source.values()
    }

    assert {p.data_ptr() for layer in layers for p in layer.parameters()} <= mapped


def test_what_is_merged_already_is_not_merged_again(llamas: Trio, resident: Resident) -> None:
    """The second stage of a hybrid search changes the path alone."""
    first, second = (llamas.hybrid(path_of(s, hops=MERGED_HOPS, host="merged")) for s in (SIGNED, SCALES))
    resident.materialize(first)
    own = resident._live["model.layers.1.mlp.up_proj.weight"]
    own[0, 0] = 100.0
    resident.materialize(second)
    kept = own[0, 0].item()
    resident.materialize(second.parameter_part)

    assert kept == 100.0
    assert own[0, 0].item() != 100.0


def test_layers_of_adapters_are_resident(zoo: Zoo, tmp_path: Path) -> None:
    path = path_of((1.0, 1.2, -0.8, 1.1), host="es", hops=[("base", 0), ("es", 1), ("ja", 1), ("es", 2)])
    whole = zoo.recipe("linear", "es", "ja", dtype="float32")
    recipe = whole.model_copy(update={"path": path})
    resident = Resident(whole)
    resident.materialize(recipe)

    near(logits_of(resident.model), logits_of(exported(recipe, tmp_path / "out")))


def test_generation_is_the_exports(llamas: Trio, resident: Resident, tmp_path: Path) -> None:
    recipe = llamas.recipe(path_of(SIGNED))
    resident.materialize(recipe)
    asked = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(TEXT)}

    assert torch.equal(resident.model.generate(TEXT, **asked), exported(recipe, tmp_path / "o").generate(TEXT, **asked))


def test_bfloat16_agrees_as_far_as_it_goes(tmp_path: Path) -> None:
    trio = make_trio(tmp_path, "llama", dtype=torch.bfloat16, tie_word_embeddings=True)
    recipe = trio.recipe(path_of(SIGNED), "bfloat16")
    resident = Resident(recipe.parameter_part)
    resident.materialize(recipe)
    live = logits_of(resident.model)
    out = merge_to_directory(recipe, tmp_path / "out", root=tmp_path, check_hashes=False)
    error = (live - logits_of(load(out, torch.bfloat16))).norm() / live.norm()

    assert error < 0.05


def test_what_is_not_resident_is_refused(llamas: Trio, resident: Resident) -> None:
    too_deep = llamas.recipe(path_of((1.0, 1.0), hops=[("base", 0), ("math", 3)]))
    with pytest.raises(InvalidInputError, match=r"path.layers\[1\].layer: got 3; expected layers 0 to 2 of math"):
        resident.materialize(too_deep)
    with pytest.raises(InvalidInputError, match=r"sources\.math"):
        resident.materialize(Trio(llamas.base, llamas.base / "other", llamas.code).recipe(path_of()))


def test_a_host_with_a_config_of_its_own_is_refused(llamas: Trio, tmp_path: Path) -> None:
    trio = Trio(llamas.base, make_model(tmp_path / "math", "llama", 1, rms_norm_eps=1e-3), llamas.code)
    recipe = trio.recipe(path_of(host="math"))
    with pytest.raises(InvalidInputError, match=r"path.host: got 'math'; expected .* has rms_norm_eps 0.001"):
        Resident(recipe.parameter_part).materialize(recipe)


def test_a_source_with_another_config_runs_with_the_hosts(llamas: Trio, tmp_path: Path) -> None:
    trio = Trio(llamas.base, make_model(tmp_path / "math", "llama", 1, rms_norm_eps=1e-1), llamas.code)
    recipe = trio.recipe(path_of(SIGNED))
    resident = Resident(recipe.parameter_part)
    resident.materialize(recipe)

    near(logits_of(resident.model), logits_of(exported(recipe, tmp_path / "out")))


def test_families_without_the_property_are_refused(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests.evomerge.merge.flow.trio import SHAPE

    config = AutoConfig.for_model("gemma2", **SHAPE, head_dim=8)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "m")
    recipe = Trio(*[tmp_path / "m"] * 3).recipe(path_of())
    with pytest.raises(ArchitectureError, match="Gemma 2"):
        Resident(recipe.parameter_part).materialize(recipe)


def test_the_checkpoint_of_a_whole_path_through_the_base_is_bitwise_live(llamas: Trio, resident: Resident) -> None:
    resident.materialize(llamas.recipe(path_of((1.0,) * 3, hops=[("base", n) for n in range(3)])))
    live = dict(resident.model.named_parameters())
    stored = load_file(llamas.base / "model.safetensors")

    assert all(torch.equal(live[name], stored[name]) for name in stored)
