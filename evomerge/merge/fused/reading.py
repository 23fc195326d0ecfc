"""Bits of bfloat16 tensors, and memory for them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evomerge.models.finite import check_finite

if TYPE_CHECKING:
    from evomerge.merge.blocks import Fresh, TensorWork
    from evomerge.models.weights import Place

Raw = npt.NDArray[np.uint16]
Addresses = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]
_LOCAL = threading.local()
_PAGE = 4096


def memory(name: str, size: int, dtype: Any) -> Any:
    """Memory of this thread that is used again at the next call."""
    kept = getattr(_LOCAL, name, None)
    if kept is None or len(kept) < size:
        kept = np.empty(size, dtype)
        setattr(_LOCAL, name, kept)
    return kept[:size]


def is_finite_bits(bits: Raw) -> bool:
    """Whether neither NaN nor infinity is among bfloat16 entries."""
    from evomerge.merge.fused import kernels

    return bool(kernels.is_finite(bits))


def bits_of(tensor: Tensor) -> Raw:
    """A bfloat16 tensor's bits, in its own memory."""
    return tensor.view(torch.int16).numpy().view(np.uint16)


def address(row: npt.NDArray[Any]) -> int:
    """Where an array's first entry lies."""
    found: int = row.__array_interface__["data"][0]
    return found


def stored(tensor: Tensor, fresh: Fresh | None, begin: int, end: int, name: str) -> Raw:
    """Entries where they lie; fresh ones in memory of this thread that the next call of this name uses again. Nobody
    has looked at those for NaN."""
    if fresh is None or fresh.place is None:
        return bits_of(tensor.view(-1)[begin:end])
    row: Raw = memory(f"row of {name}", end - begin, np.uint16)
    fresh.place.read(2 * begin, row.data.cast("B"))
    return row


class Rows:
    """Tensors of one size, block by block, by their addresses. Those in files come into memory of this thread that its
    next block uses again; nobody has looked at them for NaN.

    Args:
        tensors: each with where it lies, if that is a file.

    Attributes:
        in_memory: whether none is read from a file.
    """

    def __init__(self, tensors: Sequence[tuple[Tensor, Fresh | None]]) -> None:
        from evomerge.merge.fused import files

        self._files, self._tensors = files, tensors
        places = [None if fresh is None else fresh.place for _, fresh in tensors]
        handles = [-1 if place is None else place.handle for place in places]
        starts = [
            t.data_ptr() if place is None else place.offset for (t, _), place in zip(tensors, places, strict=True)
        ]
        self._handles, self._starts = np.array(handles, np.int32), np.array(starts, np.int64)
        self.in_memory = all(place is None for place in places)

    def at(self, begin: int, end: int) -> Addresses:
        """Where the entries of every tensor lie: [K]; until this thread asks for the next.

        Raises:
            CheckpointError: a file has become shorter.
        """
        if self.in_memory:
            return (self._starts + 2 * begin).view(np.uint64)
        found = np.empty(len(self._tensors), np.uint64)
        line = self._files.LINE
        stride = -(-2 * (end - begin) // line) * line
        room, room_at = _room(stride * len(self._tensors))
        if self._files.rows(self._handles, self._starts, begin, end - begin, room_at, found) != self._files.WHOLE:
            self._one_by_one(begin, end, room, stride, found, room_at)
        return found

    def _one_by_one(self, begin: int, end: int, room: Bytes, stride: int, at: Addresses, room_at: int) -> None:
        """The same again, where something came between; what is wrong with a file is said."""
        for k, (tensor, fresh) in enumerate(self._tensors):
            if fresh is None or fresh.place is None:
                at[k] = tensor.data_ptr() + 2 * begin
            else:
                fresh.place.read(2 * begin, room[k * stride : k * stride + 2 * (end - begin)].data)
                at[k] = room_at + k * stride


def chunks(place: Place, at: npt.NDArray[np.int64], length: int) -> Raw:
    """Chunks of a tensor's entries that begin at given ones, one after the other."""
    from evomerge.merge.fused import files

    taken = np.empty((len(at), length), np.uint16)
    if not files.chunks(np.int32(place.handle), place.offset, at, length, address(taken)):
        for row, begin in zip(taken, at.tolist(), strict=True):
            place.read(2 * begin, row.data.cast("B"))
    return taken.reshape(-1)


def _room(num_bytes: int) -> tuple[Bytes, int]:
    """Memory of this thread, and its address, on a line of the cache."""
    kept: tuple[Bytes, int] | None = getattr(_LOCAL, "room", None)
    if kept is None or len(kept[0]) < num_bytes:
        whole = np.empty(num_bytes + _PAGE, np.uint8)
        skipped = -address(whole) % _PAGE
        kept = _LOCAL.room = whole[skipped : skipped + num_bytes], address(whole) + skipped
    return kept


def look(work: TensorWork, begin: int, end: int) -> None:
    """Look at fresh entries of all operands.

    Raises:
        NonFiniteError: they hold NaN or infinity.
    """
    for tensor, fresh in ((work.base, work.fresh), *((o.tensor, o.fresh) for o in work.operands.values())):
        if fresh is not None and fresh.whose is not None and not is_finite_bits(stored(tensor, fresh, begin, end, "")):
            check_finite(tensor, fresh.name, fresh.whose)
