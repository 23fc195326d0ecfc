from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evomerge.errors import InvalidInputError
from evomerge.merge.methods import METHODS
from evomerge.merge.parameters import check, resolve
from evomerge.models.architecture import Architecture
from evomerge.recipe.schema import Merge, Rule
from evomerge.recipe.written import read, written
from search_spaces import KINDS, SearchSpace
from search_spaces.testing import SearchSpaceContract, genomes

ROLES = [["attention"], ["mlp"], ["*"]]
SPECS: dict[str, tuple[dict[str, Any], str]] = {
    "weights": ({}, "abc"),
    "one source": ({}, "a"),
    "layers and roles": ({"layers": 3, "roles": ROLES, "density": [0.1, 0.9], "method": "dare_ties"}, "ab"),
    "some layers": ({"layers": [[0, 1], [8, 9]], "roles": [["mlp", "embedding"]], "weight": [0, 1]}, "ab"),
    "knots": ({"knots": 4, "roles": ROLES, "search": {"lambda": [0.5, 2]}}, "ab"),
    "trim over the model": ({"method": "ties", "density": [0.05, 1], "layers": 2}, "ab"),
    "trim by tensor": ({"method": "ties", "density": [0.05, 1], "layers": 2, "fixed": {"scope": "tensor"}}, "ab"),
    "arc": ({"method": "slerp", "knots": 3}, "ab"),
    "arc by weights": ({"method": "nuslerp", "layers": 2}, "ab"),
    "some fixed": ({"method": "linear", "fixed_sources": {"a": {"weight": 1}}, "fixed": {"normalize": False}}, "ab"),
    "scale alone": ({"fixed": {"weight": [0.2, 0.4]}}, "ab"),
    "methods": ({"methods": ["ties", "dare_linear", "linear"], "density": None, "search": {"density": None}}, "ab"),
    "methods in groups": (
        {"methods": ["dare_ties", "ties", "slerp"], "layers": 2, "density": [0.1, 1], "search": {"t": None}},
        "ab",
    ),
    "methods over knots": ({"methods": ["task_arithmetic", "linear"], "knots": 3, "search": {"lambda": None}}, "ab"),
    "choices": (
        {
            "method": "ties",
            "search": {"election": ["mass", "count"], "normalize": None, "sign_ties": None, "lambda": [0.5, 1, 2]},
        },
        "ab",
    ),
    "many knots": ({"knots": 10, "roles": ROLES, "density": [0.1, 0.9], "method": "ties"}, "abc"),
    "whole numbers": ({"method": "karcher", "search": {"max_iter": [2, 6]}}, "ab"),
    "many whole numbers": ({"method": "cabs", "search": {"group": [32, 512]}}, "ab"),
    "order": ({"method": "wma", "order": True}, "abcd"),
    "order of some methods": (
        {"methods": ["ties", "cabs", "ema"], "order": True, "search": {"election": None, "alpha": None}},
        "abc",
    ),
    "tied sources": ({"tie": [["a", "b"]], "layers": 2, "density": [0.1, 1], "method": "dare_ties"}, "abc"),
    "tied groups": (
        {"roles": ROLES, "knots": 2, "tie": [["attention", "mlp"]], "fixed_sources": {"a": {"weight": 1}}},
        "ab",
    ),
    "all sources tied": ({"tie": "sources", "methods": ["ties", "cabs"], "order": True}, "abc"),
}
UNEVEN = ("one source", "some fixed", "scale alone", "order", "tied groups")
"""These do not begin at the plain average: no two sources, or fixed weights, or none at all."""


class TestParameterSpace(SearchSpaceContract):
    @pytest.fixture(params=SPECS)
    def space(self, request: pytest.FixtureRequest, make: Any) -> SearchSpace:
        spec, names = SPECS[request.param]
        space: SearchSpace = make(spec, names)
        return space


def resolved(space: SearchSpace, architecture: Architecture, genome: Any, name: str) -> dict[Any, Any]:
    """(source, role, layer) → a parameter's value, as a merge reads the recipe."""
    recipe = space.recipe(genome)
    method = METHODS[recipe.merge.method]
    values = {}
    for part in architecture.parts.values():
        shared, per_source = resolve(method, recipe.merge, tuple(recipe.sources), part, architecture.num_layers)
        for source in recipe.sources:
            values[source, part.role, part.layer] = per_source[source].get(name, shared.get(name))
    return values


@pytest.mark.parametrize("name", [name for name in SPECS if name not in UNEVEN])
def test_the_start_is_the_plain_average_everywhere(make: Any, architecture: Architecture, name: str) -> None:
    spec, names = SPECS[name]
    space = make(spec, names)
    parameter = "t" if spec.get("method") == "slerp" else "weight"

    values = resolved(space, architecture, space.domain.start, parameter)

    assert list(values.values()) == pytest.approx([1 / len(names)] * len(values), abs=1e-6)


@pytest.mark.parametrize("name", SPECS)
@settings(deadline=None, max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_recipe_is_one_that_its_method_takes(make: Any, name: str, data: st.DataObject) -> None:
    space = make(*SPECS[name])
    recipe = space.recipe(data.draw(genomes(space.dim)))

    check(METHODS[recipe.merge.method], recipe.merge)
    assert (recipe.dtype, recipe.seed, recipe.base.sha256) == ("float32", 7, "0" * 64)


@pytest.mark.parametrize("name", SPECS)
@settings(deadline=None, max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_made_from_pieces_is_the_recipe(make: Any, name: str, data: st.DataObject) -> None:
    space = make(*SPECS[name])
    genome = data.draw(genomes(space.dim))
    document, digest = space.made(genome)
    recipe = space.recipe(genome)

    assert (document, digest) == (written(recipe), recipe.digest)
    assert read(document) == recipe


def test_each_gene_reaches_its_tensors_and_no_other(make: Any, architecture: Architecture) -> None:
    space = make({"layers": 2, "roles": ROLES, "weight": [-0.5, 1.5]}, "ab")
    before = resolved(space, architecture, space.domain.start, "weight")

    for number, gene in enumerate(space.describe()["genes"]):
        genome = tuple(1.0 if i == number else g for i, g in enumerate(space.domain.start))
        after = resolved(space, architecture, genome, "weight")
        changed = {key for key in before if before[key] != after[key]}
        assert changed
        assert {after[key] for key in changed} == {1.5}
        assert {source for source, _, _ in changed} == {gene["source"]}
        first, last = gene["layers"] or (0, 9)
        assert all(layer is None or first <= layer <= last for _, _, layer in changed)
        in_layers = {(role, layer) for _, role, layer in changed if layer is not None}
        assert len(in_layers) % 5 == 0  # whole layers of five


def test_names_say_what_a_gene_is(make: Any) -> None:
    assert make({}, "ab").names == ("weight/a", "weight/b")
    assert make({"layers": 2, "roles": [["attention"]]}, "a").names == (
        "weight/a/layers 0-4/attention",
        "weight/a/layers 5-9/attention",
    )
    assert make({"knots": 2, "search": {"lambda": None}}, "a").names == (
        "lambda",
        "weight/a/knot 0",
        "weight/a/knot 1",
    )


def test_knots_are_values_over_the_depth(make: Any, architecture: Architecture) -> None:
    space = make({"knots": 2, "weight": [0, 1]}, "a")
    values = resolved(space, architecture, (0.0, 1.0), "weight")

    assert space.recipe((0.0, 1.0)).merge == Merge(method="task_arithmetic", sources={"a": {"weight": (0.0, 1.0)}})
    assert values["a", "mlp.up", 3] == pytest.approx(1 / 3)
    assert (values["a", "embedding", None], values["a", "head", None]) == (0.0, 1.0)


def test_groups_become_rules(make: Any) -> None:
    space = make({"layers": [[0, 9]], "roles": [["attention"]], "weight": [0, 1]}, "a")

    assert space.recipe((0.75,)).merge == Merge(
        method="task_arithmetic",
        sources={"a": {"weight": 1.0}},
        rules=(Rule(layers=(0, 9), roles=("attention",), source="a", parameters={"weight": 0.75}),),
    )


def test_a_trim_over_the_whole_model_has_one_density_a_source(make: Any) -> None:
    spec = {"method": "ties", "density": [0.1, 1], "layers": 2, "fixed": {"weight": 1}}

    assert make(spec, "ab").names == ("density/a", "density/b")
    assert make({**spec, "fixed": {"weight": 1, "scope": "tensor"}}, "a").names == (
        "density/a/layers 0-4",
        "density/a/layers 5-9",
    )


def test_ranges_are_those_that_the_method_declares(make: Any) -> None:
    genes = {g["name"]: g for g in make({"method": "ties", "search": {"density": None}}, "a").describe()["genes"]}

    assert (genes["weight/a"]["low"], genes["weight/a"]["high"]) == (-0.5, 1.5)
    assert (genes["density/a"]["low"], genes["density/a"]["high"], genes["density/a"]["start"]) == (0.05, 1.0, 0.2)


def test_a_foreign_recipe_is_refused_by_field(make: Any) -> None:
    space = make({"layers": 2, "weight": [0, 1]}, "ab")
    recipe = space.recipe(space.domain.start)

    def encode(**update: Any) -> str:
        with pytest.raises(InvalidInputError) as caught:
            space.encode(recipe.model_copy(update=update))
        return caught.value.field

    rules = recipe.merge.rules
    heavy = rules[0].model_copy(update={"parameters": {"weight": 1.5}})
    assert encode(seed=8) == "recipe.seed"
    assert encode(dtype="float16") == "recipe.dtype"
    assert encode(merge=recipe.merge.model_copy(update={"rules": (heavy, *rules[1:])})) == (
        "recipe.merge.rules[0].parameters.weight"
    )
    assert encode(merge=recipe.merge.model_copy(update={"rules": rules[1:]})).startswith("recipe.merge.rules")
    assert encode(sources={"a": recipe.sources["a"]}) == "recipe.sources.b"


def test_a_recipe_beside_the_grid_is_taken_for_the_nearest(make: Any) -> None:
    space = make({}, "abc")
    exact = space.recipe(space.domain.start).model_copy(
        update={"merge": Merge(method="task_arithmetic", sources={name: {"weight": 1 / 3} for name in "abc"})}
    )

    assert space.repair(space.encode(exact)) == space.domain.start


@pytest.mark.parametrize(
    ("spec", "names", "field", "says"),
    [
        ({"kind": "x"}, "a", "space.kind", "one of parameter"),
        ({"kind": ["x"]}, "a", "space.kind", "one of parameter"),
        ({"foo": 1}, "a", "space.foo", "one of the fields"),
        ({"method": "x"}, "a", "space.method", "task_arithmetic, slerp"),
        ({"method": "slerp"}, "abc", "space.method", "a method for 3 sources; it takes 1 to 2"),
        ({"method": "passthrough", "fixed": {"scale": 1}}, "a", "space", "1 to 10000 genes"),
        ({"method": "passthrough"}, "ab", "space.method", "it takes 1"),
        ({"weight": [1, 0]}, "a", "space.weight", "low < high"),
        ({"weight": [0, float("nan")]}, "a", "space.weight[1]", "finite"),
        ({"weight": 1}, "a", "space.weight", "a list"),
        ({"density": [0.1, 1]}, "a", "space.density", "a parameter of 'task_arithmetic'"),
        ({"method": "ties", "density": [0.1, 1.5]}, "a", "space.density", "within 0 to 1"),
        ({"search": {"normalize": [True]}}, "a", "space.search.normalize", "two or more of false, true"),
        ({"search": {"normalize": [0, 1]}}, "a", "space.search.normalize", "two or more of false, true"),
        ({"method": "ties", "search": {"election": ["mass", "x"]}}, "a", "space.search.election", "of mass, count"),
        ({"method": "ties", "search": {"election": ["mass"] * 2}}, "a", "space.search.election", "each once"),
        ({"search": {"lambda": [1]}}, "a", "space.search.lambda", "[low, high]"),
        ({"search": {"lambda": [0.5, 1, 0.7]}}, "a", "space.search.lambda", "rising order"),
        ({"search": {"lambda": ["x", "y"]}}, "a", "space.search.lambda", "[low, high]"),
        ({"method": "karcher", "search": {"max_iter": [1.5, 4]}}, "a", "space.search.max_iter", "whole numbers"),
        ({"method": "ties", "methods": ["ties", "linear"]}, "a", "space.methods", "not both"),
        ({"methods": ["ties"]}, "a", "space.methods", "2"),
        ({"methods": ["ties", "ties"]}, "a", "space.methods[1]", "once"),
        ({"methods": ["ties", "x"]}, "a", "space.methods[1]", "one of"),
        ({"methods": ["ties", "slerp"]}, "abc", "space.methods[1]", "it takes 1 to 2"),
        ({"methods": ["ties", "linear"], "fixed": {"gamma": 1}}, "a", "space.fixed.gamma", "parameters of ties"),
        ({"methods": ["ties", "linear"], "search": {"gamma": None}}, "a", "space.search.gamma", "'ties': density"),
        (
            {"methods": ["ties", "della"], "search": {"scope": ["global", "tensor"]}},
            "a",
            "space.search.scope",
            "tensor",
        ),
        ({"order": True}, "ab", "space.order", "one after the other: "),
        ({"method": "wma", "order": True}, "a", "space.order", "two sources or more"),
        ({"method": "wma", "order": True, "fixed_sources": {"a": {"order": 1}}}, "ab", "space.order", "fixed"),
        ({"method": "cabs", "search": {"order": None}}, "ab", "space.search.order", "`order: true`"),
        ({"tie": [["a", "z"]]}, "ab", "space.tie[0]", "a source (a, b)"),
        ({"tie": [["a"]]}, "ab", "space.tie[0]", "two names"),
        ({"tie": [["a", "b"], ["b", "c"]]}, "abc", "space.tie[1]", "'b' once"),
        ({"tie": [["a", "layers 0-4"]], "layers": 2}, "ab", "space.tie[0]", "either sources or groups"),
        ({"weight": [0, 1], "search": {"weight": None}}, "a", "space.search.weight", "once"),
        ({"search": {"lambda": None}, "fixed": {"lambda": 1}}, "a", "space.search.lambda", "searched or fixed"),
        ({"weight": [0, 1], "fixed": {"weight": 1}}, "a", "space.weight", "searched or fixed"),
        ({"fixed": {"lambda": "x"}}, "a", "space.fixed.lambda", "number"),
        ({"fixed": {"gamma": 1}}, "a", "space.fixed.gamma", "parameters of task_arithmetic"),
        ({"fixed_sources": {"z": {"weight": 1}}}, "a", "space.fixed_sources.z", "one of a"),
        ({"fixed_sources": {"a": {"lambda": 1}}}, "a", "space.fixed_sources.a.lambda", "per-source"),
        ({"fixed_sources": {"a": {"weight": 1}}}, "a", "space", "1 to 10000 genes"),
        ({"layers": 11}, "a", "space.layers", "the model has 10 layers"),
        ({"layers": 0}, "a", "space.layers", "greater than or equal to 1"),
        ({"layers": [[0, 10]]}, "a", "space.layers[0]", "within layers 0 to 9"),
        ({"roles": [["attn"]]}, "a", "space.roles[0]", "attention.q"),
        ({"knots": 1}, "a", "space.knots", "2"),
        ({"knots": 11}, "a", "space.knots", "at most 10"),
        ({"knots": 2, "layers": 2}, "a", "space.knots", "not both"),
        ({"layers": 10, "knots": None, "start": "x"}, "a", "space.start", "average"),
    ],
)
def test_a_bad_spec_is_refused_by_field(make: Any, spec: Any, names: str, field: str, says: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        make(spec, names)

    assert caught.value.field == field
    assert says in caught.value.allowed


def test_every_kind_has_a_schema_that_names_its_fields() -> None:
    schema = KINDS["parameter"].schema()

    assert {"method", "weight", "density", "layers", "roles", "knots", "fixed"} <= set(schema["properties"])


def test_the_nearest_genome_reads_what_a_recipe_of_another_space_does(make: Any, architecture: Architecture) -> None:
    coarse, fine = make({"weight": [0, 1]}, "ab"), make({"layers": 2, "roles": ROLES, "weight": [0, 1]}, "ab")
    recipe = coarse.recipe((0.2, 0.9))

    values = resolved(fine, architecture, fine.nearest(recipe), "weight")

    assert {source: {round(v, 6) for (s, *_), v in values.items() if s == source} for source in "ab"} == {
        "a": {0.2},
        "b": {0.9},
    }
    knots = make({"knots": 2, "weight": [0, 1]}, "ab")
    assert knots.nearest(recipe) == pytest.approx((0.2, 0.2, 0.9, 0.9))
    assert coarse.nearest(fine.recipe(fine.nearest(recipe))) == coarse.nearest(recipe)


def test_a_recipe_of_another_method_or_other_sources_is_near_to_nothing(make: Any) -> None:
    space = make({}, "ab")

    with pytest.raises(InvalidInputError, match=r"merge\.method"):
        space.nearest(make({"method": "ties"}, "ab").recipe((0.5,) * make({"method": "ties"}, "ab").dim))
    with pytest.raises(InvalidInputError, match=r"recipe\.sources"):
        space.nearest(make({}, "abc").recipe((0.5, 0.5, 0.5)))
