"""The stage that keeps of the merged task vector what several sources need."""

from __future__ import annotations

import math

import torch

from evomerge.merge.method import Parameter
from evomerge.merge.primitives import weights
from evomerge.merge.stage import Stage, State

MASK_LAMBDA = Parameter(
    "mask_lambda",
    0.4,
    low=0.2,
    high=0.6,
    per_source=True,
    legal=(0.0, math.inf),
    text="how much of the distance to the merged model a source's own must exceed for it to need an entry (λ_t)",
)
MIN_COUNT = Parameter(
    "min_count",
    2.0,
    low=1.0,
    high=4.0,
    legal=(0.0, math.inf),
    whole=True,
    text="sources that must need an entry for it to stay (k)",
)


def _consensus(state: State) -> State:
    """Keep entries for which |δk| > λ_t·|Δ − δk| holds for at least k sources; δk as the pipeline began with them.

    Both sides are differences from θ0 and from the merged model; a source that leaves the tensor alone needs nothing.
    """
    count = torch.zeros_like(state.sum)
    for source in state.block.per_source:
        if (delta := state.begun(source)) is not None:
            apart = torch.sub(state.sum, delta).abs_().mul_(weights.number(state.of(source), "mask_lambda"))
            count += torch.gt(delta.abs(), apart, out=apart)
    least = math.ceil(weights.number(state.shared, "min_count"))
    return state.with_merged(torch.where(count >= least, state.sum, 0.0))


CONSENSUS = Stage(
    name="consensus",
    kind="post",
    text="zero what fewer than k sources need",
    apply=_consensus,
    parameters=(MASK_LAMBDA, MIN_COUNT),
)

STAGES = (CONSENSUS,)
