"""Which items a step sees: every source's own, shuffled anew each time that all have been seen."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from evomerge.merge.calibration.items import Sample


def batch(samples: Sequence[Sample], step: int, size: int, seed: int) -> list[Sample]:
    """The items of a step (from 0), `size` of them and never more than there are; of these numbers alone."""
    size = min(size, len(samples))
    positions = range(step * size, (step + 1) * size)
    orders = {epoch: _order(len(samples), epoch, seed) for epoch in {p // len(samples) for p in positions}}
    return [samples[orders[p // len(samples)][p % len(samples)]] for p in positions]


def _order(number: int, epoch: int, seed: int) -> list[int]:
    return sorted(range(number), key=lambda i: hashlib.sha256(f"{seed}:{epoch}:{i}".encode()).digest())
