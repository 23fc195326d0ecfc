"""Averages that weigh every entry by its curvature: diagonal Fisher information, Adam's second moments."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge import standard as p
from evomerge.merge.calibration.entries import needed
from evomerge.merge.method import Block, Blocks, Method, Parameter, Scope, Values
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.curvature import operator_norm, weighted_mean
from evomerge.merge.primitives.measure import Rows, inner, kth_magnitudes, total
from evomerge.merge.workspace import tensors

SHARE = replace(p.weight(), low=0.0, high=1.0, legal=(0.0, 1e6), text="how much the source counts")
"""A weight that a mean divides by entry by entry: not negative."""


def check_shares(shared: Values, per_source: Mapping[str, Values]) -> None:
    """Refuse shares that are all 0."""
    w = weights.of_sources(per_source)
    if not any(w.values()):
        raise InvalidInputError("weight", w, "at least one weight above 0")


def _scope_of_fisher(shared: Values) -> Scope:
    if shared["normalize"] == "model":
        return "model"
    return "tensor" if shared["normalize"] == "tensor" or shared["relative_floor"] else "nothing"


def _measure_fisher(blocks: Blocks) -> Mapping[str, float]:
    """Euclidean norm and mean of each source's F."""
    squares: dict[str, float] = {}
    sums: dict[str, float] = {}
    size = 0
    for block in blocks():
        size += block.base.numel()
        for source in block.per_source:
            fisher = needed(block.statistics, source, "fisher")
            squares[source] = squares.get(source, 0.0) + inner(fisher, fisher)
            sums[source] = sums.get(source, 0.0) + total(fisher)
    norms = {f"norm {s}": math.sqrt(x) for s, x in squares.items()}
    return norms | {f"mean {s}": x / max(size, 1) for s, x in sums.items()}


def _fisher(block: Block) -> Tensor:
    """θ0 + Σ c q (F + ε) δ / Σ c q (F + ε), q = 1 / (‖F‖ + ε) where F is normalised (eq. 3)."""
    floor = weights.number(block.shared, "floor")
    masses = {}
    for source, share in weights.of_sources(block.per_source).items():
        lift = floor * (block.measured[f"mean {source}"] if block.shared["relative_floor"] else 1.0)
        scale = 1.0
        if block.shared["normalize"] != "none":
            scale = 1.0 / (block.measured[f"norm {source}"] + floor or 1.0)
        masses[source] = (needed(block.statistics, source, "fisher").double() + lift) * (share * scale)
    mean = weighted_mean(block.deltas, masses, block.base)
    nowhere = torch.stack([mass <= 0 for mass in masses.values()]).all(0)
    if nowhere.any():  # floor 0, and nobody's loss depends on the entry: nothing speaks for one source or another
        plain = {s: torch.full_like(block.base, w) for s, w in weights.of_sources(block.per_source).items()}
        mean = torch.where(nowhere, weighted_mean(block.deltas, plain, block.base), mean)
    return mean.add_(block.base)


FISHER = Method(
    name="fisher",
    title="Fisher-weighted averaging",
    paper="Matena & Raffel 2022, Merging Models with Fisher-Weighted Averaging, arXiv:2111.09832",
    merge=_fisher,
    parameters=(
        SHARE,
        Parameter("floor", 1e-6, low=1e-12, high=1e-4, scale="log", legal=(0.0, 1e6),
                  text="added to every F; where it is larger than F, the result is the plain mean"),
        Parameter("relative_floor", False, text="the floor is in units of the mean F, not absolute"),
        Parameter("normalize", "model", choices=("none", "tensor", "model"),
                  text="divide F by its norm, so that a source with larger gradients does not count more"),
    ),
    measure=_measure_fisher,
    measures=_scope_of_fisher,
    check=check_shares,
    requires=frozenset({"fisher"}),
)  # fmt: skip


def _moment(block: Block, source: str) -> Tensor:
    moment = needed(block.statistics, source, "second_moment", "fisher")
    if not bool((moment >= 0).all()):  # NaN neither
        raise InvalidInputError(f"calibration.moments.{source}", float(moment.min()), f"{block.name}: entries ≥ 0")
    return moment


def _curvature(block: Block, source: str) -> Tensor:
    """vᵖ, float64: of Adam's preconditioner √v for p = ½."""
    return _moment(block, source).double().pow_(weights.number(block.shared, "power"))


def _mass(block: Block, source: str) -> Tensor:
    """w (vᵖ [/ its mean] + ε)."""
    curvature = _curvature(block, source)
    if block.shared["normalize"]:
        curvature /= block.measured[f"mean {source}"] + weights.number(block.shared, "epsilon") or 1.0
    share = weights.number(block.per_source[source], "weight")
    return curvature.add_(weights.number(block.shared, "epsilon")).mul_(share)


def _means(blocks: Blocks) -> dict[str, float]:
    """Mean vᵖ of each source over a tensor."""
    sums: dict[str, float] = {}
    size = 0
    for block in blocks():
        size += block.base.numel()
        for source in block.per_source:
            sums[source] = sums.get(source, 0.0) + total(_curvature(block, source))
    return {f"mean {source}": x / max(size, 1) for source, x in sums.items()}


def _ota(block: Block) -> Tensor:
    """θ0 + Σ P δ / Σ P, P = w (vᵖ + ε)."""
    masses = {source: _mass(block, source) for source in block.per_source}
    return weighted_mean(block.deltas, masses, block.base).add_(block.base)


_PAPER = (
    "Mahdavinia et al. 2025, Harnessing Optimization Dynamics for Curvature-Informed Model Merging, arXiv:2509.11167"
)
_PARAMETERS = (
    SHARE,
    Parameter("power", 0.5, low=0.25, high=1.0, legal=(1e-6, 4.0), text="p: weights are second moments to this power"),
    Parameter("epsilon", 1e-8, low=1e-26, high=1e-6, scale="log", legal=(0.0, 1.0), text="added to every weight"),
    Parameter("normalize", False, text="divide the weights by their mean over the tensor"),
)  # fmt: skip

OTA = Method(
    name="ota",
    title="OTA merging",
    paper=_PAPER,
    merge=_ota,
    parameters=_PARAMETERS,
    measure=_means,
    measures=lambda shared: "tensor" if shared["normalize"] else "nothing",
    check=check_shares,
    requires=frozenset({"second_moment"}),
)


def _saliency(block: Block, source: str) -> Tensor | None:
    """√(v·δ²): the order is that of v·δ², whose values leave float32's range."""
    delta = block.deltas[source]
    return None if delta is None else _moment(block, source).sqrt().mul_(delta.abs())


def _thresholds(blocks: Blocks) -> dict[str, float]:
    """The least √(v·δ²) that each source keeps."""
    densities = _densities(next(iter(blocks())))

    def rows() -> Iterator[tuple[int, Mapping[str, Tensor | None]]]:
        for block in blocks():
            if _densities(block) != densities:
                expected = f"one density a source with scope: global (elsewhere {densities})"
                raise InvalidInputError("density", _densities(block), expected)
            yield block.base.numel(), {source: _saliency(block, source) for source in densities}

    asked: Rows = rows
    return {f"least {source}": least for source, least in kth_magnitudes(asked, densities).items()}


def _densities(block: Block) -> dict[str, float]:
    return {source: weights.number(values, "density") for source, values in block.per_source.items()}


def _ffg(block: Block) -> Tensor:
    """Mask by v·δ² (fast Fisher grafting), then average what is left; θ0 where every source is masked."""
    if block.shared["normalize"]:
        block = replace(block, measured={**block.measured, **_means(lambda: [block])})
    masks = {source: _mask(block, source) for source in block.per_source}
    deltas = {s: _rescaled(block, s, mask) for s, mask in masks.items()}
    inner_merge: Callable[[], Tensor] = {
        "weighted": lambda: weighted_mean(deltas, {s: _mass(block, s) * mask for s, mask in masks.items()}, block.base),
        "linear": lambda: _mean(block, deltas),
        "ties": lambda: _mean(block, _agreeing(deltas)),
    }[str(block.shared["inner"])]
    return inner_merge().add_(block.base)


def _mask(block: Block, source: str) -> Tensor:
    saliency = _saliency(block, source)
    if saliency is None:
        saliency = torch.zeros_like(block.base)
    return (saliency >= block.measured[f"least {source}"]).float()


def _rescaled(block: Block, source: str, mask: Tensor) -> Tensor | None:
    """The masked δ, brought back to the operator norm of all of δ."""
    delta = block.deltas[source]
    if delta is None:
        return None
    masked = delta * mask
    if block.shared["rescale"]:
        whole, left = operator_norm(delta, block.kind), operator_norm(masked, block.kind)
        return masked.mul_(whole / left) if left > 1e-6 * whole else masked.zero_()
    return masked


def _mean(block: Block, deltas: Mapping[str, Tensor | None]) -> Tensor:
    """Σ w δ / N."""
    result = torch.zeros_like(block.base)
    for source, delta in deltas.items():
        if delta is not None:
            result.add_(delta, alpha=weights.number(block.per_source[source], "weight") / len(deltas))
    return result


def _agreeing(deltas: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
    """Only the entries whose sign is that of the sum; + where the sum is 0."""
    present = [delta for delta in deltas.values() if delta is not None]
    if not present:
        return dict(deltas)
    positive = torch.stack(present).double().sum(0) >= 0
    return {s: None if d is None else torch.where((d > 0) == positive, d, 0.0) for s, d in deltas.items()}


OTA_FFG = Method(
    name="ota_ffg",
    title="OTA merging with fast Fisher grafting",
    paper=_PAPER,
    merge=_ffg,
    parameters=(
        *_PARAMETERS,
        p.density(0.4, low=0.05),
        p.SCOPE,
        Parameter("rescale", False, text="bring what is left of a task vector back to its operator norm"),
        Parameter("inner", "weighted", choices=("weighted", "linear", "ties"),
                  text="how masked task vectors are averaged: by curvature, plainly, or where signs agree"),
    ),
    measure=_thresholds,
    measures=lambda shared: "model" if shared["scope"] == "global" else "tensor",
    check=check_shares,
    grain="tensor",
    requires=frozenset({"second_moment"}),
    cost="svd",
    workspace=tensors(9, a_source=4),
)  # fmt: skip

METHODS = (FISHER, OTA, OTA_FFG)
