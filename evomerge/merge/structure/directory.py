"""A model directory beside another: its tokenizer, other weights, another config."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from evomerge.merge.sidecar import COPIED
from evomerge.models.content import content_hash
from evomerge.models.layout import Entry, lay_out
from evomerge.models.partial import partial
from evomerge.models.stream import ShardWriter

SHARD_BYTES = 5_000_000_000

Weights = Iterable[tuple[str, Tensor]]


def write_directory(
    out: Path,
    model: Path,
    entries: Sequence[Entry],
    weights: Callable[[], Weights],
    config: Mapping[str, Any],
    report: Mapping[str, Any],
    *,
    donor: Path | None = None,
) -> Path:
    """Write a checkpoint whole or not at all.

    Args:
        out: the directory to make; it may exist if it is empty.
        model: whose tokenizer, chat template and generation config are taken over.
        entries: what `weights` gives, in the order of the files.
        weights: every entry once, in any order, in its final dtype.
        config: config.json.
        report: what was done; goes to `structure.json`, with the model's content hash.
        donor: whose tokenizer and so on are taken over in place of the model's.

    Raises:
        CheckpointError: `out` is in use, or the disk refuses.
    """
    report = {**report, "model": {"location": str(model.resolve()), "sha256": content_hash(model)}}
    key = hashlib.sha256(json.dumps(report, sort_keys=True).encode()).hexdigest()
    with partial(out, key) as at:
        for path in sorted({path for pattern in COPIED for path in (donor or model).glob(pattern) if path.is_file()}):
            shutil.copyfile(path, at.model / path.name)
        for name, data in (("config.json", config), ("structure.json", report)):
            text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
            (at.model / name).write_text(text, encoding="utf-8")
        shards = lay_out(entries, SHARD_BYTES)
        left = {entry.name for shard in shards if shard.file not in at.finished for entry in shard.entries}
        with ShardWriter(at, shards) as writer:
            for name, tensor in weights():
                if name in left:
                    writer.write(name, tensor)
        at.publish()
    return out
