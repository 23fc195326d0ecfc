"""Safetensors files of one directory, memory-mapped: names, shapes and dtypes first, data when asked for."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from evomerge.errors import CheckpointError

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip
"""Safetensors' names for the dtypes that a checkpoint may hold; the rest (8-bit floats, …) is refused."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One stored tensor, not loaded.

    Attributes:
        file: name of the file that holds it, inside the directory.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    file: str


_ASKED = 128 << 10
"""Bytes that the system is asked for at a time: Linux reads no more than so many for one call."""
_LOOKED_AT = 1 << 20
"""Bytes of which the first and the last tell whether all are in memory: asking for what is costs time."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies, for reading a part of it into memory of one's own.

    That costs what mapping the pages would, and afterwards the part is in the cache and no page is held.

    Attributes:
        handle: of the open file.
        offset: of the tensor's first byte.
        length: of the tensor in bytes.
    """

    handle: int
    offset: int
    length: int

    def read(self, first: int, into: memoryview) -> None:
        """Fill `into` with the tensor's bytes from `first` on.

        Raises:
            CheckpointError: the file has become shorter.
        """
        at = self.offset + first
        while len(into):
            number = os.preadv(self.handle, [into], at)
            if number == 0:
                raise CheckpointError(f"a weights file ends at byte {at}: it was changed while it was read")
            into, at = into[number:], at + number

    def expect(self, first: int, length: int) -> None:
        """Ask the system to begin to read these bytes from the disk, those apart that seem to be in memory."""
        if not hasattr(os, "posix_fadvise"):
            return
        last = self.offset + first + length
        for begin in range(self.offset + first, last, _LOOKED_AT):
            end = min(begin + _LOOKED_AT, last)
            if self._in_memory(begin) and self._in_memory(end - 1):
                continue
            for part in range(begin, end, _ASKED):
                os.posix_fadvise(self.handle, part, min(_ASKED, end - part), os.POSIX_FADV_WILLNEED)

    def _in_memory(self, at: int) -> bool:
        """Whether a byte can be read without waiting for the disk."""
        if not hasattr(os, "RWF_NOWAIT"):
            return False
        try:
            return os.preadv(self.handle, [bytearray(1)], at, os.RWF_NOWAIT) == 1
        except OSError:  # it would have to wait, or this file system cannot tell
            return False

    def forget(self, first: int, length: int) -> None:
        """Tell the system that nobody here reads these bytes again: it may use their pages for something else."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.handle, self.offset + first, length, os.POSIX_FADV_DONTNEED)


class _File:
    """One file, mapped; its header is known to be good.

    Attributes:
        header: tensor → its line: dtype, shape, and where it lies behind the header.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            self.header: dict[str, dict[str, Any]] = json.loads(file.read(length))
            size = os.fstat(file.fileno()).st_size
        self.header.pop("__metadata__", None)
        self._start = 8 + length
        mapped = cast(torch.UntypedStorage, torch.UntypedStorage.from_file(str(path), False, size))
        self._bytes = torch.empty(0, dtype=torch.uint8).set_(mapped)

    def tensor(self, info: TensorInfo) -> Tensor:
        """A view; a copy of what does not lie on a multiple of its entries' size."""
        begin, end = self._range(info.name)
        part = self._bytes[begin:end]
        return (part.clone() if begin % info.dtype.itemsize else part).view(info.dtype).view(info.shape)

    def places(self, path: Path) -> dict[str, Place]:
        """Where the tensors lie in the file, which is opened for that."""
        handle = os.open(path, os.O_RDONLY)
        ranges = {name: self._range(name) for name in self.header}
        return {name: Place(handle, begin, end - begin) for name, (begin, end) in ranges.items()}

    def _range(self, name: str) -> tuple[int, int]:
        begin, end = self.header[name]["data_offsets"]
        return self._start + begin, self._start + end


class Weights:
    """The tensors of one directory, in the order of its files. Reading needs no lock."""

    def __init__(self, directory: Path, tensors: Mapping[str, TensorInfo], files: Mapping[str, _File]) -> None:
        self.directory = directory
        self.tensors = tensors
        self._files = dict(files)
        self._places: dict[str, Place] = {}
        self._lock = threading.Lock()

    def read(self, name: str) -> Tensor:
        """The tensor as stored, a view of the mapped file: it must not be written to.

        Raises:
            KeyError: no such tensor.
            CheckpointError: the weights were closed.
        """
        info = self.tensors[name]
        file = self._files.get(info.file)
        if file is None:
            raise CheckpointError(f"{self.directory}: read of {name!r} after the checkpoint was closed")
        return file.tensor(info)

    def place(self, name: str) -> Place:
        """Where a tensor's bytes lie; valid until the weights are closed."""
        with self._lock:
            if not self._places:
                for at, file in sorted(self._files.items()):
                    self._places |= file.places(self.directory / at)
        return self._places[name]

    def close(self) -> None:
        """Let the files go; tensors that were read stay valid."""
        self._files.clear()
        for handle in {place.handle for place in self._places.values()}:
            os.close(handle)
        self._places.clear()


def open_weights(directory: Path, stem: str) -> Weights:
    """Open `<stem>.safetensors`, or the shards that `<stem>.safetensors.index.json` lists.

    Raises:
        CheckpointError: no such files, or one is corrupt, truncated, missing, or disagrees with the index; the message
            names the file.
    """
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: {_what(directory)}; expected a model directory")
    single, index = directory / f"{stem}.safetensors", directory / f"{stem}.safetensors.index.json"
    if single.is_file():
        file, tensors = _open_file(single)
        return Weights(directory, tensors, {single.name: file})
    if index.is_file():
        return _open_shards(directory, index)
    raise CheckpointError(_nothing(directory, stem))


def _open_shards(directory: Path, index: Path) -> Weights:
    listed = _weight_map(index)
    tensors: dict[str, TensorInfo] = {}
    files: dict[str, _File] = {}
    for file in sorted(set(listed.values())):
        if not (directory / file).is_file():
            raise CheckpointError(f"{directory / file}: shard is missing; {index.name} lists it")
        files[file], found = _open_file(directory / file)
        expected = {name for name, at in listed.items() if at == file}
        if absent := sorted(expected - set(found)):
            raise CheckpointError(f"{directory / file}: lacks {some(absent)}, which {index.name} places there")
        if extra := sorted(set(found) - expected):
            raise CheckpointError(f"{directory / file}: holds {some(extra)}, which {index.name} does not place there")
        tensors |= found
    return Weights(directory, tensors, files)


def _weight_map(index: Path) -> dict[str, str]:
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise CheckpointError(
            f"{index}: expected a `weight_map` from tensor names to files, got {type(listed).__name__}"
        )
    for name, file in listed.items():
        if not isinstance(file, str) or not file.endswith(".safetensors") or Path(file).name != file:
            raise CheckpointError(f"{index}: tensor {name!r} lies in {file!r}; expected a .safetensors file beside it")
    return listed


def _open_file(path: Path) -> tuple[_File, dict[str, TensorInfo]]:
    try:
        handle: Any
        with safe_open(path, framework="pt") as handle:  # looks whether the header is sound and the file is whole
            names = handle.offset_keys()
        file = _File(path)
        return file, {name: _info(name, file.header[name], path) for name in names}
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({path.stat().st_size} bytes): {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error


def _info(name: str, line: Mapping[str, Any], path: Path) -> TensorInfo:
    if line["dtype"] not in DTYPES:
        raise CheckpointError(
            f"{path}: tensor {name!r} is stored as {line['dtype']}; expected one of {', '.join(DTYPES)}"
        )
    return TensorInfo(name, tuple(line["shape"]), DTYPES[line["dtype"]], path.name)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a model directory.

    Raises:
        CheckpointError: the file is missing, unreadable, no JSON or no object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(data).__name__}")
    return data


def some(names: list[str], most: int = 3) -> str:
    """The first few names and how many more there are.

    >>> some(["a", "b", "c", "d"], most=2)
    "'a', 'b' and 2 more"
    """
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _what(path: Path) -> str:
    return "not a directory" if path.exists() else "no such directory"


def _nothing(directory: Path, stem: str) -> str:
    files = sorted(p.name for p in directory.iterdir() if p.is_file())
    wanted = f"{stem}.safetensors or {stem}.safetensors.index.json"
    if pickles := [f for f in files if f.endswith((".bin", ".pt", ".pth", ".ckpt"))]:
        return (
            f"{directory}: holds weights only as pickle files ({some(pickles)}), which evomerge never loads; "
            f"save the model as safetensors: expected {wanted}"
        )
    return f"{directory}: expected {wanted}; found {some(files) or 'no files'}"
