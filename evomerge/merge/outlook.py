"""What a merge would do, before it does anything: `evomerge merge --dry-run`, and the check for room on the disk."""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evomerge.errors import CheckpointError
from evomerge.merge.budget import Unit
from evomerge.merge.engine import Resources, Works
from evomerge.merge.inputs import Inputs
from evomerge.merge.plan import Plan
from evomerge.merge.workspace import FLOAT32
from evomerge.models.layout import Shard
from evomerge.models.source import AdapterSource

SIDECAR_BYTES = 64 << 20
"""Room for tokenizer, configuration and journal."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """A merge that has not happened.

    Attributes:
        method: its name.
        tensors_merged, tensors_copied: how many the merged model has of each; copied ones are the base's.
        shards: files of weights.
        bytes_read: of the models' weights, each counted once.
        bytes_written: of the merged model's weights.
        memory: bytes of tensors in memory at a time, at most; the interpreter and its libraries come on top.
        disk_needed: bytes on the disk of the target, what is needed on the way included.
        disk_free: bytes free there.
        built_first: sources that are recipes.
    """

    method: str
    tensors_merged: int
    tensors_copied: int
    shards: int
    bytes_read: int
    bytes_written: int
    memory: int
    disk_needed: int
    disk_free: int
    built_first: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the disk has room."""
        return self.disk_needed <= self.disk_free

    def after(self, inner: Outlook, name: str) -> Outlook:
        """This merge with one that has to come first, whose result is needed on the way."""
        return replace(
            self,
            bytes_read=self.bytes_read + inner.bytes_read,
            memory=max(self.memory, inner.memory),
            disk_needed=self.disk_needed + inner.disk_needed,
            built_first=(*self.built_first, name, *inner.built_first),
        )


def outlook(
    plan: Plan, inputs: Works, units: Sequence[Unit], shards: Sequence[Shard], out: Path, resources: Resources
) -> Outlook:
    """What `plan` comes to.

    Args:
        units: the work in pieces.
        shards: the files.
    """
    largest = sorted((unit.memory for unit in units), reverse=True)[: resources.threads]
    return Outlook(
        method=plan.method.name,
        tensors_merged=sum(not job.copy for job in plan.jobs),
        tensors_copied=sum(job.copy for job in plan.jobs),
        shards=len(shards),
        bytes_read=_bytes_read(inputs.read_from),
        bytes_written=sum(unit.num_bytes for unit in units),
        memory=min(resources.memory, sum(largest)),
        disk_needed=sum(shard.file_bytes for shard in shards) + folded_bytes(plan, inputs) + SIDECAR_BYTES,
        disk_free=free_bytes(out),
    )


def folded_bytes(plan: Plan, inputs: Works) -> int:
    """Bytes of the files of deltas that a merge makes on the way: where adapters are read several times."""
    if plan.measures != "model" or not isinstance(inputs, Inputs):
        return 0
    changed = [name for source in inputs.sources.values() if isinstance(source, AdapterSource)
               for name in source.changed]  # fmt: skip
    return sum(FLOAT32 * math.prod(inputs.shapes[name]) for name in changed)


def check_disk(out: Path, needed: int) -> None:
    """Refuse to begin what the disk has no room for.

    Raises:
        CheckpointError: names what is needed and what is free.
    """
    free = free_bytes(out)
    if needed > free:
        raise CheckpointError(f"{out}: the merge needs {needed:,} bytes on this disk, {free:,} are free")


def free_bytes(place: Path) -> int:
    """Bytes free on the disk of a place that need not exist."""
    at = place.absolute()
    while not at.exists():
        at = at.parent
    return shutil.disk_usage(at).free


def _bytes_read(places: Collection[Path]) -> int:
    return sum(file.stat().st_size for place in places for file in place.glob("*.safetensors"))
