"""The stage that edits task vectors before it adds them up, so that their sum is less far from each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge import standard as p
from evomerge.merge.method import Parameter
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.aggregate import weighted_sum
from evomerge.merge.primitives.gaps import closing_edit
from evomerge.merge.primitives.measure import inner, kth_magnitudes
from evomerge.merge.primitives.protect import protected_directions, protected_edit
from evomerge.merge.primitives.sparsify import trim
from evomerge.merge.stage import Stage, State, States
from evomerge.merge.stages.norms import ETA, inverse_norms
from evomerge.merge.workspace import svd_bytes, tensors

OTHERS = Parameter(
    "others",
    "base",
    choices=("base", "mean"),
    text="vocabularies, norms and biases: left as in the base (the paper), or averaged",
)
PROTECTED = Parameter(
    "protected_share",
    0.0,
    low=0.0,
    high=0.5,
    legal=(0.0, 1.0),
    text="share of min(out, in) output directions, those that most sources use, in which the edit changes nothing",
)
_ENTRIES = 1 << 16
"""Entries of each source that are held in float64 at a time."""


def _densities(state: State) -> dict[str, float]:
    return {source: weights.number(values, "density") for source, values in state.block.per_source.items()}


def _thresholds(states: States) -> Mapping[str, float]:
    """Per source the magnitude from which an entry is among the largest of all matrices inside the model."""
    densities = _densities(next(iter(states())))

    def rows() -> Iterator[tuple[int, Mapping[str, Tensor | None]]]:
        for state in states():
            if _densities(state) != densities:
                raise InvalidInputError("density", _densities(state), f"one density a source (elsewhere {densities})")
            if state.block.kind == "matrix":
                yield state.block.base.numel(), {s: state.deltas.get(s) for s in densities}

    return kth_magnitudes(rows, densities)


def _gap_sum(state: State) -> State:
    """Σ λj · mj ⊙ (τj + δ) with λj = η/‖τj‖, mj the largest entries of τj, and δ the edit that closes the gaps."""
    if state.block.kind != "matrix":
        share = 1 / state.num_sources if state.shared["others"] == "mean" else 0.0
        return state.with_merged(weighted_sum(state.deltas, dict.fromkeys(state.deltas, share), like=state.zeros))
    norms = {source: math.sqrt(inner(delta, delta)) for source, delta in state.deltas.items()}
    found = inverse_norms(norms, weights.number(state.shared, "eta"))
    coefficients = {source: value for source, value in found.items() if value > 0}
    merged = state.zeros
    edit = _protected(state, coefficients)
    length = max(1, _ENTRIES // max(merged.shape[1], 1))
    for begin in range(0, len(merged) if coefficients else 0, length):
        _add(state, coefficients, merged[begin : begin + length], begin, edit)
    return state.with_merged(merged)


def _protected(state: State, coefficients: Mapping[str, float]) -> Tensor | None:
    """The edit off the protected directions; None where there are none, and rows can be edited apart."""
    share = weights.number(state.shared, "protected_share")
    if not share or not coefficients:
        return None
    deltas = [state.deltas[source] for source in coefficients]
    lambdas = torch.tensor(list(coefficients.values()), dtype=torch.float64, device=deltas[0].device)
    return protected_edit(deltas, lambdas, protected_directions(deltas, share))


def _add(state: State, coefficients: Mapping[str, float], into: Tensor, begin: int, whole: Tensor | None) -> None:
    """Rows from `begin` on."""
    parts = {source: state.deltas[source][begin : begin + len(into)] for source in coefficients}
    lambdas = torch.tensor(list(coefficients.values()), dtype=torch.float64, device=into.device)
    if whole is None:
        edit = closing_edit(torch.stack([part.double() for part in parts.values()]), lambdas).float()
    else:
        edit = whole[begin : begin + len(into)]
    for source, part in parts.items():
        kept = torch.ne(trim(part, state.measured[source]), 0)
        into += torch.where(kept, part + edit, 0.0).mul_(coefficients[source])


GAP_SUM = Stage(
    name="gap_sum",
    kind="aggregate",
    text="edit all task vectors so that the gap between each and the sum closes, keep each one's largest entries, "
    "scale to one length, add up",
    apply=_gap_sum,
    parameters=(p.density(0.3, low=0.1), ETA, PROTECTED, OTHERS),
    grain="tensor",
    measure=_thresholds,
    measures=lambda shared: "model",
    cost="solve",
    only_matrices=True,
    workspace=lambda x: (svd_bytes(*x.shape) if x.shared["protected_share"] else 0) + tensors(6)(x),
)

STAGES = (GAP_SUM,)
