"""Stages that weigh task vectors by their norms, and give the merged one a norm."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from evomerge.merge.method import Parameter, Scope, Values
from evomerge.merge.primitives import shares, weights
from evomerge.merge.primitives.measure import inner, total
from evomerge.merge.stage import Stage, State, States
from evomerge.merge.stages.weigh import BETWEEN, number_of, weighed

POWER = Parameter("power", 2.0, low=0.0, high=4.0, text="power of the norm")
NORM_SCOPE = Parameter(
    "norm_scope", "model", choices=("model", "tensor"), text="take norms over the whole model, or over each tensor"
)
ETA = Parameter(
    "eta",
    0.07,
    low=0.02,
    high=0.2,
    scale="log",
    text="length to which each source's task vector is scaled in every tensor",
)
MATCH = Parameter(
    "match", "l2", choices=("l2", "l1"), text="the norm that the merged task vector shall share with its sources' mean"
)
MERGED = ""
"""Stands for the merged task vector among the sources."""


def _key(state: State, source: str, scope: str) -> str:
    return f"{'' if scope == 'model' else state.block.name}{BETWEEN}{source}"


def _squares(states: States, *, by_tensor: bool = False) -> Mapping[str, float]:
    """Per tensor (or over the model) and source the sum of squares."""
    found: dict[str, float] = {}
    for state in states():
        scope = "tensor" if by_tensor else str(state.shared["norm_scope"])
        for source in state.block.per_source:
            key = _key(state, source, scope)
            found[key] = found.get(key, 0.0) + _part(state.deltas.get(source), "l2")
    return found


def _part(tensor: Tensor | None, norm: str) -> float:
    """What a block adds to Σx² or Σ|x|."""
    return 0.0 if tensor is None else inner(tensor, tensor) if norm == "l2" else total(tensor.abs())


def _scope(shared: Values) -> Scope:
    return "model" if shared["norm_scope"] == "model" else "tensor"


def _by_norm(state: State) -> State:
    """δ ← ‖δ‖^p / Σ‖δ‖^p · δ."""
    scope = str(state.shared["norm_scope"])
    norms = {s: math.sqrt(number_of(state, _key(state, s, scope), "norm_scope")) for s in state.block.per_source}
    return weighed(state, shares.powers(norms, weights.number(state.shared, "power")))


def inverse_norms(norms: Mapping[str, float], eta: float) -> dict[str, float]:
    """η / ‖δ‖; 0 for a task vector of zeros.

    Source: Wei et al. 2025, Modeling Multi-Task Model Merging as Adaptive Projective Gradient Descent,
    arXiv:2501.01230, the task-aware coefficients.
    """
    return {source: shares.steady(eta / norm) if norm > 0 else 0.0 for source, norm in norms.items()}


def _by_inverse_norm(state: State) -> State:
    """δ ← η/‖δ‖ · δ, by the norm in this tensor."""
    norms = {s: math.sqrt(state.measured[_key(state, s, "tensor")]) for s in state.block.per_source}
    return weighed(state, inverse_norms(norms, weights.number(state.shared, "eta")))


def _to_match(states: States) -> Mapping[str, float]:
    """Per tensor (or over the model) the merged task vector's norm, and each source's as the pipeline began."""
    found: dict[str, float] = {}
    for state in states():
        scope, norm = str(state.shared["norm_scope"]), str(state.shared["match"])
        parts = {MERGED: state.sum, **{s: state.begun(s) for s in state.block.per_source}}
        for source, part in parts.items():
            key = _key(state, source, scope)
            found[key] = found.get(key, 0.0) + _part(part, norm)
    return found


def _match(state: State) -> State:
    """Δ ← Δ · mean ‖δ‖ / ‖Δ‖; Δ = 0 stays."""
    scope, root = str(state.shared["norm_scope"]), math.sqrt if state.shared["match"] == "l2" else float
    norms = {s: root(number_of(state, _key(state, s, scope), "norm_scope")) for s in (MERGED, *state.block.per_source)}
    own = norms.pop(MERGED)
    return state.with_merged(state.sum * shares.steady(math.fsum(norms.values()) / len(norms) / own)) if own else state


NORM = Stage(
    name="norm",
    kind="weight",
    text="weigh task vectors by a power of their norm, over the sum of these",
    apply=_by_norm,
    parameters=(POWER, NORM_SCOPE),
    measure=_squares,
    measures=_scope,
)
INVERSE_NORM = Stage(
    name="inverse_norm",
    kind="weight",
    text="scale each source's task vector to the same length in every tensor",
    apply=_by_inverse_norm,
    parameters=(ETA,),
    measure=lambda states: _squares(states, by_tensor=True),
    measures=lambda shared: "tensor",
)
MATCH_NORM = Stage(
    name="match_norm",
    kind="post",
    text="scale the merged task vector to the mean norm of the sources' task vectors",
    apply=_match,
    parameters=(MATCH, NORM_SCOPE),
    measure=_to_match,
    measures=_scope,
)

STAGES = (NORM, INVERSE_NORM, MATCH_NORM)
