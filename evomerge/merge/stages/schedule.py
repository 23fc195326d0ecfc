"""The stage that scales the merged task vector by depth."""

from __future__ import annotations

from collections.abc import Mapping

from evomerge.merge.method import Parameter
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.aggregate import sum_of
from evomerge.merge.primitives.measure import total
from evomerge.merge.primitives.shares import steady
from evomerge.merge.stage import Stage, State, States
from evomerge.merge.stages.weigh import number_of

ALPHA = Parameter("depth_alpha", 0.5, low=0.0, high=1.0, text="scale of the first layer (α), where auto_alpha is false")
BETA = Parameter(
    "depth_beta", 0.5, low=0.0, high=1.5, text="what the last layer's scale has more (β), where auto_beta is false"
)
AUTO_ALPHA = Parameter(
    "auto_alpha",
    True,
    text="α = ‖Σ δ‖₁ / (N · ‖merged‖₁) over the whole model (the paper's rule for several tasks)",
)
AUTO_BETA = Parameter(
    "auto_beta", True, text="β = 1 − α: the last layer is taken whole (the paper's rule for one task)"
)
OUTSIDE = Parameter(
    "outside",
    "alpha",
    choices=("alpha", "ends"),
    text="scale of what lies outside the layers: α (the paper), or that of the nearest layer: embeddings α, final norm "
    "and head α + β",
)
_SUMMED, _MERGED = "summed", "merged"
_FIRST = ("embedding", "position")


def _norms(states: States) -> Mapping[str, float]:
    """‖Σ δ‖₁ of the task vectors that the pipeline began with, and ‖merged‖₁."""
    found = {_SUMMED: 0.0, _MERGED: 0.0}
    for state in states():
        deltas = [delta for s in state.block.per_source if (delta := state.begun(s)) is not None]
        found[_SUMMED] += total(sum_of(deltas).abs_()) if deltas else 0.0
        found[_MERGED] += total(state.sum.abs())
    return found


def _alpha(state: State) -> float:
    if not state.shared["auto_alpha"]:
        return weights.number(state.shared, "depth_alpha")
    summed, merged = (number_of(state, key, "auto_alpha") for key in (_SUMMED, _MERGED))
    return steady(summed / merged / state.num_sources) if merged > 0 else 1.0


def depth(state: State) -> float:
    """Where the tensor lies, from 0 in the first layer to 1 in the last."""
    block = state.block
    if block.layer is not None:
        return block.layer / max(block.num_layers - 1, 1)
    begins = state.shared["outside"] == "alpha" or block.role.split(".")[0] in _FIRST
    return 0.0 if begins else 1.0


def _scale(state: State) -> State:
    """Δ ← (α + β·l/(L − 1))·Δ for layer l of L."""
    alpha = _alpha(state)
    beta = 1 - alpha if state.shared["auto_beta"] else weights.number(state.shared, "depth_beta")
    return state.with_merged(state.sum * (alpha + beta * depth(state)))


LAYERS = Stage(
    name="layers",
    kind="post",
    text="scale the merged task vector linearly with depth",
    apply=_scale,
    parameters=(ALPHA, BETA, AUTO_ALPHA, AUTO_BETA, OUTSIDE),
    measure=_norms,
    measures=lambda shared: "model" if shared["auto_alpha"] else "nothing",
)

STAGES = (LAYERS,)
