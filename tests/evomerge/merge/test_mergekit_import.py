from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evomerge.errors import EvomergeError, InvalidInputError
from evomerge.merge.mergekit.methods import METHODS as THEIRS
from evomerge.merge.mergekit.methods import Term
from evomerge.merge.mergekit.read import Imported, read_mergekit
from evomerge.merge.mergekit.write import to_mergekit
from evomerge.merge.methods import METHODS
from evomerge.merge.parameters import check, resolve
from evomerge.models.architecture import Part
from evomerge.models.family import families
from evomerge.recipe.document import dump_yaml_data
from evomerge.recipe.schema import Merge, ModelRef, Recipe, Rule

NUM_LAYERS = 4
MODULES = families()["llama"].modules
ROLES = sorted(set(MODULES.values()))


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


# What comes in means what goes out.


def numbers(term: Term) -> st.SearchStrategy[Any]:
    if term.kind == "whole":
        return st.sampled_from([3.0, 5.0])
    one = st.sampled_from([0.0, 0.125, 0.25, 0.5])
    return one | st.lists(one, min_size=2, max_size=4).map(tuple)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    name = draw(st.sampled_from(sorted(THEIRS)))
    method = THEIRS[name]
    least = 1 if method.base == "end" else method.least
    count = draw(st.integers(least, method.most or 3)) if not draw(st.booleans()) else max(least, 1)
    sliced = draw(st.booleans())
    sources = "abc"[: min(count, 1 if method.base == "end" and not sliced else 3)]
    shared: dict[str, Any] = dict(method.fixed)
    if method.base == "optional":
        shared["origin"] = "zero" if name == "nuslerp" and not sliced else draw(st.sampled_from(["zero", "base"]))
    for term in method.shared:
        shared[term.name] = draw(numbers(term)) if term.kind != "flag" else term.ours(draw(st.booleans()))
    own = {s: {term.name: draw(numbers(term)) for term in method.per_source} for s in sources}
    rules = []
    terms = [term for term in method.terms if term.kind == "number"]
    for _ in range(draw(st.integers(0, 3)) if terms else 0):
        term = draw(st.sampled_from(terms))
        layers = draw(st.none() | st.tuples(st.integers(0, 3), st.integers(0, 3)).map(sorted).map(tuple))
        roles = draw(st.lists(st.sampled_from([*ROLES, "attention", "mlp", "norm"]), max_size=2).map(tuple))
        source = draw(st.sampled_from(sources)) if term.per_source else None
        rules.append(Rule(layers=layers, roles=roles, source=source, parameters={term.name: draw(numbers(term))}))
    slices = None
    if sliced:
        based = (
            method.base == "required" or shared.get("origin") == "base" or (method.base == "end" and len(sources) == 1)
        )
        slices = []
        for length in draw(st.sampled_from([(4,), (2, 2), (1, 3), (2, 1, 2)])):
            starts = {s: draw(st.integers(0, NUM_LAYERS - length)) for s in ("base", *sources)}
            ranges = {s: (at, at + length - 1) for s, at in starts.items()}
            slices.append({"base": ranges["base"] if based else None, "sources": {s: ranges[s] for s in sources}})
    return Recipe.model_validate(
        {
            "base": {"location": "/models/base"},
            "sources": {s: {"location": f"/models/{s}"} for s in sources},
            "merge": Merge(method=name, parameters=shared, sources=own, rules=tuple(rules)),
            "slices": slices,
            "dtype": draw(st.sampled_from(["float32", "bfloat16"])),
        }
    )


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(recipes())
def test_an_exported_recipe_is_imported_as_the_same_merge(config: Path, recipe: Recipe) -> None:
    again = read_mergekit(to_mergekit(recipe, NUM_LAYERS, adapters=()), config=config).recipe

    method, sources = METHODS[recipe.merge.method], tuple(recipe.sources)
    depth = sum(part.num_layers for part in recipe.slices) if recipe.slices else NUM_LAYERS
    assert {name: ref.location for name, ref in again.sources.items()} == {s: f"/models/{s}" for s in sources}
    assert (again.slices, again.dtype) == (recipe.slices, recipe.dtype)
    for module, role in MODULES.items():
        for layer in range(depth) if "{layer}" in module else [None]:
            part = Part(role, layer)
            expected, found = (resolve(method, r.merge, sources, part, depth) for r in (recipe, again))
            for mine, theirs in ((expected[0], found[0]), *((expected[1][s], found[1][s]) for s in sources)):
                assert theirs == pytest.approx(mine, abs=1e-9), (role, layer)


@pytest.mark.parametrize("name", sorted(THEIRS))
def test_every_term_is_a_parameter_of_ours(name: str) -> None:
    ours = {p.name: p for p in METHODS[name].parameters}
    method = THEIRS[name]

    for term in method.terms:
        assert ours[term.name].per_source == term.per_source
        if term.flag is not None:
            assert set(term.flag) <= set(ours[term.name].choices)
    check(METHODS[name], Merge(method=name, parameters=dict(method.fixed)))


# Parameters.


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


# What is refused.

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
