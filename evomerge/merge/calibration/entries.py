"""The statistics that a block sees: of kinds per entry those of its entries, of all others the whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge.calibration.kinds import KINDS

Found = Mapping[str, Mapping[str, Tensor]]
"""Source → kind → statistic."""


def of_entries(found: Found, begin: int, end: int, device: torch.device) -> Found:
    """Statistics of entries begin:end of a tensor, flat; float32 on the device where the work is done."""

    def part(kind: str, statistic: Tensor) -> Tensor:
        own = statistic.reshape(-1)[begin:end] if _per_entry(kind) else statistic
        return own.to(device=device, dtype=torch.float32)

    return {s: {kind: part(kind, statistic) for kind, statistic in kinds.items()} for s, kinds in found.items()}


def of_whole(found: Found, shaped: Callable[[Tensor], Tensor]) -> Found:
    """The same for all entries, in the shape that `shaped` gives the tensor itself."""
    return {
        source: {kind: shaped(statistic) if _per_entry(kind) else statistic for kind, statistic in kinds.items()}
        for source, kinds in found.items()
    }


def _per_entry(kind: str) -> bool:
    return kind in KINDS and KINDS[kind].per == "entry"


def needed(found: Found, source: str, *kinds: str) -> Tensor:
    """A statistic of a source: of the first of these kinds that there is.

    Raises:
        InvalidInputError: there is none, which only a file of the user's own can be the reason for.
    """
    for kind in kinds:
        if kind in found.get(source, {}):
            return found[source][kind]
    raise InvalidInputError(f"calibration: {source}", None, f"{' or '.join(kinds)} for every tensor that is merged")
