"""Model directories of a few tensors, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from evomerge.errors import CheckpointError
from evomerge.models.layout import Entry, lay_out
from evomerge.models.partial import partial
from evomerge.models.stream import ShardWriter


def save_tensors(
    out: Path, tensors: Mapping[str, Tensor], shard_bytes: int = 10**9, files: Mapping[str, str] | None = None
) -> Path:
    """Write tensors that are in memory as a merge writes its own: all of the directory or nothing.

    Args:
        files: further files, name → text.

    Raises:
        ValueError: safetensors has no name for a dtype.
        CheckpointError: `out` is in use, there is nothing to write, or the disk is full or refuses.
    """
    if not tensors:
        raise CheckpointError(f"{out}: no tensor was written")
    shards = lay_out([Entry(name, t.dtype, tuple(t.shape)) for name, t in tensors.items()], shard_bytes)
    with partial(out, "tensors in memory") as at:
        with ShardWriter(at, shards) as writer:
            for name, tensor in tensors.items():
                writer.write(name, tensor)
        for name, text in (files or {}).items():
            (at.model / name).write_text(text, encoding="utf-8")
        at.publish()
    return out
