"""Stages that change the size of task vectors, not their weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from evomerge.merge import standard as p
from evomerge.merge.method import Parameter
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.rescale import NORMS, inverse, matching
from evomerge.merge.stage import Stage, State, States, by_scope


def _measure(states: States) -> Mapping[str, float]:
    """Norms of the task vectors that the pipeline began with over those of what is left."""
    return matching(str(next(iter(states())).shared["rescale"]), _pairs(states))


def _pairs(states: States) -> Iterator[tuple[str, Tensor, Tensor]]:
    for state in states():
        for source, kept in state.deltas.items():
            whole = state.block.deltas[source]
            assert whole is not None, "only sources with a task vector are in the state"
            yield source, whole, kept


def _rescale(state: State) -> State:
    if state.shared["rescale"] == "none":
        return state
    by_density = state.shared["rescale"] == "inverse"
    return state.each(
        lambda source, kept: (
            kept * (inverse(weights.number(state.of(source), "density")) if by_density else state.measured[source])
        )
    )


def _clip(state: State) -> State:
    bound = weights.number(state.shared, "t")
    return state.each(lambda source, delta: delta.clamp(-bound, bound))


RESCALE = Stage(
    name="rescale",
    kind="rescale",
    text="make up for the entries that trim or band dropped",
    apply=_rescale,
    parameters=(p.density(0.2, low=0.05), p.RESCALE),
    measure=_measure,
    measures=by_scope,
    needed=lambda shared: shared["rescale"] in NORMS,
)
CLIP = Stage(
    name="clip",
    kind="rescale",
    text="bring every entry into [−t, t]",
    apply=_clip,
    parameters=(
        Parameter(
            "t", 1e-4, low=1e-5, high=0.1, scale="log", legal=(0.0, float("inf")), text="no entry moves further than t"
        ),
    ),
)

STAGES = (RESCALE, CLIP)
