"""A candidate's stored recipe, with what is known about it, as text in the formats that REST offers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from api.problems import Problem
from evomerge.errors import EvomergeError, InvalidInputError
from evomerge.models.family import families
from evomerge.recipe.schema import Recipe
from evomerge.recipe.text import dump_json, dump_yaml
from evomerge.storage.store import CandidateRow, RunRow, Store

Format = Literal["yaml", "json", "mergekit"]


def of(run: RunRow, candidate: CandidateRow) -> Recipe:
    """The recipe with its provenance: run, candidate, and what was measured so far. The digest does not change."""
    recipe = Recipe.model_validate(candidate.recipe)
    known = {
        "run": run.id,
        "run_name": run.name,
        "candidate": candidate.number,
        "digest": recipe.digest,
        "scores": candidate.scores,
        "verified": candidate.verified,
        "evomerge": version("evomerge"),
    }
    return recipe.model_copy(update={"provenance": {**known, **recipe.provenance}})


def recipe_in(store: Store, run: RunRow, number: int) -> Recipe:
    """A candidate's recipe with its provenance.

    Raises:
        InvalidInputError: the run has no such candidate.
    """
    candidate = store.candidate(run.id, number)
    if candidate is None:
        raise InvalidInputError("candidate", number, f"a candidate of {run.id}")
    return of(run, candidate)


def write(recipe: Recipe, format: Format) -> tuple[str, str, str]:
    """The recipe's text, its media type and the end of its file's name."""
    if format == "json":
        return dump_json(recipe), "application/json", ".json"
    if format == "yaml":
        return dump_yaml(recipe), "application/yaml", ".yaml"
    from evomerge.merge.mergekit.write import to_mergekit  # it knows the methods, which need torch

    try:
        num_layers, modules = _shape(recipe)
        return to_mergekit(recipe, num_layers, modules=modules), "application/vnd.mergekit+yaml", ".mergekit.yaml"
    except EvomergeError as error:
        raise Problem("not-expressible", f"mergekit cannot express this recipe: {error}") from error


def _shape(recipe: Recipe) -> tuple[int, Mapping[str, str]]:
    """The base's number of layers and its modules' roles, from its config; mergekit has no words for either."""
    from evomerge.merge.mergekit.references import nearby
    from evomerge.models.checkpoint import open_checkpoint
    from evomerge.models.source import architecture_of_checkpoint

    path = (nearby(recipe.base) or Path(recipe.base.location)) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        family = families().get(config["model_type"])
        if family is None:  # nobody described it: its tensors' names do
            with open_checkpoint(path.parent) as base:
                architecture = architecture_of_checkpoint(base)
            return architecture.num_layers, architecture.kind.modules
        return int(config[family.layers]), family.modules
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise Problem("not-expressible", f"the base model is not known: {path} cannot be read ({error})") from error
