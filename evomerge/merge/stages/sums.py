"""Stages that weigh task vectors, elect signs and add up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from evomerge.errors import InvalidInputError
from evomerge.merge import standard as p
from evomerge.merge.method import Values
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.aggregate import weighted_sum
from evomerge.merge.stage import Stage, State


def _weigh(state: State) -> State:
    """δ ← w·δ; the weights are remembered for means that divide by them."""
    w = weights.of_sources(state.block.per_source)
    return replace(state.each(lambda source, delta: delta if w[source] == 1 else delta * w[source]), weights=w)


def _sum(state: State) -> State:
    """Σ δ, or Σ δ / Σ w with `normalize`, over all sources."""
    total = sum(state.weights.values()) if state.shared["normalize"] else 1.0
    if abs(total) < torch.finfo(torch.float32).tiny:
        if any(state.weights.values()):
            raise InvalidInputError("normalize", True, f"false where weights add up to nothing: {dict(state.weights)}")
        return state.with_merged(state.zeros)  # weights of zeros are those of task vectors of zeros
    return state.with_merged(weighted_sum(state.deltas, dict.fromkeys(state.deltas, 1 / total), like=state.zeros))


def _mean(state: State) -> State:
    """Σ δ / N: sources that leave the tensor alone count as zeros."""
    share = dict.fromkeys(state.deltas, 1 / state.num_sources)
    return state.with_merged(weighted_sum(state.deltas, share, like=state.zeros))


def _check_sum(shared: Values, per_source: Mapping[str, Values]) -> None:
    if shared["normalize"] and all("weight" in values for values in per_source.values()):
        weights.check_sum(weights.of_sources(per_source))


WEIGH = Stage("weigh", "weight", "multiply each task vector by its source's weight", _weigh, (p.weight(),))
SUM = Stage("sum", "aggregate", "add up", _sum, (p.normalize(False),), check=_check_sum)
MEAN = Stage("mean", "aggregate", "add up and divide by the number of sources", _mean)

STAGES = (WEIGH, SUM, MEAN)
