"""Models of two architectures paired by the names of their tensors."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from evomerge.errors import ArchitectureError
from evomerge.models.architecture import Architecture
from evomerge.models.checkpoint import Checkpoint, TensorInfo, is_merged, open_checkpoint
from evomerge.models.family import BUFFER
from evomerge.models.source import VOCABULARY, CheckpointSource, architecture_of_checkpoint
from evomerge.models.weights import some
from evomerge.recipe.align import AlignByNames

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Names:
    """How a source's tensors fit a base.

    Attributes:
        merged: base name → source's name, of equal shape.
        reshaped: base name → source's name, of other shape: the base's is kept.
        kept: the base's weights that the source has nothing for.
        unused: the source's tensors that the base has no place for.
    """

    merged: Mapping[str, str]
    reshaped: Mapping[str, str]
    kept: tuple[str, ...]
    unused: tuple[str, ...]


def match_names(
    source: Mapping[str, TensorInfo],
    base: Mapping[str, TensorInfo],
    architecture: Architecture,
    spec: AlignByNames,
    *,
    own_vocabulary: bool = False,
) -> Names:
    """Pair the tensors of a source with the base's.

    Args:
        own_vocabulary: embedding and head may have another number of rows: the caller matches them by token.

    Raises:
        ArchitectureError: two tensors of the source mean one of the base, or nothing fits.
    """
    wanted = {
        name for name, info in base.items()
        if is_merged(info) and architecture.parts[name].role != BUFFER and name not in architecture.tied
    }  # fmt: skip
    paired: dict[str, str] = {}
    unused = []
    for name, info in source.items():
        at = renamed(name, spec)
        if at not in wanted or not is_merged(info):
            unused.append(name)
        elif at in paired:
            raise ArchitectureError(f"{paired[at]!r} and {name!r} both mean the base model's {at!r}")
        else:
            paired[at] = name

    def fits(at: str, name: str) -> bool:
        rows = 1 if own_vocabulary and architecture.parts[at].role in VOCABULARY else 0
        return source[name].shape[rows:] == base[at].shape[rows:] and len(source[name].shape) == len(base[at].shape)

    merged = {at: name for at, name in paired.items() if fits(at, name)}
    if not merged:
        raise ArchitectureError(f"no tensor fits the base model by name and shape; it has {some(sorted(wanted))}")
    reshaped = {at: name for at, name in paired.items() if at not in merged}
    return Names(merged, reshaped, tuple(sorted(wanted - set(paired))), tuple(unused))


def open_named_source(
    name: str, path: Path, base: Checkpoint, spec: AlignByNames, *, own_vocabulary: bool = False
) -> CheckpointSource:
    """Open a checkpoint of any architecture as a source; what does not fit is logged as a warning.

    Raises:
        CheckpointError: files are missing or corrupt.
        ArchitectureError: as `match_names`.
    """
    checkpoint = open_checkpoint(path)
    try:
        architecture = architecture_of_checkpoint(base)
        names = match_names(checkpoint.tensors, base.tensors, architecture, spec, own_vocabulary=own_vocabulary)
    except ArchitectureError as error:
        raise ArchitectureError(f"source {name!r} ({path}): {error}") from error
    if left := [*names.reshaped, *names.kept]:
        log.warning(
            "source %r: %d tensors are merged, %d of the base are kept: other shapes %s; not in the source %s",
            name, len(names.merged), len(left), list(names.reshaped)[:5], list(names.kept)[:5],
        )  # fmt: skip
    return CheckpointSource(name, base, checkpoint, names.merged)


def renamed(name: str, spec: AlignByNames) -> str:
    """A source's tensor in the base's names, as the table says; what no pattern matches stays as it is."""
    for pattern, replacement in spec.table:
        if match := re.fullmatch(pattern, name):
            return match.expand(replacement)
    return name
