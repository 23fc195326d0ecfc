from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evomerge.candidate import Genome
from evomerge.errors import InvalidInputError
from evomerge.recipe.path import Hop, LayerPath
from evomerge.recipe.schema import NO_MERGE, ModelRef, Recipe
from evomerge.run.spec import COSTS
from search_spaces import KINDS, SearchSpace, make_space
from search_spaces.data_flow import DataFlowSpec
from search_spaces.hybrid import HybridSpec
from search_spaces.testing import SearchSpaceContract, genomes
from tests.search_spaces.architectures import llama

SPECS: dict[str, dict[str, Any]] = {
    "indicator": {},
    "bits": {"scales": None, "repeats": 2},
    "few hops": {"min_hops": 4, "max_hops": 5, "repeats": 2, "models": ["b", "base"], "host": "base"},
    "signed": {"scales": [-2, 3], "max_hops": 40},
    "delta": {"scales": [0, 1.5], "semantics": "delta", "host": "a", "models": ["a", "base"]},
    "blocks": {"encoding": "blocks"},
    "no layer left out": {"encoding": "blocks", "back": False, "scales": None, "min_hops": 4},
    "blocks twice": {"encoding": "blocks", "repeats": 2, "min_hops": 3, "scales": None, "models": ["base", "a", "b"]},
}
SOME = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def space_of(make: Any, spec: dict[str, Any], num_layers: int = 4) -> SearchSpace:
    space: SearchSpace = make({"kind": "data_flow", **spec}, "ab", of=llama(num_layers))
    return space


class TestDataFlowSpace(SearchSpaceContract):
    @pytest.fixture(params=SPECS)
    def space(self, request: pytest.FixtureRequest, make: Any) -> SearchSpace:
        return space_of(make, SPECS[request.param])


HYBRIDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "merged and sources": {"merge": {"method": "ties", "density": [0.1, 0.9]}, "path": {"repeats": 1}},
    "choices": {
        "merge": {"layers": 2, "methods": ["ties", "dare_ties"]},
        "path": {"encoding": "blocks", "models": ["merged", "base", "a"]},
    },
    "hosted by the base": {
        "merge": {"weight": [0, 1]},
        "path": {"host": "base", "models": ["base", "a", "merged"], "repeats": 1},
    },
}


class TestHybridSpace(SearchSpaceContract):
    @pytest.fixture(params=HYBRIDS)
    def space(self, request: pytest.FixtureRequest, make: Any) -> SearchSpace:
        space: SearchSpace = make({"kind": "hybrid", **HYBRIDS[request.param]}, "ab", of=llama(3))
        return space


def path_of(recipe: Recipe) -> list[str]:
    assert recipe.path is not None
    return [f"{hop.model}{hop.layer}" for hop in recipe.path.layers]


def with_choices(space: SearchSpace, **changed: str) -> Genome:
    """The start with other choices in slots, by the names of their genes (`_` for a blank)."""
    genome = list(space.domain.start)
    for gene in space.describe()["genes"]:  # type: ignore[attr-defined]
        name = gene["name"].replace(" ", "_").replace("/", "__")
        if name in changed:
            number = gene["choices"].index(changed[name])
            genome[space.names.index(gene["name"])] = (number + 0.5) / len(gene["choices"])
    return tuple(genome)


@pytest.mark.parametrize("name", SPECS)
def test_a_search_begins_with_the_host_as_it_is(make: Any, name: str) -> None:
    space = space_of(make, SPECS[name])
    recipe = space.recipe(space.domain.start)

    assert recipe.path is not None
    assert path_of(recipe) == [f"{recipe.path.host}{layer}" for layer in range(4)]
    assert {hop.scale for hop in recipe.path.layers} == {1.0}
    assert (recipe.merge, recipe.dtype, recipe.seed) == (NO_MERGE, "float32", 7)


@pytest.mark.parametrize("name", SPECS)
@SOME
@given(data=st.data())
def test_every_path_begins_and_ends_with_the_host_and_has_as_many_hops_as_it_may(
    make: Any, name: str, data: st.DataObject
) -> None:
    space = space_of(make, SPECS[name])
    recipe = space.recipe(data.draw(genomes(space.dim)))
    path = recipe.path

    assert path is not None
    hops: Any = space.describe()["hops"]
    assert hops[0] <= len(path.layers) <= hops[1]
    assert (path.layers[0].model, path.layers[0].layer, path.layers[0].scale) == (path.host, 0, 1.0)
    assert (path.layers[-1].model, path.layers[-1].layer) == (path.host, 3)
    assert not list(path.wrong_scales())


def test_there_are_as_many_slots_as_layers_in_all_rounds_without_the_two_that_are_fixed(make: Any) -> None:
    space = space_of(make, {"repeats": 3, "models": ["base", "b"]})

    assert space.dim == 2 * (2 * 4 * 3 - 2) + 1
    assert space.names[:2] == ("round 1/base/layer 1", "round 1/base/layer 2")
    assert space.names[2] == "round 1/b/layer 0"
    assert space.names[-1] == "scale/last"
    kinds = space.domain.kinds
    assert [k.choices for k in kinds[:22]] == [2] * 22
    assert [k.gate for k in kinds[22:]] == [*range(22), None]


def test_a_slot_that_is_on_visits_its_layer_in_its_place(make: Any) -> None:
    space = space_of(make, {"repeats": 2, "models": ["base", "a"]})
    genome = with_choices(
        space, round_1__base__layer_2="skip", round_1__a__layer_3="a layer 3", round_2__base__layer_1="base layer 1"
    )

    assert path_of(space.recipe(genome)) == ["base0", "base1", "a3", "base1", "base3"]


def test_blocks_without_back_and_with_all_hops_choose_whose_layer_each_is(make: Any) -> None:
    space = space_of(make, {"models": ["base", "a"], **SPECS["no layer left out"]})
    found = {tuple(path_of(space.recipe((one, two)))) for one in (0.1, 0.5, 0.9) for two in (0.1, 0.5, 0.9)}

    assert found == {("base0", f"{x}1", f"{y}2", "base3") for x in ("base", "a") for y in ("base", "a")}


def test_indicators_have_no_layer_before_again_to_leave_out(make: Any) -> None:
    with pytest.raises(InvalidInputError) as error:
        space_of(make, {"encoding": "indicator", "back": False})

    assert (error.value.field, error.value.value) == ("space.back", False)
    assert "encoding blocks" in error.value.allowed


def test_one_path_has_one_genome(make: Any) -> None:
    space = space_of(make, {"repeats": 2, "models": ["base", "a"], "scales": None})
    late = with_choices(space, round_1__a__layer_1="skip", round_2__a__layer_1="a layer 1")
    early = with_choices(space, round_1__a__layer_1="a layer 1")

    assert space.recipe(late).digest == space.recipe(early).digest
    assert space.repair(late) == early


def test_a_block_is_taken_from_a_model_skipped_or_gone_through_again(make: Any) -> None:
    space = space_of(make, {"encoding": "blocks", "repeats": 2})
    genome = with_choices(space, layer_1__visit_1="b layer 1", layer_1__visit_2="back", layer_2__visit_1="skip")

    assert path_of(space.recipe(genome)) == ["base0", "b1", "b1", "base3"]
    assert space.domain.kinds[0].choices == 5


def test_seeds_are_the_other_models_between_the_hosts_ends(make: Any) -> None:
    for encoding in ("indicator", "blocks"):
        space = space_of(make, {"encoding": encoding})

        assert [path_of(space.recipe(seed)) for seed in space.domain.seeds] == [
            ["base0", "a1", "a2", "base3"],
            ["base0", "b1", "b2", "base3"],
        ]


def test_surplus_hops_fall_away_from_the_end_and_lacking_ones_are_the_hosts(make: Any) -> None:
    space = space_of(make, {"repeats": 1, "min_hops": 3, "max_hops": 5, "scales": None})
    everything, nothing = (0.75,) * space.dim, (0.25,) * space.dim

    assert path_of(space.recipe(everything)) == ["base0", "base1", "base2", "a0", "base3"]
    assert path_of(space.recipe(nothing)) == ["base0", "base1", "base3"]


def test_scales_of_the_stream_stop_at_the_bounds_of_their_product(make: Any) -> None:
    space = space_of(make, {"encoding": "blocks", "scales": [0.125, 4]}, num_layers=8)
    choices = space.domain.start[:6]

    large, small = (space.recipe((*choices, *(end,) * 7)).path for end in (1.0, 0.0))

    assert large is not None
    assert small is not None
    assert [hop.scale for hop in large.layers] == [1, 4, 4, 4, 1.5625, 1, 1, 1]
    assert small.cumulative[-1] == pytest.approx(0.01, rel=1e-4)
    assert small.cumulative[-1] >= 0.01
    assert {hop.scale for hop in small.layers[4:]} == {1.0}


def test_delta_scales_stand_alone(make: Any) -> None:
    space = space_of(make, {"encoding": "blocks", "semantics": "delta", "scales": [0, 2]}, num_layers=9)
    path = space.recipe((*space.domain.start[:7], *(0.0,) * 8)).path

    assert path is not None
    assert [hop.scale for hop in path.layers] == [1, *[0] * 8]


def foreign(space: SearchSpace, *hops: tuple[str, int, float], **update: Any) -> Recipe:
    recipe = space.recipe(space.domain.start)
    path = LayerPath(layers=tuple(Hop(model=m, layer=n, scale=s) for m, n, s in hops), **update)
    return recipe.model_copy(update={"path": path})


def test_a_path_outside_the_space_is_refused_by_field(make: Any) -> None:
    space = space_of(make, {"repeats": 1, "scales": [0.5, 1.5]})
    first, last = ("base", 0, 1.0), ("base", 3, 1.0)
    cases = {
        "recipe.path.layers[2]": foreign(space, first, ("a", 1, 1.0), ("base", 2, 1.0), last),
        "recipe.path.layers[1].scale": foreign(space, first, ("a", 1, 2.0), last),
        "recipe.path.layers[0].scale": foreign(space, ("base", 0, 0.9), last),
        "recipe.path.layers[0]": foreign(space, ("base", 1, 1.0), last),
        "recipe.path.layers": foreign(space, first, *[("a", 1, 1.0)] * 7, last),
        "recipe.path.host": foreign(space, first, last, host="a"),
        "recipe.path.semantics": foreign(space, first, ("base", 3, 0.9), semantics="delta"),
        "recipe.path": space.recipe(space.domain.start).parameter_part,
        "recipe.seed": space.recipe(space.domain.start).model_copy(update={"seed": 8}),
        "recipe.sources.b": space.recipe(space.domain.start).model_copy(
            update={"sources": {"a": space.recipe(space.domain.start).sources["a"]}}
        ),
    }

    for field, recipe in cases.items():
        with pytest.raises(InvalidInputError) as caught:
            space.encode(recipe)
        assert caught.value.field == field


def test_the_nearest_path_keeps_as_many_layers_as_it_can(make: Any) -> None:
    space = space_of(make, {"repeats": 1, "max_hops": 6})
    wild = foreign(space, ("a", 1, 3.0), ("base", 2, 1.0), ("a", 2, 0.9), ("b", 0, 1.0), ("a", 3, 1.0))

    found = space.recipe(space.nearest(wild))

    assert path_of(found) == ["base0", "a1", "a2", "b0", "base3"]
    assert found.path is not None
    assert [hop.scale for hop in found.path.layers] == [1.0, 1.5, 0.9, 1.0, 1.0]
    with pytest.raises(InvalidInputError, match=r"recipe\.path"):
        space.nearest(wild.parameter_part)
    with pytest.raises(InvalidInputError, match=r"recipe\.sources"):
        space.nearest(wild.model_copy(update={"sources": {"c": wild.sources["a"]}}))


def test_a_merge_that_no_path_visits_counts_for_nothing(make: Any) -> None:
    spec = {"kind": "hybrid", "path": {"host": "base", "models": ["base", "a", "merged"], "repeats": 1}}
    space: SearchSpace = make(spec, "ab", of=llama(3))
    light, heavy = ((weight, weight, *space.domain.start[2:]) for weight in (0.2, 0.9))
    visited = space.names.index("merged/layer 1")

    assert space.recipe(light) == space.recipe(heavy)
    assert space.recipe(light).merge == NO_MERGE
    light, heavy = ((*genome[:visited], 0.75, *genome[visited + 1 :]) for genome in (light, heavy))
    assert space.recipe(light).digest != space.recipe(heavy).digest
    assert path_of(space.recipe(light)) == ["base0", "base1", "merged1", "base2"]


def test_a_hybrid_takes_what_another_search_found_in_either_space(make: Any) -> None:
    space: SearchSpace = make({"kind": "hybrid"}, "ab", of=llama(3))
    merge = make({}, "ab", of=llama(3)).recipe((0.9, 0.3))
    path = make({"kind": "data_flow", "repeats": 1}, "ab", of=llama(3))

    found = space.recipe(space.nearest(merge))

    assert (found.merge, path_of(found)) == (merge.merge, ["merged0", "merged1", "merged2"])
    with pytest.raises(InvalidInputError, match=r"path\.host"):
        space.nearest(path.recipe(path.domain.start))
    onward = space.recipe(space.nearest(found.model_copy(update={"dtype": "bfloat16"})))
    assert onward == found


@pytest.mark.parametrize(
    ("spec", "field", "says"),
    [
        ({"host": "c"}, "space.host", "one of base, a, b"),
        ({"host": "merged"}, "space.host", "needs kind hybrid"),
        ({"models": ["base", "x"]}, "space.models[1]", "one of base, a, b"),
        ({"models": ["base", "base"]}, "space.models", "each model once"),
        ({"models": ["a"]}, "space.models", "the host base among them"),
        ({"models": []}, "space.models", "at least 1"),
        ({"encoding": "x"}, "space.encoding", "indicator"),
        ({"repeats": 0}, "space.repeats", "greater than or equal to 1"),
        ({"scales": [1.1, 2]}, "space.scales", "around 1"),
        ({"scales": [1, 1]}, "space.scales", "around 1"),
        ({"scales": [0, 1000]}, "space.scales", "within -100 to 100"),
        ({"min_hops": 5}, "space.min_hops", "2 to 4"),
        ({"min_hops": 3, "max_hops": 2}, "space.min_hops", "2 to 2"),
        ({"max_hops": 1}, "space.max_hops", "greater than or equal to 2"),
        ({"foo": 1}, "space.foo", "one of the fields"),
        ({"encoding": "indicator", "repeats": 100, "models": ["base", "a", "b"], "min_hops": 2}, None, ""),
    ],
)
def test_a_bad_spec_is_refused_by_field(make: Any, spec: Any, field: str | None, says: str) -> None:
    if field is None:
        assert space_of(make, spec).dim == 2 * (3 * 4 * 100 - 2) + 1
        return
    with pytest.raises(InvalidInputError) as caught:
        space_of(make, spec)

    assert caught.value.field == field
    assert says in caught.value.allowed


@pytest.mark.parametrize(
    ("spec", "field", "says"),
    [
        ({"merge": {"method": "x"}}, "space.merge.method", "task_arithmetic"),
        ({"path": {"host": "x"}}, "space.path.host", "one of base, merged, a, b"),
        ({"path": {"host": "base", "models": ["base", "a"]}}, "space.path.models", "merged among them"),
        ({"path": 1}, "space.path", "a mapping"),
        ({"merge": {"knots": 2, "layers": 2}}, "space.merge.knots", "not both"),
    ],
)
def test_a_bad_hybrid_is_refused_by_field(make: Any, spec: Any, field: str, says: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        make({"kind": "hybrid", **spec}, "ab", of=llama(3))

    assert caught.value.field == field
    assert says in caught.value.allowed


def test_one_layer_many_genes_and_families_without_the_property_are_refused(make: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"space\.host.*two layers"):
        space_of(make, {}, num_layers=1)
    with pytest.raises(InvalidInputError, match=r"space\.repeats.*10000 genes"):
        space_of(make, {"repeats": 100}, num_layers=40)


def test_the_page_names_every_field_and_its_searches_have_spaces(make: Any) -> None:
    page = (Path(__file__).parents[2] / "docs" / "data-flow.md").read_text(encoding="utf-8")
    fields = {*DataFlowSpec.model_fields, *HybridSpec.model_fields} - {"kind"}
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    spaces = [block["space"] for block in blocks if "space" in block]

    assert [field for field in fields if f"`{field}`" not in page] == []
    assert [space["kind"] for space in spaces] == ["data_flow", "hybrid"]
    sources = {name: ModelRef(location=name) for name in ("math", "ja")}
    for space in spaces:
        assert make_space(space, base=ModelRef(location="base"), sources=sources, architecture=llama(30)).dim > 28
    assert [cost for cost in COSTS if f"| `{cost}` |" not in page] == []
    assert make({"kind": "data_flow", "encoding": "blocks", "scales": None}, "ab", of=llama(30)).dim == 28
    assert make({"kind": "data_flow", "scales": None}, "ab", of=llama(30)).dim == 268


def test_the_schemas_name_their_fields() -> None:
    assert {"host", "models", "encoding", "repeats", "scales"} <= set(KINDS["data_flow"].schema()["properties"])
    assert {"merge", "path"} <= set(KINDS["hybrid"].schema()["properties"])
