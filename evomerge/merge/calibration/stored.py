"""Statistics on disk: a directory of safetensors for each kind, model and items, named by their content.

What is there is whole: it is written beside its place and renamed. Processes that want the same wait for one of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from evomerge.errors import CheckpointError
from evomerge.merge.calibration.activations import Named
from evomerge.merge.folded import exclusive
from evomerge.models.finite import check_finite
from evomerge.models.weights import Weights, open_weights

VERSION = 1
"""Of what statistics are; a change of a formula changes it, and nothing that lies in caches is taken any more."""
_FILE_BYTES = 256 << 20
_STEM = "statistics"


def key(document: dict[str, Any]) -> str:
    """SHA-256 of what a statistic depends on, in hexadecimal."""
    text = json.dumps({"version": VERSION, **document}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def stored(cache: Path, kind: str, digest: str, collect: Callable[[], Named], what: str) -> Weights:
    """The statistics of that name, mapped; collected first where the cache has none.

    Args:
        cache: a directory; made if missing.
        what: the model, for messages.

    Raises:
        CheckpointError: the cache cannot be written.
        NonFiniteError: a statistic is NaN or infinite.
    """
    place = cache / f"{kind}-{digest}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with exclusive(cache / f".{place.name}.lock"):
            if not place.is_dir():
                _write(place, kind, collect, what)
    except OSError as error:
        raise CheckpointError(f"{place}: statistics cannot be written: {error.strerror or error}") from error
    return open_weights(place, _STEM)


def _write(place: Path, kind: str, collect: Callable[[], Named], what: str) -> None:
    for left in place.parent.glob(f".{place.name}.*.partial"):  # of a process that was killed: we hold the lock
        shutil.rmtree(left, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".partial", dir=place.parent))
    try:
        places: dict[str, str] = {}
        for tensors in _parts(collect(), kind, what):
            file = f"{_STEM}-{len(set(places.values())):05d}.safetensors"
            save_file(tensors, partial / file)
            places |= dict.fromkeys(tensors, file)
        index = json.dumps({"weight_map": places}, indent=2, sort_keys=True)
        (partial / f"{_STEM}.safetensors.index.json").write_text(index, encoding="utf-8")
        for written in (*partial.iterdir(), partial):
            _sync(written)
        partial.rename(place)
        _sync(place.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # gone already when all went well


def _parts(named: Named, kind: str, what: str) -> Iterator[dict[str, Tensor]]:
    """What is written at a time."""
    held: dict[str, Tensor] = {}
    for name, tensor in named:
        check_finite(tensor, name, f"the {kind} of {what}")
        held[name] = tensor.contiguous()
        if sum(t.nbytes for t in held.values()) >= _FILE_BYTES:
            yield held
            held = {}
    if held:
        yield held


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
