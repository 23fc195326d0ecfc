"""An adapter's deltas, multiplied out once and mapped from then on.

B·A costs more than the merge itself, and a search asks for the same deltas thousands of times. They lie in one flat
float32 file per adapter, named by the adapter's content hash, which all workers of a machine map: the page cache holds
them once.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evomerge.errors import CheckpointError
from evomerge.models.source import Source

Shapes = Mapping[str, tuple[int, ...]]
_ALIGNMENT = 16  # entries: every tensor begins on a 64-byte line
_VERSION = 1


def folded(source: Source, digest: str, shapes: Shapes, cache: Path) -> dict[str, Tensor]:
    """The deltas of a source that computes them, from `cache`; folded first if this machine has not done it yet.

    Args:
        source: whose `delta` gives float32 tensors.
        digest: its content hash: names the file.
        shapes: base tensor name → shape.
        cache: a directory; made if missing. Several processes may ask at the same time: one folds, the others wait.

    Returns:
        Tensor name → δ, views of the mapped file; writing to one would not reach the file.

    Raises:
        CheckpointError: the cache cannot be written.
        NonFiniteError: the adapter holds NaN or infinity.
    """
    offsets, length = _layout(source, shapes)
    path = cache / f"delta-v{_VERSION}-{digest}.f32"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with exclusive(path.with_suffix(".lock")):
            if not path.exists() or path.stat().st_size != 4 * length:
                _fold(source, offsets, length, path)
    except OSError as error:
        raise CheckpointError(f"{path}: deltas cannot be written: {error.strerror or error}") from error
    return _mapped(path, offsets, shapes) if length else {}


def delta_key(source: Source, own: str, base: Callable[[], str]) -> str:
    """What decides an adapter's deltas, as a digest for `folded`: itself, and the base where they are more than
    products of its factors.

    Args:
        own, base: content hashes.
    """
    return own if source.changed == source.factored.keys() else f"{own}-{base()}"


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock that other processes of this machine respect; it goes with the process, however that ends."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _layout(source: Source, shapes: Shapes) -> tuple[dict[str, int], int]:
    """Where each tensor begins, and the file's length, both in entries."""
    offsets, end = {}, 0
    for name in sorted(source.changed):
        offsets[name] = end
        end += -(-torch.Size(shapes[name]).numel() // _ALIGNMENT) * _ALIGNMENT
    return offsets, end


def _fold(source: Source, offsets: Mapping[str, int], length: int, path: Path) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, 4 * length) if length else None
            for name, offset in offsets.items():
                delta = source.delta(name)
                assert delta is not None, f"{source.name} lists {name} as changed"
                file.seek(4 * offset)
                file.write(delta.contiguous().view(-1).numpy().data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _mapped(path: Path, offsets: Mapping[str, int], shapes: Shapes) -> dict[str, Tensor]:
    flat = torch.from_numpy(np.memmap(path, dtype=np.float32, mode="c"))
    sizes = {name: torch.Size(shapes[name]) for name in offsets}
    return {name: flat[at : at + sizes[name].numel()].view(sizes[name]) for name, at in offsets.items()}
