"""What a merge to a directory is, as a key: an unfinished one is taken up again only for the same key."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from evomerge.errors import InvalidInputError
from evomerge.models.hub import locate
from evomerge.recipe.schema import ModelRef, Recipe
from evomerge.recipe.text import load_recipe

VERSION = 2
"""Changes when the bytes that a recipe gives change."""


def fingerprint(recipe: Recipe, root: Path, above: tuple[Path, ...] = ()) -> str:
    """SHA-256 of all that decides the merged files' bytes: the recipe, and what its models hold.

    A model with a hash is that hash; another is the names, sizes and times of its files; a recipe among the sources is
    its own fingerprint.

    Args:
        above: the recipe files that lead here.

    Raises:
        CheckpointError: a model or a recipe is missing.
        InvalidInputError: recipes refer to each other in a circle.
    """
    refs = {"base": recipe.base, **{f"sources.{name}": ref for name, ref in recipe.sources.items()}}
    found = {name: _content(ref, root, above) for name, ref in refs.items()}
    document = [VERSION, recipe.digest, recipe.shard_bytes, found]
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _content(ref: ModelRef, root: Path, above: tuple[Path, ...]) -> object:
    if ref.sha256 is not None:
        return ref.sha256
    path = locate(ref, root)
    if path.is_file():
        path = path.resolve()
        check_circle(path, above)
        return fingerprint(load_recipe(path), path.parent, (*above, path))
    files = sorted(file for pattern in ("*.safetensors", "*.json") for file in path.glob(pattern))
    return [str(path.resolve()), [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]]


def check_circle(path: Path, above: tuple[Path, ...]) -> None:
    """Refuse a recipe that is being built to build itself.

    Raises:
        InvalidInputError: names the recipes.
    """
    if path in above:
        circle = " → ".join(p.name for p in (*above, path))
        raise InvalidInputError("sources", str(path), f"recipes that do not refer to each other in a circle ({circle})")
