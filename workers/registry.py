"""Which models and eval sets a service knows, by alias. Requests name aliases; only the operator names paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from evomerge.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Registry:
    """What is known by alias.

    Attributes:
        models: directories or recipe files, absolute.
        eval_sets: JSONL files, absolute.
        training: model → the data that it was trained on, files or folders, absolute, or ids of a hub's data sets.
    """

    models: Mapping[str, Path] = field(default_factory=dict)
    eval_sets: Mapping[str, Path] = field(default_factory=dict)
    training: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Registry:
        """Read `{models: {alias: path}, eval_sets: {name: path}, training: {alias: [path]}}`; relative paths start at
        the file's folder.

        Raises:
            InvalidInputError: no such file, bad YAML, or an entry that is not text.
        """
        if not path.is_file():
            raise InvalidInputError("registry", str(path), "a YAML file that exists")
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except yaml.YAMLError as error:
            raise InvalidInputError(f"registry {path}", str(error), "YAML") from error
        if not isinstance(data, dict) or set(data) - {"models", "eval_sets", "training"}:
            raise InvalidInputError(f"registry {path}", data, "a mapping with the keys models, eval_sets and training")
        return cls.of(
            data.get("models") or {}, data.get("eval_sets") or {}, path.parent, training=data.get("training") or {}
        )

    @classmethod
    def of(
        cls,
        models: Mapping[str, str],
        eval_sets: Mapping[str, str],
        root: Path,
        *,
        training: Mapping[str, Sequence[str]] | None = None,
    ) -> Registry:
        """Aliases given directly; relative paths start at `root`.

        Raises:
            InvalidInputError: an entry that is not text, or training data of a model that is not there.
        """
        known = _paths("models", models, root)
        return cls(known, _paths("eval_sets", eval_sets, root), _training(training or {}, known, root))

    def model(self, alias: str) -> Path:
        """The place of a model.

        Raises:
            InvalidInputError: an alias that nobody registered, or whose directory is gone.
        """
        return _existing("models", alias, self.models)

    def eval_set(self, name: str) -> Path:
        """The JSONL file of an eval set; raises as `model` does."""
        return _existing("eval_sets", name, self.eval_sets)


def _paths(kind: str, entries: Mapping[str, str], root: Path) -> dict[str, Path]:
    if not isinstance(entries, Mapping):
        raise InvalidInputError(f"registry {kind}", entries, "a mapping of aliases to paths")
    paths = {}
    for alias, text in entries.items():
        if not isinstance(alias, str) or not isinstance(text, str) or not text:
            raise InvalidInputError(f"registry {kind}.{alias}", text, "a path")
        paths[alias] = (root / Path(text).expanduser()).resolve()
    return paths


def _training(
    entries: Mapping[str, Sequence[str]], models: Mapping[str, Path], root: Path
) -> dict[str, tuple[str, ...]]:
    if not isinstance(entries, Mapping):
        raise InvalidInputError("registry training", entries, "a mapping of models' aliases to lists of paths")
    found = {}
    for alias, places in entries.items():
        if alias not in models:
            raise InvalidInputError(f"registry training.{alias}", alias, f"one of the models {sorted(models)}")
        if not isinstance(places, list | tuple) or not all(isinstance(place, str) and place for place in places):
            raise InvalidInputError(f"registry training.{alias}", places, "a list of paths")
        found[alias] = tuple(_file_or_id(place, root) for place in places)
    return found


def _file_or_id(text: str, root: Path) -> str:
    """What is no place here may be a hub's data set."""
    place = (root / Path(text).expanduser()).resolve()
    return str(place) if place.exists() or text.count("/") != 1 else text


def _existing(kind: str, alias: str, known: Mapping[str, Path]) -> Path:
    if alias not in known:
        raise InvalidInputError(kind, alias, f"one of the registered aliases {sorted(known)}")
    if not known[alias].exists():
        raise InvalidInputError(f"{kind} {alias!r}", str(known[alias]), "a place that exists; it is gone")
    return known[alias]
