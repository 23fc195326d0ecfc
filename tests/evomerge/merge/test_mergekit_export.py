from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.errors import InvalidInputError
from evomerge.merge.mergekit.write import to_mergekit
from evomerge.merge.methods import METHODS
from evomerge.merge.parameters import resolve
from evomerge.models.architecture import Part
from evomerge.models.family import families
from evomerge.recipe.schema import Merge, ModelRef, Recipe, Rule
from evomerge.recipe.text import load_yaml

NUM_LAYERS = 4
WEIGHTS = st.integers(-4, 6).map(lambda n: n / 4) | st.lists(
    st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=4
).map(tuple)


def recipe(merge: Merge, names: str = "ab", **more: Any) -> Recipe:
    sources = {name: ModelRef(location=f"/models/{name}") for name in names}
    return Recipe(base=ModelRef(location="/models/base"), sources=sources, merge=merge, **more)


def export(merge: Merge, names: str = "ab", **more: Any) -> Any:
    return load_yaml(to_mergekit(recipe(merge, names), NUM_LAYERS, **more))


def read(setting: Any, tensor: str, t: float) -> float:
    """A setting as mergekit 0.1.5 reads it (seen by running it): the first filter that the name contains; lists are
    interpolated over the layers."""
    if isinstance(setting, list) and isinstance(setting[0], dict):
        chosen = next(c for c in setting if c.get("filter") is None or c["filter"] in tensor)
        return read(chosen["value"], tensor, t)
    if isinstance(setting, list):
        at = t * (len(setting) - 1)
        left = math.floor(at)
        right = min(left + 1, len(setting) - 1)
        return float((1 - (at - left)) * setting[left] + (at - left) * setting[right])
    return float(setting)


@st.composite
def merges(draw: st.DrawFn, roles: list[str]) -> Merge:
    layers = st.tuples(st.integers(0, NUM_LAYERS - 1), st.integers(0, NUM_LAYERS - 1)).map(sorted).map(tuple)
    patterns = st.sampled_from(sorted({*roles, *(role.partition(".")[0] for role in roles)}))
    rules = st.builds(
        Rule,
        layers=st.none() | layers,
        roles=st.lists(patterns, max_size=2).map(tuple),
        source=st.none() | st.sampled_from("ab"),
        parameters=st.fixed_dictionaries({"weight": WEIGHTS}),
    )
    return Merge(
        method="task_arithmetic",
        parameters={"lambda": draw(WEIGHTS)},
        sources={name: {"weight": draw(WEIGHTS)} for name in "ab"},
        rules=tuple(draw(st.lists(rules, max_size=5))),
    )


@pytest.mark.parametrize("family", families())
@settings(deadline=None, max_examples=20)
@given(st.data())
def test_every_tensor_gets_the_same_weight_from_mergekit(family: str, data: st.DataObject) -> None:
    modules = families()[family].modules
    merge = data.draw(merges(sorted(set(modules.values()))))

    exported = export(merge, modules=modules)

    for module, role in modules.items():
        for layer in range(NUM_LAYERS) if "{layer}" in module else [None]:
            tensor = module.format(layer=layer, expert=1) + ".weight"
            t = 0.0 if layer is None else layer / (NUM_LAYERS - 1)
            shared, per_source = resolve(METHODS[merge.method], merge, ("a", "b"), Part(role, layer), NUM_LAYERS)
            assert read(exported["parameters"]["lambda"], tensor, t) == pytest.approx(shared["lambda"], abs=1e-9)
            for model in exported["models"]:
                mine = per_source[Path(model["model"]).name]["weight"]
                assert read(model["parameters"]["weight"], tensor, t) == pytest.approx(mine, abs=1e-9)


def test_knots_roles_and_layers_become_gradients_and_filters() -> None:
    merge = Merge(
        method="task_arithmetic",
        sources={"a": {"weight": (0.0, 1.0)}, "b": {"weight": 0.5}},
        rules=(
            Rule(roles=("attention",), source="b", parameters={"weight": 0.25}),
            Rule(layers=(0, 1), roles=("mlp.down",), source="b", parameters={"weight": 0.75}),
        ),
    )

    assert to_mergekit(recipe(merge, dtype="bfloat16"), NUM_LAYERS).partition("\n")[2] == (
        "merge_method: task_arithmetic\n"
        "base_model: /models/base\n"
        "models:\n"
        "- model: /models/a\n"
        "  parameters:\n"
        "    weight:\n"
        "    - filter: model.norm\n"
        "      value: 1.0\n"
        "    - filter: lm_head\n"
        "      value: 1.0\n"
        "    - {value: [0.0, 1.0]}\n"
        "- model: /models/b\n"
        "  parameters:\n"
        "    weight:\n"
        "    - filter: self_attn\n"
        "      value: 0.25\n"
        "    - filter: down_proj\n"
        "      value: [0.75, 0.75, 0.5, 0.5]\n"
        "    - {value: 0.5}\n"
        "parameters: {normalize: false, lambda: 1.0}\n"
        "dtype: float32\n"
        "out_dtype: bfloat16\n"
    )


def test_linear_and_passthrough_have_no_base_model() -> None:
    linear = export(Merge(method="linear", parameters={"weight": 0.5}))
    passthrough = export(Merge(method="passthrough"), "a")

    assert "base_model" not in linear
    assert linear["parameters"] == {"normalize": True}
    assert passthrough == {
        "merge_method": "passthrough", "models": [{"model": "/models/a"}], "parameters": {"scale": 1.0},
        "dtype": "float32", "out_dtype": "bfloat16",
    }  # fmt: skip


def test_slerp_goes_from_the_base_to_one_source_or_between_two() -> None:
    one, two = (export(Merge(method="slerp", parameters={"t": 0.25}), names) for names in ("a", "ab"))

    assert [one["base_model"], *(m["model"] for m in one["models"])] == ["/models/base", "/models/base", "/models/a"]
    assert [two["base_model"], *(m["model"] for m in two["models"])] == ["/models/a", "/models/a", "/models/b"]
    assert one["parameters"] == two["parameters"] == {"t": 0.25}


def test_adapters_lie_on_the_base() -> None:
    exported = export(Merge(method="linear"), adapters={"b"})

    assert [m["model"] for m in exported["models"]] == ["/models/a", "/models/base+/models/b"]


def test_adapters_are_found_by_their_config(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    sources = {"a": ModelRef(location=str(tmp_path)), "b": ModelRef(location="hub:me/b", revision="v1")}
    mixed = Recipe(base=ModelRef(location="hub:me/base"), sources=sources, merge=Merge(method="linear"))

    models = load_yaml(to_mergekit(mixed, NUM_LAYERS))["models"]

    assert [m["model"] for m in models] == [f"me/base+{tmp_path}", "me/b@v1"]


def test_the_inverse_rescale_of_dare_goes_into_the_weights() -> None:
    exported = export(Merge(method="dare_linear", parameters={"weight": 0.5, "density": 0.25}))

    assert exported["parameters"] == {"normalize": False, "rescale": False, "lambda": 1.0}
    assert exported["models"][0]["parameters"] == {"weight": 2.0, "density": 0.25}


def test_the_inverse_rescale_of_normalised_dare_goes_into_lambda() -> None:
    merge = Merge(method="dare_ties", parameters={"density": 0.25, "lambda": 0.5, "sign_ties": "positive"})
    exported = export(merge)

    assert exported["parameters"] == {"normalize": True, "rescale": False, "lambda": 2.0}
    assert exported["models"][0]["parameters"] == {"weight": 1.0, "density": 0.25}


POSITIVE = {"sign_ties": "positive"}


@pytest.mark.parametrize(
    ("merge", "field"),
    [
        (Merge(method="meta_abilities"), "merge.method"),
        (Merge(method="ties"), "merge.parameters.scope"),
        (Merge(method="ties", parameters={"scope": "tensor"}), "merge.parameters.sign_ties"),
        (Merge(method="ties", parameters={"density": 1.0, "election": "count"}), "merge.parameters.election"),
        (
            Merge(method="ties", parameters={"density": 1.0, **POSITIVE}, sources={"b": {"weight": -0.5}}),
            "merge.sources.b.weight",
        ),
        (
            Merge(method="dare_ties", parameters=POSITIVE, sources={"b": {"density": 0.5}}),
            "merge.parameters.rescale",
        ),
        (
            Merge(method="linear", rules=(Rule(layers=(0, 1), parameters={"normalize": False}),)),
            "merge.rules[0].parameters.normalize",
        ),
        (Merge(method="linear", rules=(Rule(layers=(0, 4), parameters={"weight": 1.0}),)), "merge.rules[0].layers"),
        (Merge(method="linear", rules=(Rule(roles=("x",), parameters={"weight": 1.0}),)), "merge.rules[0].roles"),
        (Merge(method="linear", parameters={"weight": "heavy"}), "merge.parameters.weight"),
    ],
)
def test_what_mergekit_cannot_say_is_refused_by_field(merge: Merge, field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        export(merge)

    assert caught.value.field == field


@pytest.mark.parametrize("location", ["/models/x.yaml", "/models/a+b", "/models/a@b", "/models/a"])
def test_places_that_mergekit_misreads_are_refused(location: str) -> None:
    sources = {"a": ModelRef(location="/models/a"), "b": ModelRef(location=location)}
    asked = Recipe(base=ModelRef(location="/models/base"), sources=sources, merge=Merge(method="linear"))

    with pytest.raises(InvalidInputError) as caught:
        to_mergekit(asked, NUM_LAYERS)

    assert caught.value.field == "sources.b.location"


def test_ties_without_trimming_needs_no_scope() -> None:
    exported = export(Merge(method="ties", parameters={"density": 1.0, **POSITIVE}))

    assert exported["models"][0]["parameters"] == {"weight": 1.0, "density": 1.0}
