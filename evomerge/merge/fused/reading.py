"""Bits of bfloat16 tensors, and memory for them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evomerge.models.finite import check_finite

if TYPE_CHECKING:
    from evomerge.merge.blocks import Fresh, TensorWork

Raw = npt.NDArray[np.uint16]
_LOCAL = threading.local()


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


def address(row: Raw) -> int:
    """Where an array's first entry lies."""
    found: int = row.__array_interface__["data"][0]
    return found


def stored(tensor: Tensor, fresh: Fresh | None, begin: int, end: int, name: str) -> Raw:
    """Entries where they lie; fresh ones in memory of this thread that the next call of this name uses again. Nobody
    has looked at those for NaN."""
    if fresh is None:
        return bits_of(tensor.view(-1)[begin:end])
    row: Raw = memory(f"row of {name}", end - begin, np.uint16)
    fresh.place.read(2 * begin, row.data.cast("B"))
    return row


def look(work: TensorWork, begin: int, end: int) -> None:
    """Look at fresh entries of all operands.

    Raises:
        NonFiniteError: they hold NaN or infinity.
    """
    for tensor, fresh in ((work.base, work.fresh), *((o.tensor, o.fresh) for o in work.operands.values())):
        if fresh is not None and fresh.whose is not None and not is_finite_bits(stored(tensor, fresh, begin, end, "")):
            check_finite(tensor, fresh.name, fresh.whose)
