"""Stages that work on LoRA factors: first in a chain."""

from __future__ import annotations

from dataclasses import replace

from evomerge.merge.primitives.lora import core_space
from evomerge.merge.stage import Stage, State
from evomerge.merge.workspace import Extent, core_bytes, kept_core_bytes


def _core(state: State) -> State:
    """δ ← Uᵀ·δ·V between bases that all adapters share; a tensor without factors stays as it is."""
    factors = {source: found for source, found in state.block.factors.items() if found is not None}
    if not factors:
        return state
    core = core_space(factors)
    block = replace(state.block, deltas=core.cores)  # what rescaling compares with
    return replace(state, block=block).within(core.cores, core.back)


def _inside(extent: Extent) -> Extent:
    """That of the small matrices; of the tensor itself where there are no factors."""
    side = min(extent.rank, extent.short)
    return replace(extent, shape=(side, side)) if side else extent


CORE = Stage(
    name="core",
    kind="basis",
    text="adapters as small square matrices between bases that all share, without loss (LoRA adapters only)",
    apply=_core,
    grain="tensor",
    factored=True,
    cost="svd",
    workspace=lambda x: core_bytes(x) + x.num_sources * _inside(x).one,
    keeps=kept_core_bytes,
    inside=_inside,
)

STAGES = (CORE,)
