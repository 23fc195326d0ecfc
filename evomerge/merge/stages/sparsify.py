"""Stages that drop entries of task vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge import standard as p
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.measure import kth_magnitudes
from evomerge.merge.primitives.sparsify import trim
from evomerge.merge.stage import Stage, State, States


def _densities(state: State) -> dict[str, float]:
    return {source: weights.number(values, "density") for source, values in state.block.per_source.items()}


def _thresholds(states: States) -> Mapping[str, float]:
    densities = _densities(next(iter(states())))

    def rows() -> Iterator[tuple[int, Mapping[str, Tensor | None]]]:
        for state in states():
            if _densities(state) != densities:
                expected = f"one density a source with scope: global (elsewhere {densities})"
                raise InvalidInputError("density", _densities(state), expected)
            yield state.block.base.numel(), {s: state.deltas.get(s) for s in state.block.per_source}

    return kth_magnitudes(rows, densities)


TRIM = Stage(
    name="trim",
    kind="sparsify",
    text="keep the largest entries by magnitude, ties included",
    apply=lambda state: state.each(lambda source, delta: trim(delta, state.measured[source])),
    parameters=(p.density(0.2, low=0.05), p.SCOPE),
    measure=_thresholds,
    measures=lambda shared: "model" if shared["scope"] == "global" else "tensor",
    cost="sort",
)

STAGES = (TRIM,)
