"""Stages that leave of every entry its sign alone: three values, or two."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from evomerge.merge import standard as p
from evomerge.merge.method import Parameter
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.measure import inner, total
from evomerge.merge.primitives.shares import steady
from evomerge.merge.primitives.sparsify import trim
from evomerge.merge.stage import Stage, State, States, by_scope
from evomerge.merge.stages.sparsify import TRIM
from evomerge.recipe.schema import role_matches

ALPHA = Parameter(
    "alpha",
    1.0,
    low=0.5,
    high=10.0,
    scale="log",
    text="the survivors' magnitude in units of the task vector's standard deviation (α), or of their mean",
)
MAGNITUDE = Parameter(
    "magnitude",
    "std",
    choices=("std", "mean"),
    text="the survivors' magnitude: α times the standard deviation before trimming (ComPEFT), or α times their mean "
    "magnitude (STC)",
)
BINARISE = Parameter(
    "binarise",
    "all",
    choices=("all", "attention", "mlp", "none"),
    per_source=True,
    text="which matrices of the source are binarised: those inside the layers, of attention or of the MLP alone, none",
)


def _scale(source: str) -> str:
    return f"scale\x1f{source}"


def _ternary_measure(states: States) -> Mapping[str, float]:
    """Thresholds as for trim, and the magnitude of what survives."""
    assert TRIM.measure is not None
    thresholds = TRIM.measure(states)
    first = next(iter(states()))
    parts_of, scale_of = (_moments, _std) if first.shared["magnitude"] == "std" else (_magnitudes, _mean)
    sums = dict.fromkeys(first.block.per_source, (0.0, 0.0))
    size = 0
    for state in states():
        size += state.size
        for source, delta in state.deltas.items():
            a, b = parts_of(delta, thresholds[source])
            sums[source] = (sums[source][0] + a, sums[source][1] + b)
    return {**thresholds, **{_scale(s): steady(scale_of(a, b, size)) for s, (a, b) in sums.items()}}


def _moments(delta: Tensor, threshold: float) -> tuple[float, float]:
    return total(delta), inner(delta, delta)


def _magnitudes(delta: Tensor, threshold: float) -> tuple[float, float]:
    kept = trim(delta, threshold)
    return total(kept.abs()), total((kept != 0).float())


def _std(total_of: float, squares: float, size: int) -> float:
    """Of a sample, as the paper's code has it: divided by n − 1."""
    return math.sqrt(max(squares - total_of**2 / size, 0.0) / (size - 1)) if size > 1 else 0.0


def _mean(magnitudes: float, count: float, size: int) -> float:
    return magnitudes / count if count else 0.0


def _ternary(state: State) -> State:
    """δ ← sign(δ)·α·σ where |δ| is among the largest, else 0; density 1 leaves δ as it is."""
    alpha = weights.number(state.shared, "alpha")
    return state.each(
        lambda s, delta: (
            delta
            if weights.number(state.of(s), "density") == 1
            else trim(delta, state.measured[s]).sign_().mul_(alpha * state.measured[_scale(s)])
        )
    )


def _mean_magnitudes(states: States) -> Mapping[str, float]:
    sums: dict[str, float] = {}
    size = 0
    for state in states():
        size += state.size
        for source, delta in state.deltas.items():
            sums[source] = sums.get(source, 0.0) + total(delta.abs())
    return {source: steady(value / max(size, 1)) for source, value in sums.items()}


def _binarise(state: State) -> State:
    """δ ← mean|δ|·sign(δ) in matrices inside the layers."""
    return state.each(
        lambda s, delta: delta.sign() * state.measured[s] if _binarised(state, str(state.of(s)["binarise"])) else delta
    )


def _binarised(state: State, which: str) -> bool:
    if state.block.kind != "matrix" or which == "none":
        return False
    return role_matches(state.block.role, ("attention", "mlp") if which == "all" else (which,))


TERNARY = Stage(
    name="ternary",
    kind="rescale",
    text="keep the signs of the largest entries, all with one magnitude",
    apply=_ternary,
    parameters=(p.density(0.2, low=0.05), ALPHA, MAGNITUDE, p.SCOPE),
    measure=_ternary_measure,
    measures=by_scope,
    cost="sort",
)
BINARY = Stage(
    name="binary",
    kind="rescale",
    text="keep the signs of all entries, with the mean magnitude of the tensor",
    apply=_binarise,
    parameters=(BINARISE,),
    measure=_mean_magnitudes,
    measures=lambda shared: "tensor",
)

STAGES = (TERNARY, BINARY)
