"""Stages that add task vectors up by their singular values and vectors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from evomerge.merge import standard as p
from evomerge.merge.method import Parameter
from evomerge.merge.primitives import spectral, weights
from evomerge.merge.primitives.aggregate import sum_of, weighted_sum
from evomerge.merge.primitives.sparsify import mask_key
from evomerge.merge.stage import Stage, State
from evomerge.merge.stages.spectral import SVD, is_matrix, rank_of_share
from evomerge.merge.workspace import FLOAT32, FLOAT64, Extent, Workspace, remapped_bytes, svd_bytes

OTHERS = Parameter(
    "others",
    "mean",
    choices=("mean", "sum", "base"),
    text="embeddings, heads, norms and biases: the mean of the task vectors, their sum, or the base's own",
)
RANK_SHARE = Parameter(
    "rank_share",
    0.0,
    low=0.05,
    high=1.0,
    legal=(0.0, 1.0),
    text="share of min(out, in) singular values that each source brings; 0: one over the number of sources",
)
RANK_RULE = Parameter(
    "rank_rule",
    "share",
    choices=("share", "effective"),
    text="the same number for each source, or min(out, in) dealt out by the sources' effective ranks",
)
POOL_SHARE = Parameter(
    "pool_share",
    0.0,
    low=0.05,
    high=1.0,
    legal=(0.0, 1.0),
    text="share of all sources' components that is kept; 0: one over the number of sources",
)
COMMON_SHARE = Parameter(
    "common_share",
    0.8,
    low=0.0,
    high=1.0,
    legal=(0.0, 1.0),
    text="share of the directions that the sum of the task vectors takes; the sources share the rest",
)
PROJECTION = Parameter(
    "projection",
    0.5,
    low=0.1,
    high=0.9,
    legal=(0.0, 1.0),
    text="share of the merged singular values whose directions are closed to the next source",
)


def other(state: State) -> State:
    """The sum of what is no matrix, as `others` says."""
    rule = state.shared["others"]
    if rule == "base":
        return state.with_merged(state.zeros)
    return state.with_merged(_times(state, 1.0 if rule == "sum" else 1 / state.num_sources))


def _times(state: State, factor: float) -> Tensor:
    return weighted_sum(state.deltas, dict.fromkeys(state.deltas, factor), like=state.zeros)


def _sum_matrices(state: State) -> State:
    return state.with_merged(_times(state, 1.0)) if is_matrix(state) else other(state)


def orthonormalised(parts: list[spectral.Svd], scale: Callable[[Tensor], Tensor]) -> Tensor:
    """polar(U) s polar(V)ᵀ with U, σ, V the components of several decompositions beside each other.

    Args:
        parts: at least one; taken off the list, so that their memory is free once they are beside each other.
        scale: σ, not falling any more, to s.
    """
    values = scale(torch.cat([part.values for part in parts])).float()
    left = torch.cat([part.left for part in parts], dim=1)
    right = torch.cat([part.right for part in parts])
    parts.clear()
    left = spectral.polar(left).mul_(values)
    return left @ spectral.polar(right)


def _tsv(state: State) -> State:
    """Δ = polar(U) Σ polar(V)ᵀ with U, Σ, V the leading components of all sources, stacked."""
    if not is_matrix(state) or not state.deltas:
        return other(state)
    return state.with_merged(orthonormalised(_leading(state), lambda values: values))


def _leading(state: State) -> list[spectral.Svd]:
    """The components that each source brings."""
    deltas = list(state.deltas.values())
    shape = deltas[0].shape
    share = weights.number(state.shared, "rank_share")
    count = rank_of_share(share, shape) if share else max(1, min(shape) // state.num_sources)
    if state.shared["rank_rule"] == "effective":
        ranks = [spectral.effective_rank(spectral.singular_values(delta)) for delta in deltas]
        room = min(1.0, min(shape) / max(sum(ranks), 1.0))
        return [spectral.svd(d, count=max(1, int(rank * room))) for d, rank in zip(deltas, ranks, strict=True)]
    if state.shared["svd"] == "randomized":
        key = mask_key(0, "test matrix", state.block.name)
        return [spectral.randomized_svd(delta, count, key) for delta in deltas]
    return [spectral.svd(delta, count=count) for delta in deltas]


def _length(state: State) -> int:
    """Singular values that a task vector has here."""
    return min(next(iter(state.deltas.values())).shape)


def _pool(state: State) -> State:
    """Δ = Σ σ u vᵀ over the largest components of all sources together."""
    if not is_matrix(state) or not state.deltas:
        return other(state)
    share = weights.number(state.shared, "pool_share") or 1 / state.num_sources
    count = max(1, int(share * state.num_sources * _length(state) + 1e-9))
    values = {source: spectral.singular_values(delta) for source, delta in state.deltas.items()}
    pooled = torch.cat(list(values.values()))
    if count >= len(pooled):
        return state.with_merged(_times(state, 1.0))
    least = pooled.sort(descending=True).values[count - 1]
    merged = state.zeros
    for source, delta in state.deltas.items():
        # equal ones stay together: which of them comes first would be the order of names
        kept = int((values[source] >= least).sum())
        merged += spectral.remapped(delta, lambda found, kept=kept: spectral.keep_first(found, kept))  # type: ignore[misc]
    return state.with_merged(merged)


def _common_and_own(state: State) -> State:
    """Δ = σ̄ polar(U) polar(V)ᵀ: leading directions of the sum, and of what each source has beside them."""
    if not is_matrix(state) or not state.deltas:
        return other(state)
    size, sources = _length(state), state.num_sources
    own = round((size - int(weights.number(state.shared, "common_share") * size + 1e-9)) / sources)
    own = min(own, size // sources)  # rounded up they would be more than there are
    total = _times(state, 1.0)
    # where the sum's rank ends early, there is nothing more to have in common
    common = spectral.svd(total, count=size - own * sources)
    del total
    parts = [common.first(spectral.numerical_rank(common.values, state.zeros.shape))]
    for delta in state.deltas.values() if own else ():
        rest = spectral.svd(delta - common.left @ (common.left.t() @ delta), count=own)
        parts.append(rest.first(spectral.numerical_rank(rest.values, delta.shape)))
    del common
    if not any(len(part.values) for part in parts):
        return state.with_merged(state.zeros)
    return state.with_merged(orthonormalised(parts, lambda values: values.mean().expand_as(values)))


def _project(state: State) -> State:
    """Δ ← Δ + what of the next τ lies off Δ's leading directions and off its diagonal; Στ for what is no matrix."""
    turns = sorted(state.deltas, key=lambda source: (weights.number(state.of(source), "order"), source))
    deltas = [state.deltas[source] for source in turns]
    if not deltas:
        return state.with_merged(state.zeros)
    if not is_matrix(state):
        return state.with_merged(sum_of(deltas))
    share = weights.number(state.shared, "projection")
    # the authors scale Δ to the mean norm of the sources so far at every step, and undo it at the next: neither its
    # directions nor the shares of its singular values know the scale, so once behind the last step is enough
    merged = deltas[0].clone()
    for delta in deltas[1:]:
        merged += off(delta, spectral.svd(merged), share)
    return state.with_merged(merged)


def off(delta: Tensor, parts: spectral.Svd, share: float) -> Tensor:
    """U P Vᵀ with P = Uᵀ τ V, its diagonal and its leading block set to 0, for complete bases U and V.

    The bases are never completed: what P loses is taken from τ. The leading block has as many directions as stay
    under `share` of the singular values' sum.

    Source: Tang et al. 2025, OPCM, arXiv:2501.09522.
    """
    below = parts.values.cumsum(0)
    lead = parts.first(int((below <= share * below[-1]).sum()) if len(below) else 0)
    rest_left, rest_right = parts.left[:, len(lead.values) :], parts.right[len(lead.values) :]
    diagonal = ((rest_left.t() @ delta) * rest_right).sum(dim=1)
    block = lead.left @ ((lead.left.t() @ delta @ lead.right.t()) @ lead.right)
    return delta - block - (rest_left * diagonal) @ rest_right


def _summed(workspace: Workspace) -> Workspace:
    """What is held where the tensor is decomposed, and where task vectors are only added up."""
    return lambda extent: workspace(extent) if extent.matrix else 3 * extent.one


def _stacked_bytes(x: Extent) -> int:
    """The sources' components beside each other, and what makes them orthonormal."""
    if not x.matrix:
        return 3 * x.one
    share = weights.number(x.shared, "rank_share") if "rank_share" in x.shared else 0.0
    components = max(1, round(share * x.num_sources)) * x.short
    stack = FLOAT32 * components * sum(x.shape)
    return stack + max(2 * stack, x.one + svd_bytes(components, x.long))


SUM_MATRICES = Stage(
    name="sum_matrices",
    kind="aggregate",
    text="add matrices up; embeddings, heads and vectors as `others` says",
    apply=_sum_matrices,
    parameters=(OTHERS,),
)
TSV = Stage(
    name="task_singular_vectors",
    kind="aggregate",
    text="stack the leading singular vectors of all sources, make them orthonormal, put them together again",
    apply=_tsv,
    parameters=(RANK_SHARE, RANK_RULE, SVD, OTHERS),
    grain="tensor",
    cost="svd",
    only_matrices=True,
    workspace=_stacked_bytes,
)
POOL = Stage(
    name="pool_components",
    kind="aggregate",
    text="add up the largest singular components of all sources together",
    apply=_pool,
    parameters=(POOL_SHARE, OTHERS),
    grain="tensor",
    cost="svd",
    only_matrices=True,
    workspace=_summed(lambda x: max(2 * FLOAT64 * x.short**2, x.one + remapped_bytes(x))),
)
COMMON_AND_OWN = Stage(
    name="common_and_own",
    kind="aggregate",
    text="join leading directions of the sum with each source's own, all with the mean singular value",
    apply=_common_and_own,
    parameters=(COMMON_SHARE, OTHERS),
    grain="tensor",
    cost="svd",
    only_matrices=True,
    workspace=_stacked_bytes,
)
PROJECT = Stage(
    name="project_sequentially",
    kind="aggregate",
    text="add the sources one after the other, each without what the sum so far already spans",
    apply=_project,
    parameters=(PROJECTION, p.ORDER),
    grain="tensor",
    ordered=True,
    cost="svd",
    only_matrices=True,
    workspace=_summed(lambda x: svd_bytes(*x.shape) + 4 * x.one),
)

STAGES = (SUM_MATRICES, TSV, POOL, COMMON_AND_OWN, PROJECT)
