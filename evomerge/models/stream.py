"""Tensors in, safetensors shards out: in pieces, in any order, from several threads."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from evomerge.models.layout import Shard, index_of
from evomerge.models.partial import Partial, cannot_write

_WRITEBACK_BYTES = 16 << 20
"""Written bytes after which the kernel is asked to bring them to the disk, so that the fsync at the end is short."""


class ShardWriter:
    """Writes the shards of a model directory, and the index.

    A thread beside has the kernel begin to bring to the disk what is written, while more is; it forces a shard to the
    disk whose last byte has come, and enters it in the journal. The bytes depend on the layout and the tensors alone.

    Args:
        at: the directory in the making.
        shards: what is written; those that `at` lists as finished are left as they are.
    """

    def __init__(self, at: Partial, shards: Sequence[Shard]) -> None:
        self._at, self._shards = at, tuple(shards)
        open_shards = [shard for shard in shards if shard.file not in at.finished]
        self._files = {shard.file: _File(at.model / shard.file, shard) for shard in open_shards}
        self._places = {entry.name: shard.file for shard in open_shards for entry in shard.entries}
        self._pool = ThreadPoolExecutor(1, "finish-shard")
        self._finishing: list[Future[None]] = []
        self._lock = threading.Lock()
        self._left = len(open_shards)

    def write(self, name: str, piece: Tensor, first: int = 0) -> None:
        """Write entries of a tensor, of its final dtype, flat from entry `first` on; every entry once.

        Raises:
            CheckpointError: the disk is full or refuses.
        """
        file = self._files[self._places[name]]
        try:
            flush, done = file.write(name, piece, first)
            if done:
                self._finish(file)
            elif flush:
                self._pool.submit(file.start_writeback)  # which may have to wait for the disk
        except OSError as error:
            raise cannot_write(self._at.out, error) from error

    def __enter__(self) -> ShardWriter:
        try:
            for file in self._files.values():
                file.open()
                if file.left == 0:  # tensors without entries
                    self._finish(file)
        except OSError as error:
            self._close()
            raise cannot_write(self._at.out, error) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            for finishing in self._finishing:
                finishing.result()
            if kind is None:
                left = [file.shard.file for file in self._files.values() if file.left]
                assert not left, f"{left} were not written whole"
                if (index := index_of(self._shards)) is not None:
                    (self._at.model / "model.safetensors.index.json").write_text(index, encoding="utf-8")
        except OSError as refused:
            if kind is None:
                raise cannot_write(self._at.out, refused) from refused
        finally:
            self._close()

    def _finish(self, file: _File) -> None:
        with self._lock:
            self._left -= 1
            last = self._left == 0  # nothing follows that a kill could cut off: no need to read it again for its hash
            self._finishing.append(self._pool.submit(self._finished, file, last))

    def _finished(self, file: _File, last: bool) -> None:
        file.close(synced=True)
        if not last:
            self._at.record(file.shard.file)

    def _close(self) -> None:
        self._pool.shutdown()
        for file in self._files.values():
            file.close(synced=False)


class _File:
    """One shard while it is written."""

    def __init__(self, path: Path, shard: Shard) -> None:
        self.shard, self.left = shard, shard.num_bytes
        self._path, self._handle = path, -1
        self._dirty = 0
        self._lock = threading.Lock()

    def open(self) -> None:
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        os.ftruncate(self._handle, self.shard.file_bytes)
        _write(self._handle, memoryview(self.shard.header), 0)

    def write(self, name: str, piece: Tensor, first: int) -> tuple[bool, bool]:
        """Whether much has been written that the kernel was not asked to bring to the disk, and whether this was the
        last piece."""
        data = _bytes_of(piece)
        _write(self._handle, data, self.shard.places[name] + first * piece.element_size())
        with self._lock:
            self.left -= len(data)
            self._dirty += len(data)
            flush, done = self._dirty >= _WRITEBACK_BYTES, self.left == 0
            if flush:
                self._dirty = 0
        return flush, done and len(data) > 0

    def start_writeback(self) -> None:
        """Ask the kernel to bring to the disk what is dirty."""
        _start_writeback(self._handle)

    def close(self, *, synced: bool) -> None:
        with self._lock:
            if self._handle < 0:
                return
            try:
                if synced:
                    os.fsync(self._handle)
            finally:
                os.close(self._handle)
                self._handle = -1


def _bytes_of(piece: Tensor) -> memoryview:
    if piece.device.type != "cpu" or not piece.is_contiguous():
        piece = piece.cpu().contiguous()
    if piece.dim() != 1 or piece.requires_grad:
        piece = piece.detach().view(-1)
    data: memoryview = piece.view(torch.uint8).numpy().data
    return data


def _write(handle: int, data: memoryview, at: int) -> None:
    while len(data):
        written = os.pwrite(handle, data, at)
        data, at = data[written:], at + written


_SYNC_FILE_RANGE_WRITE = 2


def _start_writeback(handle: int) -> None:
    """Ask Linux to begin to write what is dirty; elsewhere the fsync at the end does it all."""
    call = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if call is not None:
        call(ctypes.c_int(handle), ctypes.c_int64(0), ctypes.c_int64(0), ctypes.c_uint(_SYNC_FILE_RANGE_WRITE))
