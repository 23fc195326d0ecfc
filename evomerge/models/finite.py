"""NaN and infinity, found where they enter."""

from __future__ import annotations

import torch
from torch import Tensor

from evomerge.errors import NonFiniteError


def check_finite(tensor: Tensor, name: str, where: str) -> None:
    """Check that a floating tensor holds neither NaN nor infinity; one pass, no memory.

    Raises:
        NonFiniteError: it does; the message says how many and the first index.

    >>> check_finite(torch.tensor([1.0, float("nan")]), "head.weight", "source 'math'")
    Traceback (most recent call last):
    ...
    evomerge.errors.NonFiniteError: source 'math': tensor 'head.weight' holds NaN or infinity in 1 of 2 entries, \
first at [1]
    """
    if tensor.numel() == 0:
        return
    low, high = torch.aminmax(tensor)  # NaN anywhere makes both NaN
    if bool(torch.isfinite(low)) and bool(torch.isfinite(high)):
        return
    bad = (~torch.isfinite(tensor)).nonzero()
    raise NonFiniteError(
        f"{where}: tensor {name!r} holds NaN or infinity in {len(bad)} of {tensor.numel()} entries, "
        f"first at {bad[0].tolist()}"
    )
