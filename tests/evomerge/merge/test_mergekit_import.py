from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import InvalidInputError
from evomerge.merge.mergekit.read import Imported, read_mergekit
from evomerge.merge.mergekit.write import to_mergekit
from evomerge.merge.methods import METHODS
from evomerge.merge.parameters import resolve
from evomerge.models.architecture import Part
from evomerge.recipe.document import dump_yaml_data
from evomerge.recipe.schema import ModelRef, Rule

NUM_LAYERS = 4


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shape") / "config.json"
    path.write_text(json.dumps({"model_type": "llama", "num_hidden_layers": NUM_LAYERS, "dtype": "float16"}))
    return path


def read(data: Any, config: Path | None = None) -> Imported:
    return read_mergekit(data if isinstance(data, str) else dump_yaml_data(data), "merge.yaml", config=config)


def merge_of(data: Any, config: Path | None = None) -> Any:
    return read(data, config).recipe.model_dump(mode="json", exclude_none=True, exclude_defaults=True)["merge"]


TWO = [{"model": "me/a", "parameters": {"weight": 0.5}}, {"model": "me/b", "parameters": {"weight": 0.5}}]
LINEAR = {"merge_method": "linear", "models": TWO, "dtype": "float32"}
BASED = {"merge_method": "task_arithmetic", "base_model": "me/base", "models": TWO, "dtype": "float32"}


def test_filters_and_gradients_become_rules_and_knots(config: Path) -> None:
    t = [{"filter": "self_attn", "value": [0, 0.5, 1]}, {"filter": "mlp", "value": 0.25}, {"value": 0.5}]
    data = {"merge_method": "slerp", "base_model": "me/a", "models": TWO, "parameters": {"t": t}, "dtype": "float32"}

    assert merge_of(data, config) == {
        "method": "slerp",
        "parameters": {"t": [0.0, 0.5, 1.0]},
        "rules": [
            {"roles": ["embedding", "head", "norm"], "parameters": {"t": 0.5}},
            {"roles": ["mlp"], "parameters": {"t": 0.25}},
        ],
    }  # fmt: skip


def test_a_gradient_is_read_at_its_first_entry_after_the_layers_too(config: Path) -> None:
    models = [{"model": "me/a", "parameters": {"weight": [0.0, 1.0]}}, TWO[1]]
    found = read({**LINEAR, "models": models}, config).recipe

    for role, layer, weight in (("embedding", None, 0.0), ("norm.final", None, 0.0), ("mlp.up", 3, 1.0)):
        per_source = resolve(METHODS["linear"], found.merge, ("a", "b"), Part(role, layer), NUM_LAYERS)[1]
        assert per_source["a"]["weight"] == pytest.approx(weight)


def test_a_slice_of_one_layer_reads_gradients_at_their_end() -> None:
    source = {"model": "me/a", "layer_range": [2, 3], "parameters": {"weight": [0.25, 0.75]}}
    data = {"merge_method": "linear", "slices": [{"sources": [source]}], "dtype": "float32"}

    with pytest.raises(InvalidInputError, match=r"--config"):
        read(data)


def test_slices_need_no_models_where_only_layers_differ() -> None:
    slices = [
        {"sources": [{"model": "me/a", "layer_range": [0, 8]}], "parameters": {"scale": 1.0}},
        {"sources": [{"model": "me/b", "layer_range": [4, 12], "parameters": {"scale": 0.5}}]},
        {"sources": [{"model": "me/a", "layer_range": [12, 20]}]},
    ]
    found = read({"merge_method": "passthrough", "slices": slices, "dtype": "bfloat16"}).recipe

    assert found.slices is not None
    assert [(part.base, part.sources) for part in found.slices] == [
        (None, {"a": (0, 7)}), (None, {"b": (4, 11)}), (None, {"a": (12, 19)}),
    ]  # fmt: skip
    assert found.merge.parameters == {"scale": 1.0}
    assert found.merge.rules == (Rule(layers=(8, 15), parameters={"scale": 0.5}),)


def test_values_on_four_levels_win_as_in_mergekit(config: Path) -> None:
    source = {"model": "me/a", "layer_range": [0, 4], "parameters": {"weight": [{"filter": "q_proj", "value": 0.9}]}}
    other = {"model": "me/b", "layer_range": [0, 4]}
    data = {
        "merge_method": "linear",
        "slices": [{"sources": [source, other], "parameters": {"weight": [{"filter": "mlp", "value": 0.3}]}}],
        "parameters": {"weight": 0.5},
        "dtype": "float32",
    }
    found = read(data, config).recipe.merge

    for role, weights in (("attention.q", (0.9, 0.5)), ("mlp.up", (0.3, 0.3)), ("norm.mlp", (0.5, 0.5))):
        values = resolve(METHODS["linear"], found, ("a", "b"), Part(role, 1), 4)[1]
        assert (values["a"]["weight"], values["b"]["weight"]) == weights


def test_filters_on_layer_numbers_mean_the_models_own_layers(config: Path) -> None:
    weight = [{"filter": "layers.3.", "value": 0.75}, {"value": 0.25}]
    source = {"model": "me/a", "layer_range": [2, 4], "parameters": {"weight": weight}}
    data = {"merge_method": "linear", "slices": [{"sources": [source]}], "dtype": "float32"}
    found = read(data, config).recipe.merge

    values = [resolve(METHODS["linear"], found, ("a",), Part("mlp.up", n), 2)[1]["a"]["weight"] for n in (0, 1)]
    assert values == [0.25, 0.75]


def test_what_mergekit_does_unasked_is_stated() -> None:
    found = merge_of({**BASED, "merge_method": "ties"})

    assert found["parameters"] == {
        "normalize": True, "rescale": "none", "lambda": 1.0, "scope": "tensor", "election": "mass",
        "sign_ties": "positive", "divisor": "signed",
    }  # fmt: skip
    assert found["sources"] == {"a": {"weight": 0.5, "density": 1.0}, "b": {"weight": 0.5, "density": 1.0}}


# Models.


def test_places_are_directories_repositories_and_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    models = [{"model": place} for place in ("here", "me/base+me/lora@v2", "me/other@v1", "me/other@v1+me/lora@v2")]
    found = read({**BASED, "models": models, "parameters": {"weight": 1.0}})

    assert {name: (ref.location, ref.revision) for name, ref in found.recipe.sources.items()} == {
        "here": (str(tmp_path / "here"), None),
        "lora": ("hub:me/lora", "v2"),
        "other": ("hub:me/other", "v1"),
        "lora-2": ("other-with-lora.yaml", None),
    }
    (file,) = found.files.items()
    assert file[0] == "other-with-lora.yaml"
    assert (file[1].base, file[1].merge.method) == (ModelRef(location="hub:me/other", revision="v1"), "passthrough")
    assert file[1].sources == {"lora": ModelRef(location="hub:me/lora", revision="v2")}


def test_models_may_be_mappings() -> None:
    models = [{"model": {"model": {"path": "me/a", "revision": "v1"}}, "parameters": {"weight": 1}}]

    assert read({**LINEAR, "models": models}).recipe.sources == {"a": ModelRef(location="hub:me/a", revision="v1")}


def test_a_base_that_is_not_listed_is_merged_where_it_is_a_model_like_any_other() -> None:
    found = read({**LINEAR, "base_model": "me/base", "parameters": {"weight": 0.25}}).recipe

    assert found.base.location == "hub:me/base"
    assert found.sources["base-model"].location == "hub:me/base"
    assert found.merge.sources["base-model"] == {"weight": 0.25}


def test_several_documents_are_recipes_that_use_each_other() -> None:
    text = (
        "name: one\nmerge_method: linear\ndtype: float32\nmodels: [{model: me/a, parameters: {weight: 1}}]\n---\n"
        "name: two\nmerge_method: task_arithmetic\nbase_model: one\ndtype: float16\n"
        "models: [{model: me/b, parameters: {weight: 0.5}}]\n---\n"
        "merge_method: linear\ndtype: bfloat16\nparameters: {weight: 1}\nmodels: [{model: one}, {model: two}]\n"
    )
    found = read(text)

    assert {name: ref.location for name, ref in found.recipe.sources.items()} == {"one": "one.yaml", "two": "two.yaml"}
    assert found.files["two.yaml"].base.location == "one.yaml"
    assert [found.recipe.dtype, found.files["one.yaml"].dtype, found.files["two.yaml"].dtype] == [
        "bfloat16", "float32", "float16",
    ]  # fmt: skip


# Vocabulary, dtype and what is only noted.


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"tokenizer": "same"}),
        ({"tokenizer_source": "union"}, {"tokenizer": "union"}),
        ({"tokenizer_source": "me/b"}, {"tokenizer": "b"}),
        ({"tokenizer_source": "me/base"}, {"tokenizer": "base"}),
        ({"tokenizer": {"pad_to_multiple_of": 8}}, {"tokenizer": "union", "pad_to_multiple_of": 8}),
        ({"chat_template": "auto"}, {"tokenizer": "same", "chat_template": "auto"}),
        (
            {
                "tokenizer": {
                    "source": "base",
                    "tokens": {
                        "<a>": {"source": "me/a"},
                        "<b>": {"source": {"kind": "zero"}, "force": True},
                        "<c>": {"source": {"kind": "model_token", "model": "me/base", "token": "x"}},
                        "<d>": {},
                    },
                }
            },
            {
                "tokenizer": "base",
                "tokens": {
                    "<a>": {"model": "a", "force": False},
                    "<b>": {"fill": "zero", "force": True},
                    "<c>": {"model": "base", "token": "x", "force": False},
                    "<d>": {"force": False},
                },
            },
        ),
    ],
)
def test_vocabularies_come_in_and_go_out(given: dict[str, Any], expected: dict[str, Any]) -> None:
    recipe = read({**BASED, **given}).recipe
    again = read(to_mergekit(recipe, NUM_LAYERS, adapters=())).recipe

    fields = {"tokenizer", "tokens", "pad_to_multiple_of", "chat_template"}
    assert recipe.model_dump(mode="json", include=fields, exclude_none=True) == expected
    assert again.model_dump(include=fields) == recipe.model_dump(include=fields)


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        ({"dtype": "float16"}, "float16"),
        ({"dtype": "torch.float32"}, "float32"),
        ({"dtype": "float32", "out_dtype": "bfloat16"}, "bfloat16"),
        ({"dtype": None}, "bfloat16"),
    ],
)
def test_the_result_has_the_dtype_that_mergekit_writes(given: dict[str, Any], dtype: str) -> None:
    assert read({**LINEAR, **given}).recipe.dtype == dtype


def test_without_a_dtype_it_is_the_bases(config: Path) -> None:
    assert read({**LINEAR, "dtype": None}, config).recipe.dtype == "float16"


def test_what_is_read_over_is_noted() -> None:
    notes = read({**LINEAR, "dtype": "bfloat16", "author": "me", "parameters": {"int8_mask": True, "wieght": 1}}).notes

    assert len(notes) == 3
    assert notes[0].startswith("dtype bfloat16: mergekit rounds what it reads")
    assert notes[1:] == (
        "author: read over, as mergekit does",
        "parameters.wieght: read over, as mergekit does: linear has no such parameter",
    )
