from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evomerge.errors import EvomergeError, InvalidInputError
from evomerge.merge.mergekit.read import Imported, read_mergekit
from evomerge.recipe.document import dump_yaml_data

NUM_LAYERS = 4


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shape") / "config.json"
    path.write_text(json.dumps({"model_type": "llama", "num_hidden_layers": NUM_LAYERS, "dtype": "float16"}))
    return path


def read(data: Any, config: Path | None = None) -> Imported:
    return read_mergekit(data if isinstance(data, str) else dump_yaml_data(data), "merge.yaml", config=config)


TWO = [{"model": "me/a", "parameters": {"weight": 0.5}}, {"model": "me/b", "parameters": {"weight": 0.5}}]
LINEAR = {"merge_method": "linear", "models": TWO, "dtype": "float32"}
BASED = {"merge_method": "task_arithmetic", "base_model": "me/base", "models": TWO, "dtype": "float32"}


SOURCE = {"model": "me/a", "layer_range": [0, 2], "parameters": {"weight": 1}}
SHORT = "merge_method: linear\nmodels: [{model: b}]"
SLICED = {"merge_method": "linear", "slices": [{"sources": [SOURCE]}], "dtype": "float32"}


@pytest.mark.parametrize(
    ("data", "field", "allowed"),
    [
        ("", "merge.yaml", "a configuration of mergekit"),
        ("- 1", "merge.yaml:1", "a mapping"),
        ("a: [", "merge.yaml:2", "valid YAML"),
        ({**LINEAR, "merge_method": "magic"}, "merge_method", "a method of mergekit 0.1.5: linear,"),
        ({"models": TWO}, "merge_method", "it is required"),
        ({**LINEAR, "slices": []}, "", "exactly one of `models` and `slices`"),
        ({**LINEAR, "models": []}, "models", "at least one entry"),
        ({**LINEAR, "models": "me/a"}, "models", "at least one entry"),
        ({**LINEAR, "models": ["me/a"]}, "models[0]", "a mapping"),
        ({**LINEAR, "models": [{"parameters": {}}]}, "models[0].model", "it is required"),
        ({**LINEAR, "models": [TWO[0], TWO[0]]}, "models[1].model", "every model once"),
        ({"base_model": "me/a", "experts": [], "gate_mode": "hidden"}, "experts", "mixtures of experts"),
        ({"merge_method": "linear", "modules": {"text": {}}}, "modules", "`models` or `slices`"),
        ({**LINEAR, "dtype": "float64"}, "dtype", "one of float32, bfloat16, float16"),
        ({**LINEAR, "dtype": 16}, "dtype", "text"),
        ({**LINEAR, "tokenizer_source": "me/c"}, "tokenizer_source", "a model that is merged: me/a, me/b"),
        ({**LINEAR, "tokenizer_source": "base", "tokenizer": {}}, "tokenizer", "not both"),
        ({**LINEAR, "tokenizer": {"pad_to_multiple_of": 0}}, "tokenizer.pad_to_multiple_of", "a whole number from 1"),
        ({**LINEAR, "tokenizer": {"tokens": {"x": 3}}}, "tokenizer.tokens.x", "`source`"),
        (
            {**LINEAR, "tokenizer": {"tokens": {"x": {"source": {"kind": "model_token", "model": "me/a"}}}}},
            "tokenizer.tokens.x.source",
            "`token_id`",
        ),
        ({**LINEAR, "chat_template": "chatml"}, "chat_template", "Jinja"),
        ({**LINEAR, "models": [{"model": "me/a+me/b+me/c"}]}, "models[0].model", "MODEL+LORA"),
        ({**LINEAR, "models": [{"model": "me/a@1@2"}]}, "models[0].model", "PLACE@REVISION"),
        ({**LINEAR, "models": [{"model": 7}]}, "models[0].model", "MODEL"),
        (
            {**LINEAR, "models": [{"model": {"model": "me/a", "override_architecture": "X"}}]},
            "models[0].model.override_architecture",
            "the config's own",
        ),
        ({**LINEAR, "models": [{"model": "me/a"}]}, "parameters.weight", "mergekit has no default"),
        ({**LINEAR, "parameters": {"normalize": "perhaps"}}, "parameters.normalize", "true or false"),
        ({**LINEAR, "parameters": [1]}, "parameters", "a mapping"),
        ({**LINEAR, "parameters": {"weight": {"value": [[1]]}}}, "parameters.weight.value", "a list of values"),
        ({**LINEAR, "parameters": {"weight": [1, {"value": 1}]}}, "parameters.weight[0]", "`value`"),
        ({**LINEAR, "parameters": {"weight": {"filter": 1, "value": 1}}}, "parameters.weight.filter", "names"),
        (
            {**LINEAR, "models": [{"model": "me/a", "parameters": {"weight": "heavy"}}]},
            "models[0].parameters.weight",
            "a number",
        ),
        (
            {**LINEAR, "models": [{"model": "me/a", "parameters": {"weight": [0, 1]}}]},
            "models[0].parameters.weight",
            "--config",
        ),
        ({**BASED, "base_model": None}, "base_model", "needs a base_model"),
        ({**BASED, "merge_method": "nearswap", "parameters": {"t": 1}}, "models", "1 models beside the base"),
        ({**BASED, "merge_method": "model_stock", "models": TWO[:1]}, "models", "2 or more models beside the base"),
        ({**BASED, "merge_method": "ties", "parameters": {"density": 2}}, "parameters.density", "[0, 1]"),
        ({**LINEAR, "merge_method": "slerp", "base_model": "me/c", "parameters": {"t": 1}}, "models", "2 models for"),
        ({**SLICED, "slices": [{"sources": [{"model": "me/a"}]}]}, "slices[0].sources[0].layer_range", "[first, end]"),
        (
            {**SLICED, "slices": [{"sources": [{**SOURCE, "layer_range": [2, 2]}]}]},
            "slices[0].sources[0].layer_range",
            "first < end",
        ),
        ({**SLICED, "slices": [{}]}, "slices[0].sources", "a list of models"),
        (
            {**SLICED, "slices": [{"sources": [SOURCE, {**SOURCE, "model": "me/b", "layer_range": [0, 3]}]}]},
            "slices[0].sources",
            "as many layers",
        ),
        (
            {**SLICED, "merge_method": "task_arithmetic", "base_model": "me/base"},
            "base_model",
            "one of the models of the slice: me/a",
        ),
        (
            {
                "merge_method": "task_arithmetic",
                "base_model": "me/a",
                "slices": [
                    {"sources": [SOURCE, {**SOURCE, "model": "me/b"}]},
                    {"base_model": "me/b", "sources": [SOURCE, {**SOURCE, "model": "me/b"}]},
                ],
            },
            "slices[1].base_model",
            "me/a in all slices",
        ),
        ("name: a\n" + "merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: 1}", "name", "in a circle"),
        (f"name: a\n{SHORT}\n---\nname: a\n{SHORT}", "name", "no other document"),
        (f"name: a\n{SHORT}\n---\nname: c\n{SHORT}", "name", "that no other uses"),
        (f"{SHORT}\n---\n{SHORT}", "name", "one document only"),
    ],
)  # fmt: skip
def test_what_recipes_cannot_say_is_refused_by_file_line_and_field(data: Any, field: str, allowed: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        read(data)

    assert caught.value.field.startswith("merge.yaml")
    assert caught.value.field.endswith(field)
    assert allowed in caught.value.allowed


def test_a_filter_between_weight_and_bias_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_type": "qwen2", "num_hidden_layers": 2}))
    models = [{"model": "me/a", "parameters": {"weight": [{"filter": "bias", "value": 0}, {"value": 1}]}}]

    with pytest.raises(InvalidInputError, match="give all tensors of"):
        read({**LINEAR, "models": models}, file)


PIECES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 10**400)
    | st.floats()
    | st.sampled_from(["", "me/a", "union", "x@y", "*"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["model", "value", "filter", "path", "source", "kind"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([LINEAR, BASED, SLICED]), st.data())
def test_no_file_ends_in_a_traceback(config: Path, data: dict[str, Any], draw: st.DataObject) -> None:
    """One or two places of a good file replaced by something else."""
    broken = json.loads(json.dumps(data))
    for _ in range(draw.draw(st.integers(1, 2))):
        at = broken
        while isinstance(at, dict | list) and at:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            key = draw.draw(st.sampled_from([*keys, *(["tokenizer", "base_model"] if at is broken else [])]))
            if not isinstance(at, dict | list) or draw.draw(st.booleans()) or key not in keys:
                at[key] = draw.draw(PIECES)
                break
            at = at[key]
    text = dump_yaml_data(broken)

    with contextlib.suppress(EvomergeError):
        assert read_mergekit(text, config=config).recipe.sources


@settings(deadline=None, max_examples=150)
@given(st.text(alphabet="ab:-{}[]#&*!|>'\"\n \t%@,?0", max_size=60))
def test_no_text_ends_in_a_traceback(text: str) -> None:
    with pytest.raises(EvomergeError):
        read_mergekit(text)
