from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evomerge.merge.mergekit.methods import METHODS as THEIRS
from evomerge.merge.mergekit.methods import Term
from evomerge.merge.mergekit.read import read_mergekit
from evomerge.merge.mergekit.write import to_mergekit
from evomerge.merge.methods import METHODS
from evomerge.merge.parameters import check, resolve
from evomerge.models.architecture import Part
from evomerge.models.family import families
from evomerge.recipe.schema import Merge, Recipe, Rule

NUM_LAYERS = 4
MODULES = families()["llama"].modules
ROLES = sorted(set(MODULES.values()))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shape") / "config.json"
    path.write_text(json.dumps({"model_type": "llama", "num_hidden_layers": NUM_LAYERS, "dtype": "float16"}))
    return path


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
