"""Stages that work on the merged task vector."""

from __future__ import annotations

from evomerge.merge import standard as p
from evomerge.merge.primitives import weights
from evomerge.merge.stage import Stage, State


def _scale(state: State) -> State:
    factor = weights.number(state.shared, "lambda")
    return state if factor == 1 else state.with_merged(state.sum * factor)


SCALE = Stage("scale", "post", "multiply the merged task vector by λ", _scale, (p.LAMBDA,))

STAGES = (SCALE,)
