"""Lineages of a tiny real Llama and two fine-tunes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from evomerge.candidate import Descent
from evomerge.errors import InvalidInputError
from evomerge.merge.execute import merge_to_directory
from evomerge.models.checkpoint import open_checkpoint
from evomerge.models.source import architecture_of_checkpoint
from evomerge.recipe.schema import Merge, Recipe
from evomerge.recipe.text import dump_yaml, load_yaml, validate
from search_spaces import make_space
from search_spaces.lineage import CrossingSpace
from tests.workers.tiny import make_spec

JA, MATH = Descent(source=0), Descent(source=1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return make_spec(tmp_path_factory.mktemp("models")).recipe


def space(models: Recipe, cache: Path | None = None, names: str = "ja math", **spec: Any) -> CrossingSpace:
    base = open_checkpoint(Path(models.base.location))
    made = make_space(
        {"kind": "lineage", **spec},
        base=models.base,
        sources={name: models.sources[name] for name in names.split()},
        architecture=architecture_of_checkpoint(base),
        dtype="float32",
        seed=5,
        tensors=base.tensors,
        cache=cache,
    )
    return cast(CrossingSpace, made)


def family(of: CrossingSpace, mixes: tuple[float, ...] = (0.3, 0.8, 0.55)) -> list[Recipe]:
    """Sources, and children of the two that are there last."""
    units = of.domain.lineage
    assert units is not None
    found = [of.descend(JA, [], 0), of.descend(MATH, [], 1)]
    for number, mix in enumerate(mixes, start=2):
        splits = tuple(number * n // 7 for n in units.units)
        descent = Descent(parents=(number - 2, number - 1), splits=splits, mix=mix)
        found.append(of.descend(descent, found[-2:], number))
    return found


def test_optimizers_are_told_the_sources_and_the_places_to_split_at(models: Recipe) -> None:
    groups = [["attention"], ["*"]]
    units = {g: space(models, granularity=g, chromosomes=groups).domain.lineage for g in ("layer", "tensor", "exact")}

    assert units["layer"] is not None
    assert units["layer"].sources == 2
    assert units["layer"].units == (2, 4)  # two layers of attention; before, two layers, after
    assert units["tensor"] is not None
    assert units["tensor"].units == (8, 13)
    assert units["exact"] is not None
    assert units["exact"].units == (2 * (2 * 32 * 32 + 2 * 16 * 32), 2 * 258 * 32 + 2 * (3 * 64 * 32 + 64) + 32)


def test_a_source_is_that_source(models: Recipe, tmp_path: Path) -> None:
    recipe = space(models).descend(MATH, [], 7)

    built = open_checkpoint(merge_to_directory(recipe, tmp_path / "out", root=Path()))

    math = open_checkpoint(Path(models.sources["math"].location))
    assert all(torch.equal(built.read(name), math.read(name)) for name in math.tensors)


@pytest.mark.parametrize("angle", ["global", "side", "tensor"])
def test_a_recipe_follows_from_descent_parents_and_sources_alone(models: Recipe, tmp_path: Path, angle: str) -> None:
    spec: dict[str, Any] = {"angle": angle, "chromosomes": [["attention"], ["*"]]}
    first = family(space(models, tmp_path / "one", **spec))

    elsewhere = space(models, tmp_path / "two", **spec)
    descent = Descent(parents=(2, 3), splits=(3000, 20_000), mix=0.1)
    stored = [validate(Recipe, load_yaml(dump_yaml(recipe))) for recipe in first]
    alone = elsewhere.descend(descent, stored[2:4], 9)  # without the calls that made the parents

    assert [r.digest for r in first] == [r.digest for r in family(space(models, **spec))]
    assert alone.digest == space(models, tmp_path / "one", **spec).descend(descent, first[2:4], 4).digest


@pytest.mark.parametrize("granularity", ["layer", "tensor", "row"])
def test_splits_lie_between_units(models: Recipe, granularity: str) -> None:
    recipe = family(space(models, granularity=granularity))[-1]
    assert recipe.segments is not None
    starts = recipe.segments.chromosomes[0].starts

    assert len(starts) > 2
    if granularity == "row":
        assert all(entry % 32 == 0 or entry % 64 == 0 for _, entry in starts)
    else:
        assert all(entry == 0 for _, entry in starts)
    if granularity == "layer":
        assert all("input_layernorm" in name or name in ("model.embed_tokens.weight", "model.norm.weight")
                   for name, _ in starts)  # fmt: skip


def test_noise_is_a_term_with_a_seed_of_the_trial(models: Recipe) -> None:
    of = space(models)
    noisy = [of.descend(Descent(source=0, noise=0.01), [], trial) for trial in (0, 1, 1)]
    child = of.descend(Descent(parents=(0, 1), splits=(9000,), mix=0.4, noise=0.02), noisy[:2], 2)

    assert child.segments is not None
    assert noisy[0] != noisy[1] == noisy[2]
    assert sorted(term.std for term in child.segments.noise) == [0.01, 0.01, 0.02]
    assert len({term.seed for term in child.segments.noise}) == 3
    assert child.segments.chromosomes[0].noise[2] == (1.0, 1.0)


def test_no_genes_is_the_plain_average(models: Recipe) -> None:
    of = space(models)
    recipe = of.recipe(())

    assert recipe.segments is not None
    assert recipe.segments.chromosomes[0].weights == {"ja": (0.5,), "math": (0.5,)}
    assert of.encode(recipe) == of.repair(()) == of.domain.start == of.names == ()
    assert of.dim == 0
    with pytest.raises(InvalidInputError, match="a lineage has none"):
        of.recipe((0.5,))


def test_the_description_is_json(models: Recipe) -> None:
    said = json.loads(json.dumps(space(models, chromosomes=[["attention"], ["*"]], angle="side").describe()))

    assert said["dim"] == 0
    assert said["genes"] == []
    assert said["angle"] == "side"
    assert [part["roles"] for part in said["chromosomes"]] == [["attention"], ["*"]]


@pytest.mark.parametrize(
    ("spec", "field", "allowed"),
    [
        ({"granularity": "column"}, "space.granularity", "'exact', 'row', 'tensor' or 'layer'"),
        ({"chromosomes": [["attention"], ["attention.q", "*"]]}, "space.chromosomes[1]", "alone"),
        ({"chromosomes": [["*"], []]}, "space.chromosomes[1]", "at least one role"),
        ({"chromosomes": [["attention"]]}, "space.chromosomes", "every role"),
        ({"chromosomes": [["attention"], ["attention.q"], ["*"]]}, "space.chromosomes[0].roles", "overlap"),
        ({"chromosomes": [["*"], ["*"]]}, "space.chromosomes", "at most once"),
        ({"names": "math"}, "space", "two sources or more"),
        ({"method": "ties"}, "space.method", "one of the fields"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused_by_field(
    models: Recipe, spec: dict[str, Any], field: str, allowed: str
) -> None:
    with pytest.raises(InvalidInputError, match=allowed) as caught:
        space(models, **spec)
    assert caught.value.field == field


def test_recipes_of_elsewhere_are_no_parents(models: Recipe) -> None:
    of = space(models)
    mine = of.descend(JA, [], 0)
    strangers = {
        "recipe.segments": mine.model_copy(update={"segments": None, "merge": Merge(method="linear")}),
        "recipe.seed": mine.model_copy(update={"seed": 6}),
        "recipe.segments.chromosomes": space(models, chromosomes=[["attention"], ["*"]]).descend(JA, [], 0),
    }

    for field, stranger in strangers.items():
        with pytest.raises(InvalidInputError) as caught:
            of.encode(stranger)
        assert caught.value.field == field
    with pytest.raises(InvalidInputError) as caught:
        of.descend(Descent(parents=(0, 1), splits=(1,), mix=0.5), [mine, strangers["recipe.seed"]], 3)
    assert caught.value.field == "parents[1].seed"
    moved = {name: ref.model_copy(update={"location": "elsewhere"}) for name, ref in mine.sources.items()}
    assert of.encode(mine.model_copy(update={"sources": moved})) == ()  # the hashes say that they are the same
    with pytest.raises(InvalidInputError, match="begins with its sources"):
        of.nearest(mine)
