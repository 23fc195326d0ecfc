"""Stages that pick: of every entry the largest, of heads one source's."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from evomerge.errors import InvalidInputError
from evomerge.merge.method import Parameter, Values
from evomerge.merge.stage import Stage, State
from evomerge.recipe.schema import role_matches

HEAD = Parameter(
    "head",
    False,
    per_source=True,
    text="whether the model's head is this source's, whole and unweighed; without one it stays the base's",
)


def _largest(state: State) -> State:
    """The δ of largest magnitude, entry by entry; of equal ones that of the first source."""
    merged = state.zeros
    for delta in state.deltas.values():
        merged = torch.where(delta.abs() > merged.abs(), delta, merged)
    return state.with_merged(merged)


def _heads(state: State) -> State:
    """Of heads the δ that the pipeline began with, of the one source whose head is taken."""
    if not role_matches(state.block.role, ("head",)):
        return state
    return state.with_deltas(
        {s: delta for s, delta in state.block.deltas.items() if delta is not None and state.of(s)["head"]}
    )


def _check_heads(shared: Values, per_source: Mapping[str, Values]) -> None:
    chosen = [source for source, values in per_source.items() if values["head"]]
    if len(chosen) > 1:
        raise InvalidInputError("head", chosen, "at most one source whose head is taken")


MAX_ABS = Stage("max_abs", "aggregate", "take of every entry the largest in magnitude", _largest)
HEADS = Stage("heads", "weight", "take the head of one source, or none", _heads, (HEAD,), check=_check_heads)

STAGES = (MAX_ABS, HEADS)
