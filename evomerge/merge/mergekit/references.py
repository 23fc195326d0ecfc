"""Where mergekit's models lie, and what they are called in a recipe."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from evomerge.merge.mergekit.config import Model
from evomerge.models.adapter import is_adapter
from evomerge.models.hub import HUB
from evomerge.recipe.schema import RESERVED, ModelRef

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[\w.-]+)?")
_OTHER = re.compile(r"[^A-Za-z0-9_.-]+")


def model_ref(place: str, revision: str | None) -> ModelRef:
    """A place as mergekit reads it: a directory if there is one, else a repository of the hub if it can be one.

    Raises:
        ValueError: a directory with a revision; the message says what is expected.
    """
    path = Path(place)
    if not path.is_dir() and _REPOSITORY.fullmatch(place) and not place.startswith("."):
        return ModelRef(location=HUB + place, revision=revision)
    if revision is not None:
        raise ValueError(f"a repository of the hub: {place!r} is a directory, which has no revisions")
    return ModelRef(location=os.path.abspath(path.expanduser()))  # noqa: PTH100  # keeps links


def nearby(ref: ModelRef) -> Path | None:
    """A model's directory on this machine, nothing downloaded; None where there is none."""
    if not ref.location.startswith(HUB):
        path = Path(ref.location)
        return path if (path / "config.json").is_file() or is_adapter(path) else None
    try:
        found = try_to_load_from_cache(ref.location.removeprefix(HUB), "config.json", revision=ref.revision)
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def names_of(models: Iterable[Model]) -> dict[Model, str]:
    """A name for every model: the last part of its place (of its adapter's, if it has one), and a number if need be."""
    names: dict[Model, str] = {}
    for model in models:
        if model in names:
            continue
        own = _name(model.lora or model.place)
        taken, number = set(names.values()), 2
        name = own
        while name in taken:
            name, number = f"{own[:60]}-{number}", number + 1
        names[model] = name
    return names


def _name(place: str) -> str:
    last = _OTHER.sub("-", place.rstrip("/").rpartition("/")[2]).lstrip("-_.")[:56] or "model"
    return f"{last}-model" if last in RESERVED else last


def file_names(names: Iterable[str], taken: Mapping[str, object]) -> dict[str, str]:
    """A recipe file's name for every named merge."""
    found: dict[str, str] = {}
    for name in names:
        stem = _OTHER.sub("-", name).lstrip("-_.") or "merge"
        file, number = f"{stem}.yaml", 2
        while file in found.values() or file in taken:
            file, number = f"{stem}-{number}.yaml", number + 1
        found[name] = file
    return found
