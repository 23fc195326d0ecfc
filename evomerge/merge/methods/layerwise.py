"""Task arithmetic whose weights come from what the models do: layer by layer, or as a whole."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from evomerge.merge import standard as p
from evomerge.merge.calibration.entries import needed
from evomerge.merge.method import Block, Blocks, Method, Parameter
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.aggregate import weighted_sum
from evomerge.merge.primitives.measure import total
from evomerge.merge.primitives.shares import proportional, softmax

TEMPERATURE = Parameter(
    "temperature", 1.0, low=0.05, high=10.0, scale="log", legal=(1e-6, 1e6), text="of the softmax over sources"
)


def _group(block: Block) -> str:
    """A layer; outside the layers a tensor is a group by itself."""
    return block.name if block.layer is None else f"layer {block.layer}"


def _sensitivities(blocks: Blocks) -> Mapping[str, float]:
    """αᵢˡ by source and group, and τᵢ by source."""
    found: dict[str, dict[str, float]] = {}
    distances: dict[str, dict[str, float]] = {}
    similar = True
    for block in blocks():
        similar = block.shared["transfer"] == "similarity"
        for number, source in enumerate(block.per_source):
            groups = found.setdefault(source, {})
            saliency = total(needed(block.statistics, source, "saliency"))
            groups[_group(block)] = groups.get(_group(block), 0.0) + saliency
            if source not in distances:
                row = needed(block.statistics, source, "logit_distance").tolist()
                names = list(block.per_source)
                distances[source] = {names[j]: d for j, d in enumerate(row) if j != number}
    alphas = {f"{s} {g}": x for s, groups in found.items() for g, x in _unit(groups).items()}
    return alphas | {f"transfer {source}": x for source, x in _transfer(distances, similar).items()}


def _unit(numbers: Mapping[str, float]) -> dict[str, float]:
    """x / ‖x‖₂; equal numbers where all are 0."""
    norm = math.sqrt(math.fsum(x * x for x in numbers.values()))
    return {name: x / norm if norm else 1 / len(numbers) for name, x in numbers.items()}


def _transfer(distances: Mapping[str, Mapping[str, float]], similar: bool) -> dict[str, float]:
    """τᵢ = Σⱼ gᵢⱼ / Σᵢⱼ gᵢⱼ: g is the distance of logits (the third-party code), or exp(−distance / mean distance)."""
    flat = [d for row in distances.values() for d in row.values()]
    mean = math.fsum(flat) / len(flat) if flat else 0.0
    if similar:
        scores = {
            s: math.fsum(math.exp(-d / mean) if mean else 1.0 for d in row.values()) for s, row in distances.items()
        }
    else:
        scores = {s: math.fsum(row.values()) for s, row in distances.items()}
    return proportional(scores)


def _sens(block: Block) -> Tensor:
    """θ0 + λ N Σ σᵢˡ δᵢ, σˡ = softmaxᵢ(αᵢˡ τᵢ / T)."""
    scores = {s: block.measured[f"{s} {_group(block)}"] * block.measured[f"transfer {s}"] for s in block.per_source}
    shares = softmax(scores, weights.number(block.shared, "temperature"))
    scale = weights.number(block.shared, "lambda") * len(shares)
    merged = weighted_sum(block.deltas, {s: scale * share for s, share in shares.items()}, like=block.base)
    return merged.add_(block.base)


SENS = Method(
    name="sens",
    title="Sens-Merging",
    paper="Liu et al. 2025, Sens-Merging: Sensitivity-Guided Parameter Balancing for Merging Large Language Models, "
    "arXiv:2502.12420 (after a third party's code)",
    merge=_sens,
    parameters=(
        p.LAMBDA,
        TEMPERATURE,
        Parameter("transfer", "similarity", choices=("similarity", "distance"),
                  text="a source counts more the nearer its logits are to the others' on their items (ours), or the "
                       "farther (the code)"),
    ),
    measure=_sensitivities,
    measures=lambda shared: "model",
    requires=frozenset({"saliency", "logit_distance"}),
)  # fmt: skip


def typical(points: Tensor, count: int) -> Tensor:
    """Indices of items that stand for groups of alike ones: the nearest to each centre of k-means.

    Centres begin at the item nearest to the mean and then at the farthest from all chosen so far, so that there is
    nothing to draw.

    Args:
        points: an item a row, float64.

    Returns:
        At most `count` indices, rising.
    """
    count = min(count, len(points))
    chosen = [int((points - points.mean(0)).square().sum(1).argmin())]
    while len(chosen) < count:
        nearest = torch.cdist(points, points[chosen]).min(1).values
        chosen.append(int(nearest.argmax()))
    centres = points[chosen]
    for _ in range(50):
        owner = torch.cdist(points, centres).argmin(1)
        moved = torch.stack([points[owner == c].mean(0) if (owner == c).any() else centres[c] for c in range(count)])
        if torch.equal(moved, centres):
            break
        centres = moved
    return torch.tensor(sorted(set(torch.cdist(centres, points).argmin(1).tolist())))


def _likeness(states: Mapping[str, Tensor], items: Tensor) -> dict[str, float]:
    """Mean similarity of a source's hidden states to all others', exp(−d² / 2 m²) with m the median distance."""
    names = list(states)
    apart = {
        (a, b): (states[a][items].double() - states[b][items].double()).norm(dim=1)
        for a in names
        for b in names
        if a < b
    }
    every = torch.cat(list(apart.values())) if apart else torch.zeros(1)
    width = float(every.median())
    near = {pair: float(torch.exp(-((d / (width or 1.0)) ** 2) / 2).mean()) for pair, d in apart.items()}
    return {a: math.fsum(near[min(a, b), max(a, b)] for b in names if b != a) / max(1, len(names) - 1) for a in names}


def _recall(block: Block) -> Tensor:
    """θ0 + Σ wᵢˡ δᵢ, wˡ = softmaxᵢ(similarity / T) on typical items."""
    states = {s: needed(block.statistics, s, "hidden") for s in block.per_source}
    count = int(weights.number(block.shared, "clusters"))
    items = typical(torch.stack([s.double() for s in states.values()]).mean(0), count)
    shares = softmax(_likeness(states, items), weights.number(block.shared, "temperature"))
    return weighted_sum(block.deltas, shares, like=block.base).add_(block.base)


RECALL = Method(
    name="recall",
    title="RECALL",
    paper="Wang et al. 2025, RECALL: REpresentation-aligned Catastrophic-forgetting ALLeviation via Hierarchical Model "
    "Merging, arXiv:2510.20479 (from secondary text: against whom similarity is measured, and all constants, are ours)",
    merge=_recall,
    parameters=(
        TEMPERATURE,
        Parameter("clusters", 20.0, low=1.0, high=100.0, scale="log", legal=(1.0, 1e6), whole=True,
                  text="items that are looked at: one for each group of alike ones"),
    ),
    requires=frozenset({"hidden"}),
    grain="tensor",
)  # fmt: skip


def _cocktail(block: Block) -> Tensor:
    """θ0 + Σ wᵢ δᵢ, w = softmax(−loss / T)."""
    losses = {s: -float(needed(block.statistics, s, "loss")) for s in block.per_source}
    shares = softmax(losses, weights.number(block.shared, "temperature"))
    return weighted_sum(block.deltas, shares, like=block.base).add_(block.base)


LM_COCKTAIL = Method(
    name="lm_cocktail_measured",
    title="LM-Cocktail with measured losses",
    paper="Xiao et al. 2023, LM-Cocktail: Resilient Tuning of Language Models via Model Merging, arXiv:2311.13534",
    merge=_cocktail,
    parameters=(TEMPERATURE,),
    requires=frozenset({"loss"}),
)

METHODS = (SENS, RECALL, LM_COCKTAIL)
