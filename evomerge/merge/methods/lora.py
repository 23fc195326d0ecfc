"""Merges of LoRA adapters in the space of their factors.

They need sources that are LoRA adapters. Where no source has factors for a tensor that some source changes (a norm or a
head that was trained whole), the task vectors are averaged, as the papers' code does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge import standard as p
from evomerge.merge.method import Block, Method, Parameter, Values
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.aggregate import weighted_sum
from evomerge.merge.primitives.lora import complementary, keep_largest, weighted_factors
from evomerge.merge.workspace import of_factors
from evomerge.models.factors import Factors, zeros

Combine = Callable[[Block], Factors]
"""Block with factors → factors of the merged task vector."""


def merged_by(combine: Combine, share: Callable[[Block], Mapping[str, float]]) -> Callable[[Block], Tensor]:
    """θ0 + B·A of the merged factors; θ0 + Σ share·δ where the tensor has no factors."""

    def merge(block: Block) -> Tensor:
        if block.factors:
            return combine(block).product().add_(block.base)
        return weighted_sum(block.deltas, share(block), like=block.base).add_(block.base)

    return merge


def alike(block: Block, method: str) -> dict[str, Factors]:
    """The sources' factors, zeros for a source that leaves the tensor alone.

    Raises:
        InvalidInputError: their ranks differ, so that no two rows of A belong together.
    """
    ranks = {source: factors.rank for source, factors in block.factors.items() if factors is not None}
    if len(set(ranks.values())) > 1:
        raise InvalidInputError("sources", ranks, f"adapters of one rank at {block.name!r} for {method}")
    out, into = block.base.shape
    none = zeros(out, into, next(iter(ranks.values())), block.base.device)
    return {source: none if factors is None else factors for source, factors in block.factors.items()}


def present(block: Block) -> dict[str, Factors]:
    """The factors of the sources that change the tensor."""
    return {source: factors for source, factors in block.factors.items() if factors is not None}


def mean(block: Block) -> dict[str, float]:
    """1/N for each source."""
    return dict.fromkeys(block.per_source, 1 / len(block.per_source))


def _shares(block: Block) -> dict[str, float]:
    w = weights.of_sources(block.per_source)
    return weights.normalised(w) if block.shared["normalize"] else w


def _check_sum(shared: Values, per_source: Mapping[str, Values]) -> None:
    if shared["normalize"]:
        weights.check_sum(weights.of_sources(per_source))


def _mean_of_factors(block: Block) -> Factors:
    return weighted_factors(alike(block, "lora_mean"), _shares(block)).scaled(weights.number(block.shared, "lambda"))


def _scaled_shares(block: Block) -> dict[str, float]:
    scale = weights.number(block.shared, "lambda")
    return {source: scale * w for source, w in _shares(block).items()}


LORA_MEAN = Method(
    name="lora_mean",
    title="Mean of LoRA factors",
    paper=(
        "Fu et al. 2024, Disperse-Then-Merge, arXiv:2405.13432; Caccia et al. 2022, Multi-Head Adapter Routing "
        "(MHR-mu), arXiv:2211.03831"
    ),
    merge=merged_by(_mean_of_factors, _scaled_shares),
    parameters=(p.weight(), p.normalize(True), p.LAMBDA),
    check=_check_sum,
    grain="tensor",
    factored=True,
    combine=_mean_of_factors,
    workspace=of_factors(0, a_source=4),
)

KEEP = Parameter("keep", 0.2, low=0.05, high=0.6, legal=(0.0, 1.0), text="share of each factor's entries that survive")
ATTENUATION = Parameter(
    "attenuation",
    0.2,
    low=0.0,
    high=1.0,
    legal=(0.0, 1.0),
    text="share of a source's ratios, from the largest, that stay as they are; smaller ones are raised to them",
)
COEFFICIENT = Parameter("coefficient", 2.0, low=0.5, high=3.0, text="scales both merged factors: δ grows by its square")


def _complementary(block: Block) -> Factors:
    keep, attenuation, coefficient = (weights.number(block.shared, n) for n in ("keep", "attenuation", "coefficient"))
    return complementary(list(alike(block, "copa").values()), keep, attenuation, coefficient)


COPA = Method(
    name="copa",
    title="RobustMerge (complementary parameter adaptation)",
    paper=(
        "Zeng et al. 2025, RobustMerge: Parameter-Efficient Model Merging for MLLMs with Direction Robustness, "
        "arXiv:2502.17159"
    ),
    merge=merged_by(_complementary, mean),
    parameters=(KEEP, ATTENUATION, COEFFICIENT),
    grain="tensor",
    factored=True,
    combine=_complementary,
    workspace=of_factors(1, a_source=4),
    cost="sort",
)

KEEP_A = Parameter(
    "keep", 1.0, low=0.0, high=1.0, per_source=True, legal=(0.0, 1.0), text="share of A's entries that survive (α)"
)
SIGNED_WEIGHT = replace(p.weight(), low=-1.5)


def _sparse_sum(block: Block) -> Factors:
    kept = {}
    for source, factors in alike(block, "black_box_lora").items():
        share, size = weights.number(block.per_source[source], "keep"), factors.A.numel()
        kept[source] = Factors(keep_largest(factors.A, max(round(size * share), 1) if share else 0), factors.B)
    return weighted_factors(kept, _shares(block))


BLACK_BOX_LORA = Method(
    name="black_box_lora",
    title="Evo-Merging (sparsified A, signed weights)",
    paper=(
        "Chen et al. 2025, Black-box Model Merging for Language-Model-as-a-Service with Massive Model Repositories, "
        "arXiv:2509.12951"
    ),
    merge=merged_by(_sparse_sum, _shares),
    parameters=(KEEP_A, SIGNED_WEIGHT, p.normalize(True)),
    check=_check_sum,
    grain="tensor",
    factored=True,
    combine=_sparse_sum,
    workspace=of_factors(0, a_source=4),
    cost="sort",
)

MOMENTUM = Parameter(
    "momentum", 0.1, low=0.0, high=0.5, legal=(0.0, 1.0), text="how far an adapter moves to the mean of those before it"
)


def in_order(per_source: Mapping[str, Values]) -> list[str]:
    """The sources by their `order`, then by name."""
    return sorted(per_source, key=lambda source: (weights.number(per_source[source], "order"), source))


def _momentum(block: Block) -> dict[str, float]:
    """How much each source counts in the last adapter after all have moved, each to the mean of the moved before it."""
    m = weights.number(block.shared, "momentum")
    names = in_order(block.per_source)
    total = dict.fromkeys(names, 0.0)
    moved: dict[str, float] = {}
    for number, name in enumerate(names):
        share = 0.0 if number == 0 else m
        moved = {s: share * total[s] / max(number, 1) + (1 - share) * (s == name) for s in names}
        total = {s: total[s] + moved[s] for s in names}
    return moved


def _surgery(block: Block) -> Factors:
    return weighted_factors(alike(block, "mos"), _momentum(block))


MOS = Method(
    name="mos",
    title="MOS (momentum towards earlier adapters)",
    paper=(
        "Sun et al. 2024, MOS: Model Surgery for Pre-Trained Model-Based Class-Incremental Learning, arXiv:2412.09441"
    ),
    merge=merged_by(_surgery, _momentum),
    parameters=(MOMENTUM, p.ORDER),
    grain="tensor",
    factored=True,
    combine=_surgery,
    workspace=of_factors(0, a_source=4),
    ordered=True,
)

METHODS = (LORA_MEAN, COPA, BLACK_BOX_LORA, MOS)
