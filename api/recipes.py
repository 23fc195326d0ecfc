"""A candidate's stored recipe, with what is known about it, as text in the formats that REST offers."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from api.problems import Problem
from evomerge.errors import EvomergeError
from evomerge.recipe.schema import Recipe
from evomerge.recipe.text import dump_json, dump_yaml
from evomerge.storage.store import CandidateRow, RunRow

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


def write(recipe: Recipe, format: Format) -> tuple[str, str, str]:
    """The recipe's text, its media type and the end of its file's name."""
    if format == "json":
        return dump_json(recipe), "application/json", ".json"
    if format == "yaml":
        return dump_yaml(recipe), "application/yaml", ".yaml"
    from evomerge.recipe.mergekit import to_mergekit

    try:
        return to_mergekit(recipe, _num_layers(recipe)), "application/vnd.mergekit+yaml", ".mergekit.yaml"
    except EvomergeError as error:
        raise Problem("conflict", f"mergekit cannot express this recipe: {error}") from error


def _num_layers(recipe: Recipe) -> int:
    """The base's number of layers, from its config; mergekit writes layer ranges out."""
    path = Path(recipe.base.location) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        config = config.get("text_config", config)
        return int(config.get("num_hidden_layers", config.get("n_layer")))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise Problem("conflict", f"the number of layers is not known: {path} cannot be read ({error})") from error
