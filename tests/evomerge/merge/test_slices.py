from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from evomerge.errors import EvomergeError, InvalidInputError
from evomerge.merge.execute import merge_to_directory
from evomerge.merge.resident import Resident
from evomerge.merge.slices import sliced_config
from evomerge.models.source import open_checkpoint, open_source
from evomerge.recipe.schema import Recipe
from evomerge.recipe.slices import Slice
from evomerge.recipe.text import dump_yaml, load_yaml, validate

Read = Callable[[Path], dict[str, Tensor]]
UP = "model.layers.{}.mlp.up_proj.weight"
Q = "model.layers.{}.self_attn.q_proj.weight"


def sliced(zoo: Any, method: str, slices: list[dict[str, Any]], *names: str, **more: Any) -> Recipe:
    plain: Recipe = zoo.recipe(method, *names, **more)
    data = plain.model_dump(by_alias=True) | {"slices": slices}
    return Recipe.model_validate(data)


def merged(recipe: Recipe, tmp_path: Path, tensors: Read) -> dict[str, Tensor]:
    return tensors(merge_to_directory(recipe, tmp_path / "out", root=tmp_path, check_hashes=False))


def test_layers_of_single_models_are_stacked(zoo: Any, tmp_path: Path, tensors: Read) -> None:
    slices = [{"sources": {"code": [0, 1]}}, {"sources": {"math": [0, 2]}}, {"base": [2, 2]}]
    found = merged(sliced(zoo, "passthrough", slices, "code", "math"), tmp_path, tensors)
    code, math, base = tensors(zoo.sources["code"]), tensors(zoo.sources["math"]), tensors(zoo.base)

    origins = [(code, 0), (code, 1), (math, 0), (math, 1), (math, 2), (base, 2)]
    for at, (model, layer) in enumerate(origins):
        assert torch.equal(found[UP.format(at)], model[UP.format(layer)])
    assert len(found) == 2 + 9 * 6
    assert torch.equal(found["model.embed_tokens.weight"], code["model.embed_tokens.weight"])
    assert torch.equal(found["model.norm.weight"], base["model.norm.weight"])


def test_what_comes_before_the_layers_is_the_first_slices_and_what_comes_after_the_last_ones(
    zoo: Any, tmp_path: Path, tensors: Read
) -> None:
    slices = [{"sources": {"code": [0, 1]}}, {"sources": {"math": [1, 2]}}]
    found = merged(sliced(zoo, "passthrough", slices, "code", "math"), tmp_path, tensors)

    name = "model.norm.weight"
    assert torch.equal(found["model.embed_tokens.weight"], tensors(zoo.sources["code"])["model.embed_tokens.weight"])
    assert torch.equal(found[name], tensors(zoo.sources["math"])[name])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_hidden_layers"] == 4


def test_a_slice_merges_shifted_layers_around_the_bases(zoo: Any, tmp_path: Path, tensors: Read) -> None:
    slices = [
        {"base": [0, 2], "sources": {"code": [0, 2], "math": [0, 2]}},
        {"base": [0, 1], "sources": {"code": [1, 2], "math": [0, 1]}},
    ]
    asked = sliced(zoo, "task_arithmetic", slices, "code", "math", parameters={"weight": 0.5}, dtype="float32")
    found = merged(asked, tmp_path, tensors)
    base, code, math = (tensors(p) for p in (zoo.base, zoo.sources["code"], zoo.sources["math"]))

    theta0 = base[UP.format(1)].float()
    expected = theta0 + 0.5 * (code[UP.format(2)].float() - theta0) + 0.5 * (math[UP.format(1)].float() - theta0)
    assert torch.allclose(found[UP.format(4)], expected, atol=1e-6)


def test_a_slice_without_a_base_averages_its_models(zoo: Any, tmp_path: Path, tensors: Read) -> None:
    slices = [{"base": [0, 1], "sources": {"code": [0, 1]}}, {"sources": {"code": [0, 0], "ja": [2, 2]}}]
    found = merged(sliced(zoo, "linear", slices, "code", "ja", dtype="float32"), tmp_path, tensors)
    with open_checkpoint(zoo.base) as base:
        adapter = open_source("ja", zoo.sources["ja"], base)
        q, up = adapter.weights(Q.format(2)), adapter.weights(UP.format(2))
    code = tensors(zoo.sources["code"])

    assert torch.allclose(found[Q.format(2)], (code[Q.format(0)].float() + q) / 2, atol=1e-6)
    assert torch.allclose(found[UP.format(2)], (code[UP.format(0)].float() + up) / 2, atol=1e-6)


def test_slices_that_stack_the_whole_base_change_nothing(zoo: Any, tmp_path: Path, tensors: Read) -> None:
    names = ("code", "math", "ja")
    whole = {"base": [0, 2], "sources": {name: [0, 2] for name in names}}
    parts = [{"base": [i, i], "sources": {name: [i, i] for name in names}} for i in range(3)]
    given = {"method": "ties", "parameters": {"weight": (0.2, 0.8), "density": 0.5}}

    plain = tensors(merge_to_directory(zoo.recipe(given["method"], *names, parameters=given["parameters"]),
                                       tmp_path / "plain", root=tmp_path, check_hashes=False))  # fmt: skip
    for number, slices in enumerate(([whole], parts)):
        asked = sliced(zoo, "ties", slices, *names, parameters=given["parameters"])
        found = tensors(merge_to_directory(asked, tmp_path / str(number), root=tmp_path, check_hashes=False))
        assert found.keys() == plain.keys()
        assert all(torch.equal(found[name], plain[name]) for name in plain)


def test_rules_and_knots_count_the_merged_models_layers(zoo: Any, tmp_path: Path, tensors: Read) -> None:
    slices = [{"base": [0, 2], "sources": {"code": [0, 2]}}, {"base": [0, 1], "sources": {"code": [0, 1]}}]
    parameters = {"weight": (0.0, 0.25, 0.5, 0.75, 1.0)}
    found = merged(sliced(zoo, "task_arithmetic", slices, "code", parameters=parameters, dtype="float32"), tmp_path,
                   tensors)  # fmt: skip
    base, code = tensors(zoo.base), tensors(zoo.sources["code"])

    for at, (layer, weight) in enumerate([(0, 0.0), (1, 0.25), (2, 0.5), (0, 0.75), (1, 1.0)]):
        b, c = (model[UP.format(layer)].float() for model in (base, code))
        assert torch.allclose(found[UP.format(at)], b + weight * (c - b), atol=1e-6)


@pytest.mark.parametrize("method", ["linear", "slerp", "ties"])
def test_a_live_model_gets_the_bytes_of_the_files(zoo: Any, tmp_path: Path, tensors: Read, method: str) -> None:
    slices = [
        {"base": [0, 1], "sources": {"code": [1, 2], "ja": [0, 1]}},
        {"base": [0, 0], "sources": {"code": [0, 0], "ja": [2, 2]}},
    ]
    asked = sliced(zoo, method, slices, "code", "ja")
    resident = Resident(zoo.recipe(method, "code", "ja"))
    resident.materialize(sliced(zoo, method, [{"base": [2, 2]}, {"base": [1, 2]}], "code", "ja"))
    resident.materialize(asked)

    live = dict(resident.model.named_parameters())
    for name, tensor in merged(asked, tmp_path, tensors).items():
        assert torch.equal(live[name], tensor), name

    resident.materialize(
        zoo.recipe("linear", "code", parameters={"weight": 0.0, "normalize": False}, sources={"code": {"weight": 1.0}})
    )
    code = tensors(zoo.sources["code"])
    assert all(torch.equal(live[name], code[name]) for name in code if name in live)


def test_a_live_model_keeps_its_depth(zoo: Any) -> None:
    resident = Resident(zoo.recipe("linear", "code"))

    with pytest.raises(InvalidInputError, match="slices: got '4 layers'; expected 3 layers of the base's kinds"):
        resident.materialize(sliced(zoo, "linear", [{"sources": {"code": [0, 1]}}] * 2, "code"))


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "gemma2", "gemma3_text"])
def test_stacks_of_models_with_lists_by_layer_load_and_answer(kind: str, tmp_path: Path) -> None:
    """Configs with an entry a layer (`layer_types`) fail to load when only their number of layers is changed."""
    config = AutoConfig.for_model(
        kind, vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, sliding_window=4, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        use_sliding_window=True,
    )  # fmt: skip
    config.layer_types = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    recipe = Recipe.model_validate(
        {
            "base": {"location": "base"},
            "sources": {"a": {"location": "base"}},
            "merge": {"method": "passthrough"},
            "slices": [{"sources": {"a": [0, 2]}}, {"sources": {"a": [1, 3]}}],
            "dtype": "float32",
        }
    )

    out = merge_to_directory(recipe, tmp_path / "out", root=tmp_path)

    model = AutoModelForCausalLM.from_pretrained(out)
    kinds = config.layer_types
    assert model.config.layer_types == [*kinds[:3], *kinds[1:]]
    assert torch.isfinite(model(torch.arange(12)[None]).logits).all()


def test_lists_that_a_config_only_implies_are_written_out() -> None:
    config = {"model_type": "gemma2", "num_hidden_layers": 4, "eos_token_id": [1, 106, 107, 108]}
    found = sliced_config(config, (Slice(base=(0, 1)), Slice(base=(1, 3))))

    kinds = AutoConfig.for_model("gemma2", num_hidden_layers=4).layer_types
    assert found == config | {"num_hidden_layers": 5, "layer_types": [kinds[i] for i in (0, 1, 1, 2, 3)]}


@pytest.mark.parametrize(
    ("method", "slices", "field", "allowed"),
    [
        ("linear", [{"sources": {"code": [0, 3]}}], "slices[0].sources.code", "layers 0 to 2"),
        ("linear", [{"base": [0, 1]}, {"base": [3, 3]}], "slices[1].base", "layers 0 to 2"),
        ("task_arithmetic", [{"sources": {"code": [0, 1]}}], "slices[0].base", "of 1 source(s) needs it"),
        ("slerp", [{"sources": {"code": [0, 1]}}], "slices[0].base", "layers of the base"),
        ("passthrough", [{"sources": {"code": [0, 1], "math": [0, 1]}}], "slices[0].sources", "1 source(s)"),
        (
            "ties",
            [
                {"base": [0, 1], "sources": {"code": [0, 1], "math": [0, 1]}},
                {"base": [0, 0], "sources": {"math": [1, 1]}},
            ],
            "slices[1].sources",
            "measures over the whole model",
        ),
    ],
)  # fmt: skip
def test_slices_that_cannot_be_are_refused_by_field(
    zoo: Any, tmp_path: Path, method: str, slices: list[dict[str, Any]], field: str, allowed: str
) -> None:
    asked = sliced(zoo, method, slices, "code", "math")

    with pytest.raises(InvalidInputError) as caught:
        merge_to_directory(asked, tmp_path / "out", root=tmp_path, check_hashes=False)

    assert caught.value.field == field
    assert allowed in caught.value.allowed


def test_a_chat_templates_name_is_refused(zoo: Any, tmp_path: Path) -> None:
    asked = Recipe.model_validate(zoo.recipe("linear").model_dump(by_alias=True) | {"chat_template": "chatml"})

    with pytest.raises(InvalidInputError, match=r"chat_template.*a Jinja template"):
        merge_to_directory(asked, tmp_path / "out", root=tmp_path, check_hashes=False)


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        ([{}], "layers of the base, of a source, or of several"),
        ([{"base": [2, 1]}], "0 <= first <= last"),
        ([{"base": [0, 10_000]}], "10000"),
        ([{"base": [0, 1], "sources": {"code": [0, 2]}}], "ranges of one length"),
        ([{"sources": {"x": [0, 2]}}], "one of the recipe's sources: code"),
        ([], "at least 1"),
    ],
)
def test_slices_that_mean_nothing_are_no_recipe(zoo: Any, slices: list[dict[str, Any]], message: str) -> None:
    data = zoo.recipe("linear", "code").model_dump(by_alias=True, mode="json") | {"slices": slices}

    with pytest.raises(EvomergeError) as caught:
        validate(Recipe, data)

    assert message in str(caught.value)


def test_slices_are_written_and_read_back(zoo: Any) -> None:
    asked = sliced(zoo, "linear", [{"base": [0, 1]}, {"sources": {"math": [1, 2], "code": [0, 1]}}], "code", "math")

    again = validate(Recipe, load_yaml(dump_yaml(asked)))

    assert again.digest == asked.digest
    assert asked.digest != zoo.recipe("linear", "code", "math").digest


@pytest.mark.parametrize("own", [None, "B"])
def test_chat_templates_are_the_recipes_or_the_commonest(zoo: Any, tmp_path: Path, own: str | None) -> None:
    places = {}
    for name, text in (("a", "{{ A }}"), ("b", "{{ B }}"), ("c", "{{ B }}")):
        places[name] = tmp_path / name
        places[name].mkdir()
        for file in (file for file in zoo.base.iterdir() if file.name != "chat_template.jinja"):
            (places[name] / file.name).write_bytes(file.read_bytes())
        (places[name] / "tokenizer_config.json").write_text(json.dumps({"chat_template": text, "x": 1}))
    data = {
        "base": {"location": "a"},
        "sources": {"b": {"location": "b"}, "c": {"location": "c"}},
        "merge": {"method": "linear"},
        "chat_template": "auto" if own is None else "{{ own }}",
    }

    out = merge_to_directory(Recipe.model_validate(data), tmp_path / "out", root=tmp_path)

    assert (out / "chat_template.jinja").read_text() == ("{{ B }}" if own is None else "{{ own }}")
    assert json.loads((out / "tokenizer_config.json").read_text()) == {"x": 1}
