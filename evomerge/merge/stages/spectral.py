"""Stages that work on the singular values and vectors of task vectors, and of the merged one.

They see matrices of the network alone: embeddings, heads, norms and biases pass through untouched, and what becomes of
those is said where task vectors are added up (`others`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge.method import Parameter, Values
from evomerge.merge.primitives import spectral, weights
from evomerge.merge.primitives.aggregate import sum_of
from evomerge.merge.primitives.measure import inner, kth_magnitudes
from evomerge.merge.primitives.sparsify import mask_key
from evomerge.merge.stage import Stage, State
from evomerge.merge.workspace import FLOAT32, Extent, Workspace, eigen_bytes, remapped_bytes, svd_bytes, tensors

SHARE = Parameter(
    "spectrum_share",
    0.4,
    low=0.05,
    high=1.0,
    per_source=True,
    legal=(0.0, 1.0),
    text="how much of each task vector's spectrum is kept, largest singular values first",
)
SHARE_OF = Parameter(
    "share_of",
    "nuclear",
    choices=("nuclear", "energy", "rank"),
    text="what the share is a share of: the sum of the singular values, of their squares, or their number",
)
KEEP_NUCLEAR = Parameter(
    "keep_nuclear", True, text="scale the kept singular values so that their sum stays what it was"
)
SVD = Parameter(
    "svd",
    "exact",
    choices=("exact", "randomized"),
    text="how singular vectors are found; randomized is approximate, and faster where few are wanted",
)
ANCHOR = Parameter(
    "anchor", "mean", choices=("mean", "sum"), text="task vectors are taken from their mean, or a share of their sum"
)
ANCHOR_SHARE = Parameter(
    "anchor_scale", 0.29, low=0.1, high=1.0, text="with anchor: sum, how much of the sum is the anchor"
)
DIRECTION = Parameter(
    "direction",
    "auto",
    choices=("horizontal", "vertical", "auto"),
    text="stack matrices side by side, one above the other, or in the way that gives the lower rank",
)
TOLERANCE = Parameter(
    "tolerance",
    0.01,
    low=1e-6,
    high=0.1,
    scale="log",
    legal=(1e-7, 1.0),
    text="common directions with a singular value under this share of the largest are dropped",
)
UNIT_DENSITY = Parameter(
    "unit_density",
    0.2,
    low=0.05,
    high=0.5,
    legal=(0.0, 1.0),
    text="share of entries that survive, over all sources, when every row has length 1",
)
OUTLIERS = Parameter(
    "outliers",
    3.0,
    low=2.0,
    high=10.0,
    legal=(1e-3, math.inf),
    text="entries beyond so many root mean squares of their task vector are brought back to there",
)
STRENGTH = Parameter(
    "strength", 1.0, low=0.0, high=1.0, legal=(0.0, 1.0), text="how flat the spectrum becomes: 0 not at all, 1 entirely"
)
RANK_GUARD = Parameter(
    "rank_guard",
    True,
    text="leave directions alone in which the sum is numerically zero; without it they get as much as the others",
)
POLAR = Parameter(
    "polar",
    "svd",
    choices=("svd", "newton_schulz"),
    text="singular value decomposition, or matrix products alone (strength 1 only; for GPUs)",
)
BOOST = Parameter(
    "boost",
    0.01,
    low=0.0,
    high=0.5,
    legal=(0.0, 1.0),
    text="singular values are lifted to the one at which this share of their sum is reached",
)
KEEP_NORM = Parameter("keep_norm", False, text="scale the result back to the Frobenius norm that it had before")

AUTO_RANK = 0.1
"""Share of the largest singular value above which the authors' choice of a direction counts it."""


def is_matrix(state: State) -> bool:
    """Whether the tensor is a linear map inside the network: no vocabulary, no vector."""
    return state.block.kind == "matrix"


def _truncate(state: State) -> State:
    """δ ← U f(σ) Vᵀ with f keeping the largest."""
    if not is_matrix(state):
        return state
    rule, whole = str(state.shared["share_of"]), bool(state.shared["keep_nuclear"])

    def change(source: str, delta: Tensor) -> Tensor:
        share = weights.number(state.of(source), "spectrum_share")
        if rule == "rank" and state.shared["svd"] == "randomized":
            count = rank_of_share(share, delta.shape)
            return spectral.randomized_svd(delta, count, mask_key(0, "test matrix", state.block.name)).matrix

        def keep(values: Tensor) -> Tensor:
            if rule == "rank":
                kept = spectral.keep_first(values, rank_of_share(share, delta.shape))
            else:
                kept = spectral.keep_first(values, spectral.count_for(values, share, 1 if rule == "nuclear" else 2))
            return spectral.same_nuclear_norm(kept, as_in=values) if whole else kept

        return spectral.remapped(delta, keep)

    return state.each(change)


def rank_of_share(share: float, shape: torch.Size) -> int:
    """⌊share · min(o, i)⌋ components, but at least one."""
    return max(1, int(share * min(shape) + 1e-9))


def _check_truncate(shared: Values, per_source: Mapping[str, Values]) -> None:
    rule = shared["share_of"]
    if shared["svd"] == "randomized" and (rule != "rank" or shared["keep_nuclear"]):
        allowed = (
            "exact: a share of the singular values' sum needs all of them (or share_of: rank, keep_nuclear: false)"
        )
        raise InvalidInputError("svd", "randomized", allowed)


def _winsorise(state: State) -> State:
    """|δ| ← min(|δ|, c · RMS(δ))."""
    if not is_matrix(state):
        return state
    factor = weights.number(state.shared, "outliers")

    def change(source: str, delta: Tensor) -> Tensor:
        bound = factor * math.sqrt(inner(delta, delta) / max(delta.numel(), 1))
        return delta.clamp(-bound, bound)

    return state.each(change)


def _centre(state: State) -> State:
    """δ ← δ − a with a the anchor, for all sources; a is added again behind the sum."""
    if not state.deltas:
        return state
    share = 1 / state.num_sources
    if state.shared["anchor"] == "sum":
        share = weights.number(state.shared, "anchor_scale")
    anchor = sum_of(list(state.deltas.values())).mul_(share)
    moved = {s: state.deltas[s] - anchor if s in state.deltas else -anchor for s in state.block.per_source}
    return state.within(moved, lambda merged: merged + anchor)


def _joint_svd(state: State) -> State:
    """δᵢ ← Uᵀ δᵢ = Σ Vᵢᵀ with U Σ [V₁ᵀ | V₂ᵀ | …] the decomposition of all; on transposes for vertical."""
    if not is_matrix(state) or not state.deltas:
        return state
    tolerance, direction = weights.number(state.shared, "tolerance"), state.shared["direction"]
    if direction == "auto":
        direction = _lower_rank(state)
    turned = direction == "vertical"
    directions, values = spectral.common_directions(d.t() if turned else d for d in state.deltas.values())
    basis = directions[:, : int((values > tolerance * values[:1]).sum())]
    if not basis.shape[1]:  # zeros, which have as many entries as where a source lacks the tensor
        return state
    if not turned:
        inside = {source: basis.t() @ delta for source, delta in state.deltas.items()}
        return state.within(inside, lambda merged: basis @ merged)
    inside = {source: basis.t() @ delta.t() for source, delta in state.deltas.items()}
    return state.within(inside, lambda merged: (basis @ merged).t())


def _lower_rank(state: State) -> str:
    """How to stack the task vectors so that they have the lower rank."""
    deltas = list(state.deltas.values())
    ranks = [
        int((values > AUTO_RANK * values[:1]).sum())
        for values in (spectral.common_values(deltas), spectral.common_values([d.t() for d in deltas]))
    ]
    return "horizontal" if ranks[0] < ranks[1] else "vertical"


def _trim_units(state: State) -> State:
    """Zero the entries that are small when every row of every task vector has length 1."""
    if not is_matrix(state) or not any(bool(delta.any()) for delta in state.deltas.values()):
        return state

    def units() -> Iterator[tuple[int, Mapping[str, Tensor | None]]]:
        for delta in state.deltas.values():
            if bool(delta.any()):  # zeros are not there to be dropped: they would spare entries of the others
                yield delta.numel(), {"": _unit_rows(delta).reshape(-1)}

    threshold = kth_magnitudes(units, {"": weights.number(state.shared, "unit_density")})[""]
    return state.each(lambda source, delta: delta * (_unit_rows(delta).abs() >= threshold))


def _unit_rows(delta: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(delta, dim=1, keepdim=True, dtype=torch.float64).float()
    return delta / lengths.where(lengths > 0, torch.ones_like(lengths))


def _damp(state: State) -> State:
    """δᵢ ← δᵢ − U (1 − f) Uᵀ δᵢ, f = 1 / (1 + (N − 1) σ² / Σσ²) over the directions of all sources together.

    Source: Tang and Yang 2026, Crowded in B-Space: Calibrating Shared Directions for LoRA Merging (Pico),
    arXiv:2604.16826. They shrink LoRA's B and then rescale the merge to the mean norm (stage `match_norm`); this is the
    same on whole task vectors, whose output directions do not depend on how a product is split into factors.
    """
    if not is_matrix(state) or not state.deltas:
        return state
    directions, values = spectral.common_directions(state.deltas.values())
    energy = values.square()
    total = float(energy.sum())
    if total == 0:
        return state
    shrink = 1 / (1 + (state.num_sources - 1) * energy / total)
    taken = directions * (1 - shrink).float()
    return state.each(lambda source, delta: delta - taken @ (directions.t() @ delta))


def _flatten(state: State) -> State:
    """Δ ← U g(σ) Vᵀ with g as flat as asked, and of the same sum."""
    if not is_matrix(state):
        return state
    strength = weights.number(state.shared, "strength")
    if state.shared["polar"] == "newton_schulz":
        factor = spectral.newton_schulz(state.sum)
        rank = inner(factor, factor)
        return state.with_merged(factor * (inner(factor, state.sum) / rank if rank else 0.0))
    parts = significant(state.sum, bool(state.shared["rank_guard"]))
    return state.with_merged(parts.with_values(spectral.flatten(parts.values, strength)).matrix)


def significant(matrix: Tensor, guard: bool) -> spectral.Svd:
    """The components within the numerical rank; without the guard all, in whatever directions the null space has."""
    parts = spectral.svd(matrix, complete=not guard)
    return parts.first(spectral.numerical_rank(parts.values, matrix.shape)) if guard else parts


def _check_flatten(shared: Values, per_source: Mapping[str, Values]) -> None:
    if shared["polar"] == "newton_schulz" and (shared["strength"] != 1 or not shared["rank_guard"]):
        raise InvalidInputError("polar", "newton_schulz", "svd, or strength: 1 and rank_guard: true")


def _lift(state: State) -> State:
    """Δ ← U max(σ, σ_k) Vᵀ."""
    if not is_matrix(state):
        return state
    parts = significant(state.sum, bool(state.shared["rank_guard"]))
    lifted = spectral.lift(parts.values, weights.number(state.shared, "boost"))
    if state.shared["keep_norm"] and len(lifted) and float(lifted[0]):
        lifted = lifted * (parts.values.norm() / lifted.norm())
    return state.with_merged(parts.with_values(lifted).matrix)


def on_matrices(workspace: Workspace) -> Workspace:
    """What is held where the tensor is decomposed; nothing where it is not looked at."""
    return lambda extent: workspace(extent) if extent.matrix else 0


def _joint_bytes(x: Extent) -> int:
    side = {"horizontal": x.shape[0], "vertical": x.shape[-1]}.get(str(x.shared["direction"]), x.long)
    return max(eigen_bytes(side), FLOAT32 * side * side + (x.num_sources + 1) * x.one)


def _respread_bytes(x: Extent) -> int:
    return svd_bytes(*x.shape) + x.one


TRUNCATE = Stage(
    name="truncate_spectrum",
    kind="sparsify",
    text="keep the largest singular values of each task vector",
    apply=_truncate,
    parameters=(SHARE, SHARE_OF, KEEP_NUCLEAR, SVD),
    grain="tensor",
    cost="svd",
    check=_check_truncate,
    only_matrices=True,
    workspace=on_matrices(lambda x: x.num_sources * x.one + remapped_bytes(x)),
)
WINSORISE = Stage(
    name="winsorise",
    kind="sparsify",
    text="bring outlying entries of each task vector back to a multiple of its root mean square",
    apply=_winsorise,
    parameters=(OUTLIERS,),
    grain="tensor",
    only_matrices=True,
    workspace=on_matrices(tensors(0, a_source=1)),
)
CENTRE = Stage(
    name="centre",
    kind="basis",
    text="take task vectors from their mean, or from a share of their sum, instead of from the base",
    apply=_centre,
    parameters=(ANCHOR, ANCHOR_SHARE),
    workspace=tensors(2, a_source=1),
    keeps=tensors(1),
)
JOINT_SVD = Stage(
    name="joint_svd",
    kind="basis",
    text="write task vectors in the singular directions of all of them together, and lead their sum back",
    apply=_joint_svd,
    parameters=(DIRECTION, TOLERANCE),
    grain="tensor",
    cost="svd",
    only_matrices=True,
    workspace=on_matrices(_joint_bytes),
    keeps=on_matrices(lambda x: FLOAT32 * x.long * x.short),
)
TRIM_UNITS = Stage(
    name="trim_units",
    kind="sparsify",
    text="keep the largest entries relative to their row, over all sources together",
    apply=_trim_units,
    parameters=(UNIT_DENSITY,),
    grain="tensor",
    cost="sort",
    only_matrices=True,
    workspace=on_matrices(tensors(4, a_source=1)),
)
DAMP = Stage(
    name="damp_shared",
    kind="rescale",
    text="shrink the output directions that the sources share",
    apply=_damp,
    grain="tensor",
    cost="svd",
    only_matrices=True,
    workspace=on_matrices(lambda x: max(eigen_bytes(x.shape[0]), x.one * (x.num_sources + 2)) + x.one),
)
FLATTEN = Stage(
    name="flatten_spectrum",
    kind="post",
    text="give the merged task vector equal singular values",
    apply=_flatten,
    parameters=(STRENGTH, RANK_GUARD, POLAR),
    grain="tensor",
    cost="svd",
    check=_check_flatten,
    only_matrices=True,
    workspace=on_matrices(_respread_bytes),
)
LIFT = Stage(
    name="lift_spectrum",
    kind="post",
    text="lift the small singular values of the merged task vector",
    apply=_lift,
    parameters=(BOOST, KEEP_NORM, RANK_GUARD),
    grain="tensor",
    cost="svd",
    only_matrices=True,
    workspace=on_matrices(_respread_bytes),
)

STAGES = (TRUNCATE, WINSORISE, CENTRE, JOINT_SVD, TRIM_UNITS, DAMP, FLATTEN, LIFT)
