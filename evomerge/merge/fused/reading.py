"""Bits of bfloat16 tensors, and memory for them."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

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
