"""Where arithmetic is done, by the name that people give it."""

from __future__ import annotations

import torch

from evomerge.errors import InvalidInputError


def device_named(name: str) -> torch.device:
    """`cpu`, `cuda` or `cuda:N`.

    Raises:
        InvalidInputError: another kind of device, or one that this machine does not have.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidInputError("device", name, "cpu or cuda") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InvalidInputError("device", name, f"cpu: this machine has {torch.cuda.device_count()} CUDA devices")
    if device.type not in ("cpu", "cuda"):
        raise InvalidInputError("device", name, "cpu or cuda")
    return device
