"""Sources whose units are in the base's order."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from evomerge.errors import CheckpointError, InvalidInputError
from evomerge.merge.align.groups import Axis, Group, groups_of
from evomerge.merge.align.maps import Permutation, Plan, UnitMap
from evomerge.merge.align.names import open_named_source
from evomerge.merge.align.walk import Pair, align, moves
from evomerge.merge.folded import exclusive
from evomerge.models.adapter import is_adapter
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.content import content_hash
from evomerge.models.factors import Factors
from evomerge.models.finite import check_finite
from evomerge.models.source import Source, architecture_of_checkpoint, open_source
from evomerge.recipe.align import Align, AlignByNames, AlignByWeights, MatchedUnits
from evomerge.recipe.calibration import FileRef

_VERSION = 1


class AlignedSource:
    """A checkpoint with its units moved; its names and shapes are the base's."""

    def __init__(self, source: Source, base: Checkpoint, moved: Mapping[str, list[tuple[UnitMap, Axis]]]) -> None:
        self.name, self.path, self.dtype = source.name, source.path, source.dtype
        self.changed = source.changed
        self.factored: Mapping[str, int] = {}
        self._source, self._base, self._moved = source, base, moved

    def factors(self, name: str, *, transposed: bool = False) -> Factors | None:
        """A checkpoint has none."""
        return None

    def delta(self, name: str) -> Tensor | None:
        """Aligned θk − θ0."""
        if name not in self.changed:
            return None
        delta = torch.sub(self.weights(name).float(), self._base.read(name).float())
        check_finite(delta, name, f"source {self.name!r} ({self.path}) minus base")
        return delta

    def weights(self, name: str) -> Tensor:
        """Aligned θk: in its stored dtype where units were permuted, float32 where they were mixed."""
        tensor = self._source.weights(name)
        for map_, axis in self._moved.get(name, ()):
            tensor = map_.apply(tensor, axis)
        return tensor

    def close(self) -> None:
        """Let the files go."""
        self._source.close()


def open_aligned_source(
    spec: Align | None, root: Path, cache: Path | None, name: str, path: Path, base: Checkpoint, **options: bool
) -> Source:
    """Open a source and put its units into the base's order.

    Args:
        spec: how; None opens it as it is.
        root: the location of items is under it.
        cache: a directory that keeps maps by the content of both models and of `spec`; made if missing.
        name, path, base, options: as for `open_source`.

    Raises:
        InvalidInputError: it is an adapter, which has the base's units anyway; or activations of experts are asked for.
        CheckpointError, ArchitectureError, HashMismatchError: as `open_source`; or the items cannot be read.
    """
    if spec is None:
        return open_source(name, path, base, **options)
    if is_adapter(path):
        raise InvalidInputError(f"align.{name}", spec.method, "no alignment: an adapter has the units of its base")
    if isinstance(spec, AlignByNames):
        return open_named_source(name, path, base, spec, **options)
    source = open_source(name, path, base, **options)
    if not source.changed:
        return source
    architecture = architecture_of_checkpoint(base)
    groups = groups_of(architecture, base.config, {n: info.shape for n, info in base.tensors.items()}, spec.units)
    spec = _rooted(spec, root)
    maps = _maps(source, base, groups, spec) if cache is None else _cached(cache, source, base, groups, spec)
    return AlignedSource(source, base, moves(groups, maps))


def _rooted(spec: MatchedUnits, root: Path) -> MatchedUnits:
    if isinstance(spec, AlignByWeights) or spec.items is None:
        return spec
    items = FileRef(location=str((root / spec.items.location).resolve()), sha256=spec.items.sha256)
    return spec.model_copy(update={"items": items})


def _maps(source: Source, base: Checkpoint, groups: tuple[Group, ...], spec: MatchedUnits) -> dict[str, UnitMap]:
    pair = Pair(base.read, source.weights, groups)
    if not isinstance(spec, AlignByWeights) and spec.items is not None:
        architecture = architecture_of_checkpoint(base)
        from evomerge.merge.align.activations import activations_of  # transformers takes seconds to load

        active = activations_of(source, base, architecture, groups, spec.items, spec.tokens)
        pair = Pair(base.read, source.weights, groups, active)
    return align(pair, spec)


def _cached(
    cache: Path, source: Source, base: Checkpoint, groups: tuple[Group, ...], spec: MatchedUnits
) -> dict[str, UnitMap]:
    """Maps from a file that is named by all that decides them; one process computes, the others wait."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        path = cache / f"align-v{_VERSION}-{_key(cache, source, base, spec)}.safetensors"
        with exclusive(path.with_suffix(".lock")):
            if not path.exists():
                _save(_maps(source, base, groups, spec), path)
    except OSError as error:
        raise CheckpointError(f"{cache}: alignment cannot be kept: {error.strerror or error}") from error
    return _load(path, groups)


def _key(cache: Path, source: Source, base: Checkpoint, spec: MatchedUnits) -> str:
    models = [content_hash(model.path, cache) for model in (base, source)]
    data = spec.model_dump(mode="json")
    if not isinstance(spec, AlignByWeights) and spec.items is not None:
        data["items"] = hashlib.sha256(Path(spec.items.location).read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps([models, data], sort_keys=True).encode()).hexdigest()


def _save(maps: Mapping[str, UnitMap], path: Path) -> None:
    tensors: dict[str, Tensor] = {}
    for name, map_ in maps.items():
        if isinstance(map_, Permutation):
            tensors |= {f"{name}:units": map_.units, f"{name}:inner": map_.inner}
        else:
            tensors |= {f"{name}:shares": map_.shares, f"{name}:inner": map_.inner}
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        save_file(tensors, temporary)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _load(path: Path, groups: tuple[Group, ...]) -> dict[str, UnitMap]:
    tensors = load_file(path)
    maps: dict[str, UnitMap] = {}
    for group in groups:
        inner = tensors[f"{group.name}:inner"]
        units = tensors.get(f"{group.name}:units")
        maps[group.name] = Plan(tensors[f"{group.name}:shares"], inner) if units is None else Permutation(units, inner)
    return maps
