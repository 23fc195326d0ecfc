"""Stages that drop entries of task vectors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial

from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge import standard as p
from evomerge.merge.method import Parameter
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.aggregate import sum_of
from evomerge.merge.primitives.measure import Rows, first_kept, inner, kth_largest, kth_magnitudes, last_kept
from evomerge.merge.primitives.sparsify import above, band, trim
from evomerge.merge.stage import Stage, State, States, by_scope


def _of_sources(state: State, name: str) -> dict[str, float]:
    return {source: weights.number(values, name) for source, values in state.block.per_source.items()}


def _rows(states: States, names: tuple[str, ...]) -> Rows:
    """The task vectors; refuses parameters of these names that change within what is measured as one vector."""
    asked = {name: _of_sources(next(iter(states())), name) for name in names}

    def rows() -> Iterator[tuple[int, Mapping[str, Tensor | None]]]:
        for state in states():
            for name, values in asked.items():
                if (found := _of_sources(state, name)) != values:
                    expected = f"one {name} a source with scope: global (elsewhere {values})"
                    raise InvalidInputError(name, found, expected)
            yield state.size, {s: state.deltas.get(s) for s in state.block.per_source}

    return rows


def _thresholds(states: States) -> Mapping[str, float]:
    return kth_magnitudes(_rows(states, ("density",)), _of_sources(next(iter(states())), "density"))


def _edges(states: States) -> Mapping[str, float]:
    """Smallest and largest magnitude that each source keeps."""
    first = next(iter(states()))
    bands = {s: (d, _of_sources(first, "gamma")[s]) for s, d in _of_sources(first, "density").items() if d < 1}
    rows = _rows(states, ("density", "gamma"))
    low = kth_largest(rows, {s: partial(last_kept, *band) for s, band in bands.items()})
    high = kth_largest(rows, {s: partial(first_kept, *band) for s, band in bands.items() if band[1] > 0})
    return {f"low {s}": value for s, value in low.items()} | {f"high {s}": value for s, value in high.items()}


def _band(state: State) -> State:
    return state.each(
        lambda source, delta: band(
            delta, state.measured.get(f"low {source}", 0.0), state.measured.get(f"high {source}", math.inf)
        )
    )


def _variance(state: State) -> Tensor:
    """Var over all sources of every entry; those that leave the tensor alone count as zeros."""
    deltas = list(state.deltas.values())
    if not deltas:
        return state.zeros
    mean = sum_of(deltas).div_(state.num_sources)
    squares = sum_of([(delta - mean).square_() for delta in deltas])
    if absent := state.num_sources - len(deltas):
        squares.add_(mean.square().mul_(absent))
    return squares.div_(state.num_sources)


def _selection(states: States) -> Mapping[str, float]:
    """The smallest variance that belongs to the share `select_topk` of those that are not 0."""
    share = weights.number(next(iter(states())).shared, "select_topk")
    if share >= 1:
        return {"variance": -1.0}
    positive = sum(int(_variance(state).count_nonzero()) for state in states())

    def rows() -> Iterator[tuple[int, Mapping[str, Tensor | None]]]:
        for state in states():
            if (found := weights.number(state.shared, "select_topk")) != share:
                raise InvalidInputError("select_topk", found, f"one share with scope: global (elsewhere {share})")
            yield state.size, {"variance": _variance(state)}

    return kth_largest(rows, {"variance": lambda size: int(positive * share)})


def _select(state: State) -> State:
    least = state.measured["variance"]
    if least < 0:
        return state
    selected = _variance(state).ge(least).to(state.block.base.dtype)
    return state.each(lambda source, delta: delta * selected)


def _sizes(states: States) -> Mapping[str, float]:
    """Root of the mean square of every task vector."""
    squares: dict[str, float] = {}
    size = 0
    for state in states():
        size += state.size
        for source, delta in state.deltas.items():
            squares[source] = squares.get(source, 0.0) + inner(delta, delta)
    return {source: math.sqrt(value / max(size, 1)) for source, value in squares.items()}


def _changed(state: State) -> State:
    epsilon = weights.number(state.shared, "epsilon")
    return state.each(lambda source, delta: above(delta, epsilon * state.measured.get(source, 1.0)))


TRIM = Stage(
    name="trim",
    kind="sparsify",
    text="keep the largest entries by magnitude, ties included",
    apply=lambda state: state.each(lambda source, delta: trim(delta, state.measured[source])),
    parameters=(p.density(0.2, low=0.05), p.SCOPE),
    measure=_thresholds,
    measures=by_scope,
    cost="sort",
)
BAND = Stage(
    name="band",
    kind="sparsify",
    text="drop the very largest entries by magnitude, keep the next largest, ties included",
    apply=_band,
    parameters=(
        p.density(0.2, low=0.05),
        Parameter(
            "gamma",
            0.006,
            low=0.001,
            high=0.05,
            per_source=True,
            legal=(0.0, 1.0),
            text="share of entries at the top that is dropped, as far as the density allows",
        ),
        p.SCOPE,
    ),
    measure=_edges,
    measures=by_scope,
    cost="sort",
)
SELECT = Stage(
    name="select",
    kind="sparsify",
    text="keep the entries in which the sources differ most: those of the largest variance",
    apply=_select,
    parameters=(
        Parameter(
            "select_topk",
            0.1,
            low=0.05,
            high=1.0,
            legal=(0.0, 1.0),
            text="share kept of the entries in which the sources differ",
        ),
    ),
    measure=_selection,
    measures=by_scope,
    cost="sort",
)
CHANGED = Stage(
    name="changed",
    kind="sparsify",
    text="zero the entries that hardly changed",
    apply=_changed,
    parameters=(
        Parameter(
            "epsilon",
            1e-5,
            low=1e-6,
            high=1e-4,
            scale="log",
            legal=(0.0, float("inf")),
            text="magnitude above which an entry counts as changed",
        ),
        Parameter(
            "epsilon_unit",
            "absolute",
            choices=("absolute", "rms"),
            text="epsilon as it is, or in units of the root mean square of the source's task vector",
        ),
    ),
    measure=_sizes,
    measures=by_scope,
    needed=lambda shared: shared["epsilon_unit"] == "rms",
)

STAGES = (TRIM, BAND, SELECT, CHANGED)
