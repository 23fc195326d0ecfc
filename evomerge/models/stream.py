"""Tensors in, safetensors shards out: one tensor in memory at a time, and all of the directory or nothing of it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import uuid
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import torch
from torch import Tensor

from evomerge.errors import CheckpointError
from evomerge.models.weights import DTYPES

HEADER_BYTES = 128 * 1024
"""Room kept for a shard's header, its length field included; the rest is blanks, which the format allows.

So tensors go straight to the file before their number is known; data begins on a page. A shard whose header is full
(about a thousand tensors) is closed early.
"""
_LENGTH_BYTES = 8
_ALIGNMENT = 8
_STORED = {dtype: name for name, dtype in DTYPES.items()}


class Shard:
    """One safetensors file that grows.

    Tensors whose bytes would misalign what follows (odd lengths; small ones in practice) wait for the end of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_bytes = 0
        self._entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
        self._header_bytes = len(_json(self._entries))
        self._waiting: list[tuple[str, Tensor]] = []
        self._file: BinaryIO = path.open("wb")
        self._file.seek(HEADER_BYTES)
        self._offset = 0

    def has_room(self, name: str, tensor: Tensor) -> bool:
        """Whether one more header entry fits, at its longest."""
        return self._header_bytes + _entry_bytes(name, tensor) <= HEADER_BYTES - _LENGTH_BYTES

    def add(self, name: str, tensor: Tensor) -> None:
        """Write a tensor, or keep a copy of an odd one until the end."""
        self._header_bytes += _entry_bytes(name, tensor)
        self.num_bytes += tensor.nbytes
        if tensor.nbytes % _ALIGNMENT:
            self._waiting.append((name, tensor.clone()))
        else:
            self._write(name, tensor)

    def finish(self) -> None:
        """Write what waited, widest dtype first, and the header; force all to the disk."""
        for name, tensor in sorted(self._waiting, key=lambda item: -item[1].element_size()):
            self._write(name, tensor)
        self._waiting.clear()
        header = _json(self._entries).ljust(HEADER_BYTES - _LENGTH_BYTES)
        self._file.seek(0)
        self._file.write(len(header).to_bytes(_LENGTH_BYTES, "little") + header)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        """Let the file go as it is."""
        with contextlib.suppress(OSError):  # closing flushes, which a full disk refuses again
            self._file.close()

    def _write(self, name: str, tensor: Tensor) -> None:
        data = tensor.contiguous().reshape(-1).view(torch.uint8)
        self._file.write(data.numpy().data)
        offsets = [self._offset, self._offset + tensor.nbytes]
        self._entries[name] = {"dtype": _STORED[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        self._offset = offsets[1]


class ShardWriter:
    """Writes a model directory: safetensors shards as they fill, then the index.

    Everything goes to a temporary directory beside `out`, which takes its name when the `with` block ends well; other
    files (config, tokenizer) may be put into `directory` before that. On any error nothing is left. The bytes depend
    on the tensors, their order and `shard_bytes` alone.

    Args:
        out: the directory to make; an empty one may be there.
        shard_bytes: most bytes of tensors in one file, unless one tensor alone is larger.
    """

    def __init__(self, out: Path, shard_bytes: int) -> None:
        if shard_bytes < 1:
            raise ValueError(f"shard_bytes is {shard_bytes}; expected at least 1")
        self.out, self.shard_bytes = out, shard_bytes
        self._shards: list[Shard] = []
        self._open: Shard | None = None
        self._places: dict[str, int] = {}
        self._directory: Path | None = None

    @property
    def directory(self) -> Path:
        """The temporary directory; only inside the `with` block."""
        if self._directory is None:
            raise ValueError("ShardWriter.directory: expected use inside its `with` block")
        return self._directory

    def __enter__(self) -> ShardWriter:
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise CheckpointError(f"{self.out}: exists already; expected a new or an empty directory")
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            # Not tempfile: its directories are private, and this one becomes the result.
            directory = self.out.parent / f".{self.out.name}.{uuid.uuid4().hex}.partial"
            directory.mkdir()
        except OSError as error:
            raise _cannot_write(self.out, error) from error
        self._directory = directory
        return self

    def add(self, name: str, tensor: Tensor) -> None:
        """Append a tensor, rounded to its final dtype already.

        Raises:
            ValueError: the name was added before, or safetensors has no name for the dtype.
            CheckpointError: the disk is full or refuses.
        """
        if name in self._places:
            raise ValueError(f"tensor {name!r} was added twice")
        if tensor.dtype not in _STORED:
            raise ValueError(f"tensor {name!r} is {tensor.dtype}; expected one of {', '.join(map(str, _STORED))}")
        tensor = tensor.detach().cpu()
        try:
            self._shard_for(name, tensor).add(name, tensor)
        except OSError as error:
            raise _cannot_write(self.out, error) from error
        self._places[name] = len(self._shards) - 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self._finish()
        except OSError as refused:
            raise _cannot_write(self.out, refused) from refused
        finally:
            if self._open is not None:
                self._open.abandon()
            shutil.rmtree(self.directory, ignore_errors=True)  # gone already when all went well
            self._directory = None

    def _shard_for(self, name: str, tensor: Tensor) -> Shard:
        shard = self._open
        if shard is not None:
            full = shard.num_bytes > 0 and shard.num_bytes + tensor.nbytes > self.shard_bytes
            if not full and shard.has_room(name, tensor):
                return shard
            shard.finish()
        self._open = Shard(self.directory / f"shard-{len(self._shards)}")
        self._shards.append(self._open)
        return self._open

    def _finish(self) -> None:
        if self._open is None:
            raise CheckpointError(f"{self.out}: no tensor was written")
        self._open.finish()
        files = _file_names(len(self._shards))
        for shard, file in zip(self._shards, files, strict=True):
            shard.path.rename(self.directory / file)
        if len(files) > 1:
            self._write_index(files)
        for path in self.directory.iterdir():
            _sync(path)
        _sync(self.directory)
        self.directory.rename(self.out)
        _sync(self.out.parent)

    def _write_index(self, files: list[str]) -> None:
        index = {
            "metadata": {"total_size": sum(shard.num_bytes for shard in self._shards)},
            "weight_map": {name: files[shard] for name, shard in sorted(self._places.items())},
        }
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (self.directory / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def _file_names(number: int) -> list[str]:
    if number == 1:
        return ["model.safetensors"]
    return [f"model-{shard:05d}-of-{number:05d}.safetensors" for shard in range(1, number + 1)]


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _entry_bytes(name: str, tensor: Tensor) -> int:
    entry = {"dtype": _STORED[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [10**15, 10**15]}
    return len(_json({name: entry}))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _cannot_write(out: Path, error: OSError) -> CheckpointError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CheckpointError(f"{out}: the disk is full; nothing was left there")
    return CheckpointError(f"{out}: cannot be written: {error.strerror or error}")
