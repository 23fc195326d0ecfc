"""Where a search may begin besides the plain average: recipes of files, of mergekit's YAML, of earlier runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.errors import InvalidInputError
from evomerge.recipe.document import read_text
from evomerge.recipe.schema import Recipe
from evomerge.recipe.text import load_recipe
from evomerge.run.spec import RunSpec
from evomerge.storage.store import CandidateQuery, RunRow, Store
from workers.registry import Registry

MOST = 10
"""So many of an earlier run's best candidates are taken along."""


def with_seeds(spec: RunSpec, near: Sequence[str], registry: Registry, store: Store) -> RunSpec:
    """The spec with further recipes to begin near.

    Args:
        near: each a recipe's file, a file for mergekit-yaml, or the id of a run in the store: its front.

    Raises:
        InvalidInputError: it is none of these, or its models are not the search's.
    """
    found = [_over(spec, recipe, registry, what) for what in near for recipe in _recipes(what, store)]
    return spec.model_copy(update={"seeds": (*spec.seeds, *found)})


def _recipes(what: str, store: Store) -> list[Recipe]:
    path = Path(what)
    if not path.is_file():
        run = store.run(what)
        if run is None:
            raise InvalidInputError("--near", what, "a recipe's file, a file of mergekit, or the id of a run")
        return _best(run, store)
    text = read_text(path)
    if "evomerge.recipe/" in text:
        return [load_recipe(path)]
    from evomerge.merge.mergekit.read import read_mergekit  # it knows all methods, which need torch

    return [read_mergekit(text, str(path)).recipe]


def _best(run: RunRow, store: Store) -> list[Recipe]:
    """The front's recipes, those of one objective: its best candidates."""
    objectives = RunSpec.model_validate(run.spec).objectives
    if len(objectives) > 1:
        query = CandidateQuery(kind="search", front=True, limit=MOST)
    else:
        best = "-" if objectives[0].direction == "maximize" else ""
        query = CandidateQuery(kind="search", state="scored", sort=f"{best}score:{objectives[0].name}", limit=MOST)
    found = [Recipe.model_validate(row.recipe) for row in store.candidates(run.id, query)[0]]
    if not found:
        raise InvalidInputError("--near", run.id, "a run with scored candidates")
    return found


def _over(spec: RunSpec, recipe: Recipe, registry: Registry, what: str) -> Recipe:
    """The recipe with the search's names for its sources, which are told by their places."""
    places = {str(registry.model(alias)): name for name, alias in spec.models.sources.items()}
    names = {}
    for name, ref in recipe.sources.items():
        place = str(
            (Path(what).parent / Path(ref.location).expanduser()).resolve()
        )  # a recipe's places start beside it
        if place not in places and name not in spec.models.sources:
            allowed = f"sources of the search: {', '.join(spec.models.sources)}"
            raise InvalidInputError(f"--near {what}: sources.{name}", ref.location, allowed)
        names[name] = places.get(place, name)
    return Recipe.model_validate(_renamed(recipe, names))


def _renamed(recipe: Recipe, names: Mapping[str, str]) -> dict[str, Any]:
    data = recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    carry, path = data.get("carry", {"sources": {}}), data.get("path", {"layers": []})
    for mapping in (data, data["merge"], carry):
        mapping["sources"] = {names[name]: value for name, value in mapping["sources"].items()}
    if "align" in data:
        data["align"] = {names[name]: how for name, how in data["align"].items()}
    said = [(rule, "source") for rule in data["merge"]["rules"]] + [(hop, "model") for hop in path["layers"]]
    said += [(rule, "model") for rule in data.get("tokens", {}).values()]
    for mapping, key in (*said, (carry, "host"), (path, "host"), (data, "tokenizer")):
        if key in mapping:
            mapping[key] = names.get(mapping[key], mapping[key])
    return data
