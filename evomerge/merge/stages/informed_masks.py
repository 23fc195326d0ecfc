"""Stages that keep the entries of task vectors on which the loss depends, each entry for one source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from evomerge.merge import standard as p
from evomerge.merge.calibration.entries import needed
from evomerge.merge.method import Parameter
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.measure import count_kept, kth_magnitudes
from evomerge.merge.stage import Stage, State, States
from evomerge.merge.workspace import tensors

PATTERN = Parameter(
    "pattern",
    "both",
    choices=("both", "source", "source_only", "base_only"),
    text="entries that matter to base and source, to the source, to the source and not to the base, or the reverse",
)


def _densities(state: State) -> dict[str, float]:
    return {source: weights.number(values, "density") for source, values in state.block.per_source.items()}


def _least_saliencies(states: States) -> Mapping[str, float]:
    """The least saliency that is located, of each source and of the base on each source's items."""
    densities = _densities(next(iter(states())))
    asked = {f"{who} {s}": d for s, d in densities.items() for who in ("source", "base")}

    def rows() -> Iterator[tuple[int, Mapping[str, Tensor | None]]]:
        for state in states():
            found = state.block.statistics
            yield (
                state.block.base.numel(),
                {
                    f"{who} {s}": needed(found, s, kind)
                    for s in densities
                    for who, kind in (("source", "saliency"), ("base", "base_saliency"))
                },
            )

    return kth_magnitudes(rows, asked)


def _located(state: State, source: str) -> Tensor:
    """Eᵢ: where the pattern holds; an entry that the loss does not depend on is never located."""
    found, least = state.block.statistics, state.measured
    own, base = needed(found, source, "saliency"), needed(found, source, "base_saliency")
    in_source = (own >= least[f"source {source}"]) & (own > 0)
    in_base = (base >= least[f"base {source}"]) & (base > 0)
    return {
        "both": in_source & in_base,
        "source": in_source,
        "source_only": in_source & ~in_base,
        "base_only": in_base & ~in_source,
    }[str(state.shared["pattern"])]


def _disjoint(state: State) -> State:
    """δ ← (Eᵢ \\ ∪ Eⱼ) ⊙ δ: an entry that two sources need is left to the base."""
    located = {source: _located(state, source) for source in state.block.per_source}
    count = torch.stack([mask.to(torch.uint8) for mask in located.values()]).sum(0)
    return state.each(lambda source, delta: torch.where(located[source] & (count == 1), delta, 0.0))


LOCATE = Stage(
    name="locate",
    kind="sparsify",
    text="keep the entries on which the loss depends most, in base and source, and only those that one source needs",
    apply=_disjoint,
    parameters=(p.density(0.4, low=0.05), PATTERN),
    measure=_least_saliencies,
    measures=lambda shared: "tensor",
    requires=frozenset({"saliency", "base_saliency"}),
    cost="sort",
)


def _brain_damage(state: State, source: str, delta: Tensor) -> Tensor:
    """½ δ² · diag(XXᵀ): what the layer's mean squared output error grows by, to second order and entry by entry, if
    the entry is put back to the base. The square root of twice that, which has the same order and float32's range;
    |δ| where there is no linear map."""
    gram = state.block.statistics.get(source, {}).get("gram")
    if gram is None:
        return delta.abs()
    return delta.abs() * gram.diagonal().clamp(min=0).sqrt()


def _in_turn(state: State) -> State:
    """Each source takes its most salient entries of those that nobody before it took."""
    order = sorted(state.block.per_source, key=lambda s: (weights.number(state.of(s), "order"), s))
    free = torch.ones(state.zeros.shape, dtype=torch.bool, device=state.zeros.device)
    kept: dict[str, Tensor] = {}
    for source in order:
        if source in state.deltas:
            delta = state.deltas[source]
            saliency = _brain_damage(state, source, delta).masked_fill(~free, -1.0)
            count = count_kept(weights.number(state.of(source), "density"), delta.numel())
            mask = _largest(saliency, count)
            free &= ~mask
            kept[source] = torch.where(mask, delta, 0.0)
    return state.with_deltas({source: kept[source] for source in state.deltas})


def _largest(values: Tensor, count: int) -> Tensor:
    """Marks the `count` largest values above 0; all that equal the last of them, too."""
    if count == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    least = values.flatten().kthvalue(values.numel() - count + 1).values
    return (values >= least) & (values > 0)


TAKE_TURNS = Stage(
    name="take_turns",
    kind="sparsify",
    text="one source after the other keeps the entries that change a layer's outputs most, of those nobody has taken",
    apply=_in_turn,
    parameters=(p.density(0.3, low=0.05), p.ORDER),
    grain="tensor",
    ordered=True,
    requires=frozenset({"gram"}),
    cost="sort",
    workspace=tensors(6, a_source=1),
)


def _top_features(state: State, source: str) -> Tensor:
    """An orthonormal basis of the directions that the other sources' inputs take most, (in × k)."""
    others = [s for s in state.block.per_source if s != source]
    rows = [needed(state.block.statistics, s, "base_features").double() for s in others]
    if state.shared["features"] == "source":
        rows = [items.mean(0, keepdim=True) for items in rows]
    matrix = torch.cat(rows)
    _, values, right = torch.linalg.svd(matrix, full_matrices=False)
    rank = int((values > 1e-6 * values[:1]).sum())
    directions: Tensor = right[: min(rank, int(weights.number(state.shared, "directions")))]
    return directions.t()


def _off_features(state: State) -> State:
    """δ ← δ (I − V Vᵀ): what a source adds does not answer to the other sources' inputs."""
    if len(state.block.per_source) < 2 or not any("base_features" in k for k in state.block.statistics.values()):
        return state

    def project(source: str, delta: Tensor) -> Tensor:
        directions = _top_features(state, source)
        wide = delta.double()
        return (wide - (wide @ directions) @ directions.t()).float()

    return state.each(project)


OFF_FEATURES = Stage(
    name="off_features",
    kind="basis",
    text="take out of each task vector the directions that the other sources' inputs take most",
    apply=_off_features,
    parameters=(
        Parameter("directions", 8.0, low=1.0, high=64.0, scale="log", legal=(0.0, 1e6), whole=True,
                  text="at most so many directions are taken out"),
        Parameter("features", "item", choices=("source", "item"),
                  text="the other sources' inputs as one mean a source (the authors' code), or one an item"),
    ),
    grain="tensor",
    requires=frozenset({"base_features"}),
    cost="svd",
    workspace=tensors(8, a_source=1),
)  # fmt: skip

STAGES = (LOCATE, TAKE_TURNS, OFF_FEATURES)
