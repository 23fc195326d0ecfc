"""What names a model's weights: a hash of their content, the same wherever and in however many files they lie."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from evomerge.models.weights import DTYPES, Weights, open_weights, read_json

ADAPTER_CONFIG = "adapter_config.json"
DELTA_FIELDS = ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out")
"""The fields of adapter_config.json that change an adapter's delta; the others that would are refused when opened."""
_STORED = {dtype: name for name, dtype in DTYPES.items()}


def content_hash(path: Path, cache: Path | None = None) -> str:
    """SHA-256 of a checkpoint's or an adapter's weights, in hexadecimal.

    Exactly: of every tensor take the row `[name, dtype, shape, sha256]`, where dtype is safetensors' name (`BF16`),
    shape a list of integers and sha256 the hexadecimal digest of its bytes (row-major, little-endian). Sort the rows by
    name. For a checkpoint the document is `{"tensors": rows}`; for an adapter `{"adapter": fields, "tensors": rows}`
    with those of `DELTA_FIELDS` that adapter_config.json holds. The hash is that of the document as UTF-8 JSON with
    sorted keys, no blanks and no escapes beyond JSON's own. So sharding, file metadata and the place do not matter.

    Args:
        path: a directory with config.json and weights, or with a PEFT adapter.
        cache: a directory that remembers hashes by place, inode, size and times of the files; made if missing. A file
            that has just been written is hashed again the next time.

    Raises:
        CheckpointError: the weights cannot be read.
    """
    directory = path.resolve()
    adapter = (directory / ADAPTER_CONFIG).is_file()
    stem = "adapter_model" if adapter else "model"
    fields = _delta_fields(directory) if adapter else None
    return _hash_of(directory, stem, fields) if cache is None else _cached(cache, directory, stem, fields)


def _hash_of(directory: Path, stem: str, fields: dict[str, Any] | None) -> str:
    weights = open_weights(directory, stem)
    try:
        return _hash(weights, fields)
    finally:
        weights.close()


def _delta_fields(directory: Path) -> dict[str, Any]:
    config = read_json(directory / ADAPTER_CONFIG)
    return {field: config[field] for field in DELTA_FIELDS if field in config}


def _hash(weights: Weights, fields: dict[str, Any] | None) -> str:
    rows = [[i.name, _STORED[i.dtype], list(i.shape), _digest(weights, i.name)] for i in weights.tensors.values()]
    document: dict[str, Any] = {"tensors": sorted(rows)}
    if fields is not None:
        document["adapter"] = fields
    return hashlib.sha256(_canonical(document)).hexdigest()


def _digest(weights: Weights, name: str) -> str:
    data = weights.read(name).contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(data.data).hexdigest()


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _cached(cache: Path, directory: Path, stem: str, fields: dict[str, Any] | None) -> str:
    """The hash that is remembered for the files as they are, or a new one."""
    state = _state(directory, stem)
    document = _canonical([_CACHE_VERSION, str(directory), state, fields])
    entry = cache / f"{hashlib.sha256(document).hexdigest()}.sha256"
    if entry.is_file() and len(known := entry.read_text(encoding="ascii").strip()) == 64:
        return known
    began = time.time_ns()
    digest = _hash_of(directory, stem, fields)
    # what is written to during the clock tick of its last change looks the same afterwards
    settled = all(max(numbers[-2:]) < began - SETTLED_NS for _, numbers in state)
    if settled and _state(directory, stem) == state:
        _remember(entry, digest)
    return digest


SETTLED_NS = 2_000_000_000
"""How long ago a file's last change must lie for its hash to be remembered: file systems count time in steps of up to
two seconds."""
_CACHE_VERSION = 2


def _state(directory: Path, stem: str) -> list[tuple[str, tuple[int, ...]]]:
    """Name, device, inode, size, and times of the last change of content and of anything, of every weights file.

    The last one is the system's own: who writes into a file and puts its time back still changes it.
    """
    files = sorted(directory.glob(f"{stem}*.safetensors"))
    stats = [(file.name, file.stat()) for file in files]
    index = directory / f"{stem}.safetensors.index.json"
    if index.is_file():
        stats.append((index.name, index.stat()))
    return [(name, (s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns)) for name, s in stats]


def _remember(entry: Path, digest: str) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True)
    # A rename is atomic: two processes that hash the same model write the same entry.
    handle, temporary = tempfile.mkstemp(dir=entry.parent)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(digest)
    Path(temporary).replace(entry)
