"""NaN and infinity, found where they enter."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evomerge.errors import NonFiniteError

_BITS: dict[torch.dtype, tuple[type[np.signedinteger], type[np.unsignedinteger], int, int]] = {
    torch.bfloat16: (np.int16, np.uint16, 0x7F80, 0xFF80),
    torch.float16: (np.int16, np.uint16, 0x7C00, 0xFC00),
    torch.float32: (np.int32, np.uint32, 0x7F800000, 0xFF800000),
}
"""dtype → integers of its size, and the bits of +inf and -inf: beyond them, in the order of the signed integers and of
the unsigned ones, lie the NaNs and nothing else."""


def is_finite(tensor: Tensor) -> bool:
    """Whether a contiguous tensor holds neither NaN nor infinity; the bits are looked at, which costs a CPU a fraction
    of looking at the numbers."""
    if tensor.numel() == 0 or not tensor.is_floating_point():
        return True
    if tensor.device.type != "cpu" or tensor.dtype not in _BITS:
        return bool(torch.isfinite(tensor).all())
    return are_finite(tensor.detach().view(-1).view(torch.uint8).numpy(), tensor.dtype)


def are_finite(entries: npt.NDArray[np.uint8], dtype: torch.dtype) -> bool:
    """Whether the bytes of some entries of a dtype hold neither NaN nor infinity."""
    if len(entries) == 0:
        return True
    if dtype not in _BITS:
        return is_finite(torch.from_numpy(entries).view(dtype))
    signed, unsigned, highest, lowest = _BITS[dtype]
    bits = entries.view(signed)
    return bool(bits.max() < highest and bits.view(unsigned).max() < lowest)


def check_finite(tensor: Tensor, name: str, where: str) -> None:
    """Check that a floating tensor holds neither NaN nor infinity.

    Raises:
        NonFiniteError: it does; the message says how many and the first index.

    >>> check_finite(torch.tensor([1.0, float("nan")]), "head.weight", "source 'math'")
    Traceback (most recent call last):
    ...
    evomerge.errors.NonFiniteError: source 'math': tensor 'head.weight' holds NaN or infinity in 1 of 2 entries, \
first at [1]
    """
    if is_finite(tensor.contiguous()):
        return
    bad = (~torch.isfinite(tensor)).nonzero()
    raise NonFiniteError(
        f"{where}: tensor {name!r} holds NaN or infinity in {len(bad)} of {tensor.numel()} entries, "
        f"first at {bad[0].tolist()}"
    )
