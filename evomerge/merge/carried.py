"""Tensors that only one source has, such as the encoder of a multimodal model, beside what is merged.

They are added to the base as buffers are: the result has them as they are stored. Where a recipe has a host, the
merged tensors are stored under its names.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evomerge.errors import ArchitectureError, InvalidInputError
from evomerge.merge.align.names import Names, match_names, renamed
from evomerge.models.architecture import Architecture, Part
from evomerge.models.checkpoint import Checkpoint, open_checkpoint
from evomerge.models.family import BUFFER
from evomerge.models.weights import Place, TensorInfo, read_json, some
from evomerge.recipe.align import AlignByNames
from evomerge.recipe.carry import Carry
from evomerge.recipe.schema import Recipe

log = logging.getLogger(__name__)
PROCESSORS = ("*processor_config.json", "processor*.json")
"""Files that say how inputs other than text are prepared."""
OF_THE_TEXT = ("text_config", "model_type", "architectures", "auto_map", "torch_dtype", "dtype", "transformers_version")
"""Keys of a config that another model's config does not add to: they are about the host's own."""


class CarryingCheckpoint(Checkpoint):
    """A base with other checkpoints' tensors.

    Args:
        inner: the base.
        own: name → the checkpoint that holds it, under the same name.
    """

    def __init__(self, inner: Checkpoint, own: Mapping[str, Checkpoint]) -> None:
        self.path, self.config, self._inner, self._own = inner.path, inner.config, inner, own

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The base's, then the others'."""
        return {**self._inner.tensors, **{name: at.tensors[name] for name, at in self._own.items()}}

    def read(self, name: str) -> Tensor:
        """As stored, wherever that is."""
        return self._own.get(name, self._inner).read(name)

    def place(self, name: str) -> Place:
        """Where a tensor's bytes lie."""
        return self._own.get(name, self._inner).place(name)

    def close(self) -> None:
        """Let the files of all go."""
        for checkpoint in (self._inner, *self._own.values()):
            checkpoint.close()


def with_carried(
    recipe: Recipe, base: Checkpoint, architecture: Architecture, places: Mapping[str, Path]
) -> tuple[Checkpoint, Architecture, dict[str, str]]:
    """The base and its architecture with the tensors that a recipe carries over.

    Args:
        recipe: one with `carry`.
        places: source → its directory.

    Returns:
        base, architecture, and tensor of the base → the host's name of it (empty without a host).

    Raises:
        InvalidInputError: a pattern matches none of a source's own tensors; two tensors would have one name.
        ArchitectureError: the host's language model is not the base's, tensor by tensor; names tensors.
    """
    assert recipe.carry is not None, "the caller asked"
    assert recipe.align is not None, "the recipe was checked"
    own: dict[str, Checkpoint] = {}
    written: dict[str, str] = {}
    for name, asked in recipe.carry.sources.items():
        spec = recipe.align[name]
        assert isinstance(spec, AlignByNames), "the recipe was checked"
        source = open_checkpoint(places[name])
        own_vocabulary = recipe.tokenizer != "same"
        names = match_names(source.tensors, base.tensors, architecture, spec, own_vocabulary=own_vocabulary)
        names = _without_tied(name, source, names, architecture, spec)
        if name == recipe.carry.host:
            written = _hosted(name, source, names, base)
        for tensor in _chosen(name, asked.tensors, names):
            if tensor in own:
                allowed = f"tensors of other names than those of the other sources; {own[tensor].path} has it, too"
                raise InvalidInputError(f"carry.sources.{name}.tensors", tensor, allowed)
            own[tensor] = source
    _check_free(own, base, written)
    parts = {**architecture.parts, **dict.fromkeys(own, Part(BUFFER, None))}
    return CarryingCheckpoint(base, own), replace(architecture, parts=parts), written


def _chosen(source: str, patterns: tuple[str, ...], names: Names) -> list[str]:
    """A source's own tensors that its patterns match."""
    if not names.unused:
        allowed = "a source with tensors that the base has no place for; it has none"
        raise InvalidInputError(f"carry.sources.{source}", source, allowed)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names.unused):
            allowed = f"a pattern of tensors that only this source has: {some(list(names.unused), 5)}"
            raise InvalidInputError(f"carry.sources.{source}.tensors", pattern, allowed)
    return [name for name in names.unused if not patterns or any(fnmatchcase(name, p) for p in patterns)]


def _without_tied(name: str, source: Checkpoint, names: Names, architecture: Architecture, spec: AlignByNames) -> Names:
    """Without a head that is the embedding once more, as the base's is."""
    heads = {tensor: at for tensor in names.unused if (at := renamed(tensor, spec)) in architecture.tied}
    for head, at in heads.items():
        embedding = names.merged.get(architecture.tied[at])
        if embedding is None or not torch.equal(source.read(head), source.read(embedding)):
            raise ArchitectureError(
                f"source {name!r} ({source.path}) has a head of its own, {head!r}; in the base model it is tied"
            )
    return replace(names, unused=tuple(tensor for tensor in names.unused if tensor not in heads))


def _hosted(name: str, source: Checkpoint, names: Names, base: Checkpoint) -> dict[str, str]:
    """Tensor of the base → the host's name; every tensor of the base has one, of the base's shape."""
    if names.reshaped:
        at, own = next(iter(names.reshaped.items()))
        raise ArchitectureError(
            f"tensor {own!r} of host {name!r} is {list(source.tensors[own].shape)}, {at!r} in the base model is "
            f"{list(base.tensors[at].shape)}: the result would not fit the host's config.json"
            f"{_hint(source.tensors[own], base.tensors[at])}"
        )
    if names.kept:
        raise ArchitectureError(
            f"host {name!r} ({source.path}) lacks {some(list(names.kept))}, which the base model has"
        )
    return dict(names.merged)


def _hint(own: TensorInfo, base: TensorInfo) -> str:
    return "; `tokenizer` matches rows by token" if own.shape[1:] == base.shape[1:] else ""


def _check_free(own: Mapping[str, Checkpoint], base: Checkpoint, written: Mapping[str, str]) -> None:
    taken = {written.get(name, name) for name in base.tensors}
    for name, source in own.items():
        if name in taken:
            allowed = f"other names than those of the merged tensors; {source.path} has one that is no part of the base"
            raise InvalidInputError("carry", name, allowed)


def carried_config(carry: Carry, base: Mapping[str, Any], places: Mapping[str, Path], dtype: str) -> dict[str, Any]:
    """config.json of the result: the host's (else the base's), with the keys that other sources' have beside it.

    Args:
        base: the base's.
        places: source → its directory.
        dtype: of what is written, which parts of a config (`text_config`) may say, too.
    """
    configs = {name: read_json(places[name] / "config.json") for name in carry.sources}
    config: dict[str, Any] = dict(base if carry.host is None else configs[carry.host])
    for name, others in configs.items():
        new = {key: value for key, value in others.items() if key not in OF_THE_TEXT and key not in base}
        if differing := sorted(key for key in new if key in config and config[key] != new[key]):
            log.warning("config.json keeps its own %s, those of source %r are left out", differing, name)
        config = {**new, **config}
    text = config.get("text_config")
    if isinstance(text, dict):
        config["text_config"] = {k: dtype if k in ("dtype", "torch_dtype") else v for k, v in text.items()}
    return config


def copy_processors(carry: Carry, places: Mapping[str, Path], out: Path) -> None:
    """Files that say how images, sound and so on are prepared, of the host first; of one name the first stays."""
    order = sorted(carry.sources, key=lambda name: (name != carry.host, name))
    for path in (path for name in order for pattern in PROCESSORS for path in sorted(places[name].glob(pattern))):
        if not (out / path.name).exists():
            shutil.copyfile(path, out / path.name)
        elif (out / path.name).read_bytes() != path.read_bytes():
            log.warning("%s is left out: another source's is there", path)
