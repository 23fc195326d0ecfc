"""Which models and eval sets a service knows, by alias. Requests name aliases; only the operator names paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from evomerge.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Registry:
    """Aliases of models (directories or recipe files) and eval sets (JSONL files), absolute."""

    models: Mapping[str, Path] = field(default_factory=dict)
    eval_sets: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Registry:
        """Read `{models: {alias: path}, eval_sets: {name: path}}`; relative paths start at the file's folder.

        Raises:
            InvalidInputError: no such file, bad YAML, or an entry that is not text.
        """
        if not path.is_file():
            raise InvalidInputError("registry", str(path), "a YAML file that exists")
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except yaml.YAMLError as error:
            raise InvalidInputError(f"registry {path}", str(error), "YAML") from error
        if not isinstance(data, dict) or set(data) - {"models", "eval_sets"}:
            raise InvalidInputError(f"registry {path}", data, "a mapping with the keys models and eval_sets")
        return cls.of(data.get("models") or {}, data.get("eval_sets") or {}, path.parent)

    @classmethod
    def of(cls, models: Mapping[str, str], eval_sets: Mapping[str, str], root: Path) -> Registry:
        """Aliases given directly; relative paths start at `root`."""
        return cls(_paths("models", models, root), _paths("eval_sets", eval_sets, root))

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


def _existing(kind: str, alias: str, known: Mapping[str, Path]) -> Path:
    if alias not in known:
        raise InvalidInputError(kind, alias, f"one of the registered aliases {sorted(known)}")
    if not known[alias].exists():
        raise InvalidInputError(f"{kind} {alias!r}", str(known[alias]), "a place that exists; it is gone")
    return known[alias]
