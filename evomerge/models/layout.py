"""Where every tensor of a model will lie in its safetensors files: known before the first is written.

So tensors may be written in pieces, by several threads and in any order, and a file that a killed merge left behind is
known by its header.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from evomerge.models.weights import DTYPES

HEADER_BYTES = 128 * 1024
"""Room for a shard's header, its length field included; the rest is blanks, which the format allows. So data begins on
a page. A shard whose header is full (about a thousand tensors) is closed early."""
_LENGTH_BYTES = 8
_ALIGNMENT = 8
STORED = {dtype: name for name, dtype in DTYPES.items()}
"""torch's dtypes → safetensors' names."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor that a model directory holds.

    Raises:
        ValueError: safetensors has no name for the dtype.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.dtype not in STORED:
            raise ValueError(f"tensor {self.name!r} is {self.dtype}; expected one of {', '.join(map(str, STORED))}")

    @property
    def num_bytes(self) -> int:
        """Bytes of its data."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    @property
    def header_bytes(self) -> int:
        """What its line in the header takes, at its longest."""
        return len(_json({self.name: self.line(10**15, 10**15)}))

    def line(self, begin: int, end: int) -> dict[str, object]:
        """Its line in the header."""
        return {"dtype": STORED[self.dtype], "shape": list(self.shape), "data_offsets": [begin, end]}


@dataclass(frozen=True, slots=True)
class Shard:
    """One file.

    Attributes:
        file: its name.
        entries: its tensors, as they lie there.
        header: its first `HEADER_BYTES` bytes.
        places: tensor → where its data begins in the file.
    """

    file: str
    entries: tuple[Entry, ...]
    header: bytes = field(repr=False)
    places: Mapping[str, int] = field(repr=False)

    @property
    def num_bytes(self) -> int:
        """Bytes of tensors."""
        return sum(entry.num_bytes for entry in self.entries)

    @property
    def file_bytes(self) -> int:
        """Bytes of the file."""
        return HEADER_BYTES + self.num_bytes


def lay_out(entries: Sequence[Entry], shard_bytes: int) -> tuple[Shard, ...]:
    """Tensors to files, in order.

    Tensors whose bytes would misalign what follows (odd lengths; small ones in practice) go to the end of their file.

    Args:
        shard_bytes: most bytes of tensors in one file, unless one tensor alone is larger.

    Raises:
        ValueError: a name occurs twice, or `shard_bytes` is below 1.
    """
    if shard_bytes < 1:
        raise ValueError(f"shard_bytes is {shard_bytes}; expected at least 1")
    seen: set[str] = set()
    for entry in entries:
        if entry.name in seen:
            raise ValueError(f"tensor {entry.name!r} was added twice")
        seen.add(entry.name)
    groups = list(_grouped(entries, shard_bytes))
    files = _file_names(len(groups))
    return tuple(_shard(file, group) for file, group in zip(files, groups, strict=True))


def index_of(shards: Sequence[Shard]) -> str | None:
    """The text of `model.safetensors.index.json`; None where one file needs none."""
    if len(shards) == 1:
        return None
    index = {
        "metadata": {"total_size": sum(shard.num_bytes for shard in shards)},
        "weight_map": dict(sorted((entry.name, shard.file) for shard in shards for entry in shard.entries)),
    }
    return json.dumps(index, indent=2, sort_keys=True) + "\n"


def _grouped(entries: Sequence[Entry], shard_bytes: int) -> Iterator[list[Entry]]:
    group: list[Entry] = []
    empty = len(_json(_metadata()))
    held, header = 0, empty
    for entry in entries:
        full = held > 0 and held + entry.num_bytes > shard_bytes
        if group and (full or header + entry.header_bytes > HEADER_BYTES - _LENGTH_BYTES):
            yield group
            group, held, header = [], 0, empty
        group.append(entry)
        held += entry.num_bytes
        header += entry.header_bytes
    if group:
        yield group


def _shard(file: str, group: list[Entry]) -> Shard:
    odd = [entry for entry in group if entry.num_bytes % _ALIGNMENT]
    whole = [entry for entry in group if not entry.num_bytes % _ALIGNMENT]
    entries = (*whole, *sorted(odd, key=lambda entry: -entry.dtype.itemsize))
    lines: dict[str, object] = _metadata()
    places: dict[str, int] = {}
    at = 0
    for entry in entries:
        lines[entry.name] = entry.line(at, at + entry.num_bytes)
        places[entry.name] = HEADER_BYTES + at
        at += entry.num_bytes
    text = _json(lines).ljust(HEADER_BYTES - _LENGTH_BYTES)
    return Shard(file, entries, len(text).to_bytes(_LENGTH_BYTES, "little") + text, places)


def _metadata() -> dict[str, object]:
    return {"__metadata__": {"format": "pt"}}


def _file_names(number: int) -> list[str]:
    if number == 1:
        return ["model.safetensors"]
    return [f"model-{shard:05d}-of-{number:05d}.safetensors" for shard in range(1, number + 1)]


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
