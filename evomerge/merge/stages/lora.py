"""Stages that work on LoRA factors: first in a chain."""

from __future__ import annotations

from dataclasses import replace

from evomerge.merge.primitives.lora import core_space
from evomerge.merge.stage import Stage, State


def _core(state: State) -> State:
    """δ ← Uᵀ·δ·V between bases that all adapters share; a tensor without factors stays as it is."""
    factors = {source: found for source, found in state.block.factors.items() if found is not None}
    if not factors:
        return state
    core = core_space(factors)
    block = replace(state.block, deltas=core.cores)  # what rescaling compares with
    return replace(state, block=block).within(core.cores, core.back)


CORE = Stage(
    name="core",
    kind="basis",
    text="adapters as small square matrices between bases that all share, without loss (LoRA adapters only)",
    apply=_core,
    grain="tensor",
    factored=True,
    cost="svd",
)

STAGES = (CORE,)
