"""The stage that adds matrices up column by column, weighed by how much columns moved in length and in direction."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge.method import Parameter
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.columns import changes, ranks, significant_shares
from evomerge.merge.stage import Stage, State
from evomerge.recipe.schema import role_matches

THRESHOLD = Parameter(
    "threshold", 1.0, low=0.5, high=2.0, text="significance above this multiple of its mean is decisive (t)"
)
VALUE = Parameter("value", 1.0, low=0.5, high=1.5, text="weight of what is decisive (s)")
_TABLES = ("embedding", "position")
"""Roles of tables whose rows are units: the paper's code transposes the embedding, but not the head."""


def _by_columns(state: State) -> State:
    """Σ ½(w_length + w_direction) · δ column by column; Σ w · δ entry by entry where there are no columns."""
    if not state.deltas:
        return state.with_merged(state.zeros)
    if state.block.kind == "vector":
        return _by_entries(state)
    if state.back is not None:
        allowed = "before any stage that changes the basis: it compares columns with the base's"
        raise InvalidInputError("merge.pipeline", "column_sum", allowed)
    by_rows = role_matches(state.block.role, _TABLES)
    moved = {s: _moved(state, s, by_rows=by_rows) for s in state.block.per_source}
    halves = [_shares(state, [_relative_ranks(moved[s][which]) for s in moved]) for which in (0, 1)]
    w = dict(zip(moved, ((halves[0] + halves[1]) / 2).float(), strict=True))
    return _weighed_sum(state, {s: share[:, None] if by_rows else share for s, share in w.items()})


def _relative_ranks(changes_of: Tensor) -> Tensor:
    """Ranks over the number of columns, in [0, 1)."""
    return ranks(changes_of) / len(changes_of)


def _weighed_sum(state: State, share: Mapping[str, Tensor]) -> State:
    merged, scratch = state.zeros, state.zeros
    for source, delta in state.deltas.items():
        merged += torch.mul(delta, share[source], out=scratch)
    return state.with_merged(merged)


def _moved(state: State, source: str, *, by_rows: bool) -> tuple[Tensor, Tensor]:
    base = state.block.base.t() if by_rows else state.block.base
    if source not in state.deltas:
        still = torch.zeros(base.shape[1], dtype=torch.float64, device=base.device)
        return still, still
    delta = state.deltas[source]
    return changes(base, delta.t() if by_rows else delta)


def _by_entries(state: State) -> State:
    sizes = [state.deltas.get(s, state.zeros).double().abs().reshape(-1) for s in state.block.per_source]
    w = dict(zip(state.block.per_source, _shares(state, sizes).float(), strict=True))
    return _weighed_sum(state, {s: share.view(state.block.base.shape) for s, share in w.items()})


def _shares(state: State, significance: list[Tensor]) -> Tensor:
    t, s = (weights.number(state.shared, name) for name in ("threshold", "value"))
    return significant_shares(torch.stack(significance), t, s)


COLUMN_SUM = Stage(
    name="column_sum",
    kind="aggregate",
    text="add up column by column, weighed by the ranks of their changes of length and direction",
    apply=_by_columns,
    parameters=(THRESHOLD, VALUE),
    grain="tensor",
    cost="sort",
)

STAGES = (COLUMN_SUM,)
