"""A path's exported checkpoint, loaded by plain transformers, against the path worked out layer by layer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from evomerge.errors import ArchitectureError, InvalidInputError
from evomerge.merge.execute import foresee, merge_to_directory
from evomerge.merge.plan import plan
from evomerge.recipe.schema import Recipe
from evomerge.recipe.text import dump_yaml, load_recipe
from tests.evomerge.merge.conftest import Zoo
from tests.evomerge.merge.flow.trio import (
    FAMILIES,
    HOPS,
    SCALES,
    SHAPE,
    SIGNED,
    TEXT,
    Trio,
    load,
    logits_of,
    make_model,
    make_trio,
    path_of,
    walked,
)


def exported(recipe: Recipe, out: Path, **asked: Any) -> Path:
    return merge_to_directory(recipe, out, root=out.parent, check_hashes=False, **asked)


def agree(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-3) -> None:
    assert (found - expected).abs().max() < tolerance
    assert torch.equal(found.argmax(-1), expected.argmax(-1))


def config_of(place: Path) -> dict[str, Any]:
    return json.loads((place / "config.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("semantics", ["stream", "delta"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_checkpoint_is_the_path(trios: Mapping[str, Trio], family: str, semantics: str, tmp_path: Path) -> None:
    trio, path = trios[family], path_of(SIGNED, semantics)
    found = logits_of(load(exported(trio.recipe(path), tmp_path / "out")))

    agree(found, walked(trio.places, path))


@pytest.mark.parametrize("scales", [SCALES, (1.0,) * 7, (-0.8, -1.0, 1.3, -0.7, 1.0, 1.1, -2.0)])
def test_whatever_the_signs_are(llamas: Trio, scales: tuple[float, ...], tmp_path: Path) -> None:
    path = path_of(scales)

    agree(logits_of(load(exported(llamas.recipe(path), tmp_path / "out"))), walked(llamas.places, path))


def test_the_two_semantics_are_two_models(llamas: Trio) -> None:
    stream, delta = (walked(llamas.places, path_of(SCALES, semantics)) for semantics in ("stream", "delta"))

    assert (stream - delta).abs().max() > 0.1


def test_the_last_output_of_a_delta_path_is_not_scaled_and_one_may_be_left_out(llamas: Trio, tmp_path: Path) -> None:
    path = path_of((1.0, 0.0, 1.0, 1.0, 0.5, 1.0, 3.0), "delta")

    agree(logits_of(load(exported(llamas.recipe(path), tmp_path / "out"))), walked(llamas.places, path))


def test_a_path_through_all_layers_of_the_base_is_the_base(llamas: Trio, tmp_path: Path) -> None:
    path = path_of((1.0,) * 3, hops=[("base", n) for n in range(3)])
    made = load_file(exported(llamas.recipe(path), tmp_path / "out") / "model.safetensors")
    base = load_file(llamas.base / "model.safetensors")

    assert set(made) == set(base)
    assert all(torch.equal(made[name], base[name]) for name in base)


def test_the_host_lends_what_stands_outside_the_layers(llamas: Trio, tmp_path: Path) -> None:
    path = path_of(SIGNED, host="code")

    agree(logits_of(load(exported(llamas.recipe(path), tmp_path / "out"))), walked(llamas.places, path))


@pytest.mark.parametrize("first", [1.0, 0.7])
def test_a_tied_head_stays_tied_unless_the_embedding_is_scaled(tmp_path: Path, first: float) -> None:
    trio, path = make_trio(tmp_path, "llama", tie_word_embeddings=True), path_of((first, *SIGNED[1:]))
    out = exported(trio.recipe(path), tmp_path / "out")

    assert config_of(out)["tie_word_embeddings"] == (first == 1)
    assert ("lm_head.weight" in load_file(out / "model.safetensors")) == (first != 1)
    agree(logits_of(load(out)), walked(trio.places, path))


def test_models_may_differ_in_depth_and_vocabulary(tmp_path: Path) -> None:
    base, math = (
        make_model(tmp_path / "base", "llama", 0),
        make_model(tmp_path / "math", "llama", 1, num_hidden_layers=5, vocab_size=120),
    )
    path = path_of((1.0, -0.9, 1.1), hops=[("base", 0), ("math", 4), ("base", 2)])
    trio = Trio(base, math, math)

    agree(logits_of(load(exported(trio.recipe(path), tmp_path / "out"))), walked(trio.places, path))


def test_a_path_may_visit_what_the_recipe_merges(llamas: Trio, tmp_path: Path) -> None:
    hops = [("merged", 0), ("base", 1), ("merged", 1), ("math", 2), ("merged", 2)]
    path = path_of(SIGNED[:5], host="merged", hops=hops)
    recipe = llamas.hybrid(path)
    merged = exported(recipe.parameter_part, tmp_path / "merged")
    out = exported(recipe, tmp_path / "out")

    agree(logits_of(load(out)), walked({**llamas.places, "merged": merged}, path))
    assert load_recipe(out / "recipe.yaml").path == path
    assert sorted(p.name for p in tmp_path.iterdir()) == ["merged", "out"]


def test_a_path_may_visit_the_model_of_another_recipe(llamas: Trio, tmp_path: Path) -> None:
    inner = llamas.hybrid(path_of())
    (tmp_path / "inner.yaml").write_text(dump_yaml(inner))
    made = exported(inner, tmp_path / "made")
    trio = Trio(llamas.base, tmp_path / "inner.yaml", llamas.code)
    path = path_of((1.0, 1.1, 0.9), hops=[("base", 0), ("math", 6), ("math", 3)])
    out = exported(trio.recipe(path), tmp_path / "out")

    agree(logits_of(load(out)), walked({"base": llamas.base, "math": made}, path))


def test_layers_of_an_adapter_are_those_of_the_base_with_it(zoo: Zoo, tmp_path: Path) -> None:
    hops = [("base", 0), ("es", 1), ("ja", 1), ("es", 2)]
    path = path_of((1.0, 1.2, -0.8, 1.1), host="es", hops=hops)
    recipe = zoo.recipe("passthrough", "es", "ja", dtype="float32").model_copy(update={"path": path})
    whole = {name: exported(zoo.recipe("passthrough", name, dtype="float32"), tmp_path / name) for name in ("es", "ja")}

    agree(logits_of(load(exported(recipe, tmp_path / "out"))), walked({"base": zoo.base, **whole}, path))


def test_bfloat16_is_as_near_as_bfloat16_is(tmp_path: Path) -> None:
    trio, path = make_trio(tmp_path, "llama", dtype=torch.bfloat16), path_of(SIGNED)
    out = exported(trio.recipe(path, "bfloat16"), tmp_path / "out")
    reference = walked(trio.places, path)
    error = (logits_of(load(out)) - reference).norm() / reference.norm()

    assert AutoConfig.from_pretrained(out).dtype == torch.bfloat16
    assert error < 0.02


def test_the_bytes_depend_neither_on_threads_nor_on_files(llamas: Trio, tmp_path: Path) -> None:
    recipe = llamas.recipe(path_of(SIGNED), "bfloat16")
    one = load_file(exported(recipe, tmp_path / "one", threads=1) / "model.safetensors")
    shards = exported(recipe.model_copy(update={"shard_bytes": 20_000}), tmp_path / "many", threads=4)
    many = {name: t for file in shards.glob("*.safetensors") for name, t in load_file(file).items()}

    assert len(list(shards.glob("*.safetensors"))) > 3
    assert set(one) == set(many)
    assert all(torch.equal(one[name].view(torch.int16), many[name].view(torch.int16)) for name in one)


def test_every_hop_keeps_its_layers_kind(trios: Mapping[str, Trio], tmp_path: Path) -> None:
    out = exported(trios["qwen2"].recipe(path_of()), tmp_path / "out")
    kinds = {0: "full_attention", 1: "sliding_attention", 2: "sliding_attention"}

    assert config_of(out)["num_hidden_layers"] == 7
    assert config_of(out)["layer_types"] == [kinds[hop.layer] for hop in path_of().layers]


def test_generation_with_the_cache_gives_what_it_gives_without(llamas: Trio, tmp_path: Path) -> None:
    model = load(exported(llamas.recipe(path_of(SIGNED)), tmp_path / "out"))
    asked = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(TEXT)}

    assert torch.equal(model.generate(TEXT, **asked), model.generate(TEXT, use_cache=False, **asked))


def test_the_card_says_what_the_path_is(llamas: Trio, tmp_path: Path) -> None:
    out = exported(llamas.recipe(path_of()), tmp_path / "out")
    card = (out / "README.md").read_text()

    assert "| base | 0 to 1 |\n| math | 1 to 1 |" in card
    assert "arXiv:2403.13187" in card
    assert "linear" not in card


def test_a_dry_run_knows_what_will_be_written(llamas: Trio, tmp_path: Path) -> None:
    recipe = llamas.hybrid(path_of(hops=(*HOPS[:6], ("merged", 2))))
    found = foresee(recipe, tmp_path / "out", root=tmp_path)
    weights = load_file(exported(recipe, tmp_path / "out") / "model.safetensors")

    assert found.bytes_written == sum(tensor.nbytes for tensor in weights.values())
    assert found.tensors_merged + found.tensors_copied == len(weights)
    assert found.built_first == ("merged",)


def test_a_layer_that_does_not_exist_is_refused(llamas: Trio, tmp_path: Path) -> None:
    path = path_of((1.0, 1.0), hops=[("base", 0), ("math", 3)])
    with pytest.raises(InvalidInputError, match=r"path.layers\[1\].layer: got 3; expected layers 0 to 2 of math"):
        exported(llamas.recipe(path), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("family", "asked", "why"),
    [
        ("gemma2", {"head_dim": 8}, "Gemma 2.*post-norms"),
        ("gemma3_text", {"head_dim": 8}, "Gemma 3.*post-norms"),
        ("gpt_neox", {}, "GPT-NeoX.*parallel blocks"),
        ("gpt2", {}, "GPT-2.*positions"),
    ],
)
def test_families_without_the_property_are_refused(
    family: str, asked: dict[str, Any], why: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SHAPE, **asked)).save_pretrained(tmp_path / "m")
    trio = Trio(*[tmp_path / "m"] * 3)
    with pytest.raises(ArchitectureError, match=why):
        exported(trio.recipe(path_of()), tmp_path / "out")


def test_models_whose_layers_do_not_fit_are_refused(llamas: Trio, trios: Mapping[str, Trio], tmp_path: Path) -> None:
    wide = make_model(tmp_path / "wide", "llama", 0, intermediate_size=64)
    bare = make_model(tmp_path / "bare", "llama", 0, mlp_bias=False)
    heads = make_model(tmp_path / "heads", "llama", 0, num_attention_heads=2, num_key_value_heads=2, head_dim=8)
    wrong = {
        wide: r"down_proj.weight' is \[32, 64\] in layer 1 of 'math' and \[32, 48\] in layer 0 of 'base'",
        bare: "only one of layer 1 of 'math' and layer 0 of 'base' has",
        heads: "'math' has num_attention_heads 2, the host 'base' has 4",
        trios["qwen2"].math: "'math' is of the family 'qwen2', the host 'base' is 'llama'",
    }
    for place, why in wrong.items():
        with pytest.raises(ArchitectureError, match=why):
            exported(Trio(llamas.base, place, llamas.code).recipe(path_of()), tmp_path / "out")


def test_what_works_on_parameters_alone_does_not_take_a_path(llamas: Trio) -> None:
    with pytest.raises(InvalidInputError, match="path: got '7 layers'; expected no path"):
        plan(llamas.recipe(path_of()), {}, None, {})  # type: ignore[arg-type]  # nothing else is looked at


def test_config_values_that_differ_are_said(llamas: Trio, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = make_model(tmp_path / "other", "llama", 1, rms_norm_eps=1e-3)
    exported(Trio(llamas.base, other, llamas.code).recipe(path_of()), tmp_path / "out")

    assert "'math' was made for rms_norm_eps 0.001" in caplog.text
