"""Methods that decide entry by entry, from gradients or inputs, whose change survives."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge import standard as p
from evomerge.merge.calibration.entries import needed
from evomerge.merge.method import Block, Blocks, Method, Parameter, Values
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.measure import total
from evomerge.merge.stage import compose
from evomerge.merge.stages.informed_masks import LOCATE, OFF_FEATURES, TAKE_TURNS
from evomerge.merge.stages.post import SCALE
from evomerge.merge.stages.sums import SUM, WEIGH

LED = compose(
    "led",
    "LED-Merging",
    "Ma et al. 2025, LED-Merging: Mitigating Safety-Utility Conflicts in Model Merging with "
    "Location-Election-Disjoint, arXiv:2502.16770",
    [LOCATE, WEIGH, SUM, SCALE],
    fixed={"normalize": False},
)

OBIM = compose(
    "obim",
    "Optimal Brain Iterative Merging",
    "Wang et al. 2025, Optimal Brain Iterative Merging: Mitigating Interference in LLM Merging, arXiv:2502.12217 "
    "(from the paper's text: there is no public code)",
    [TAKE_TURNS, WEIGH, SUM, SCALE],
    fixed={"normalize": False},
)

OSRM = compose(
    "osrm",
    "OSRM (after training)",
    "Zhang & Zhou 2025, Unraveling LoRA Interference: Orthogonal Subspaces for Robust Model Merging, arXiv:2505.22934 "
    "(its projection applied to trained task vectors, without the fine-tuning that follows it there)",
    [OFF_FEATURES, WEIGH, SUM, SCALE],
    fixed={"normalize": False},
)

REASONING = Parameter(
    "reasoning", False, per_source=True, text="whether this is the reasoning model that the others are added to; one is"
)


def _reasoner(per_source: Mapping[str, Values]) -> str:
    return next(source for source, values in per_source.items() if values["reasoning"])


def _check_reasoning(shared: Values, per_source: Mapping[str, Values]) -> None:
    flags = {source: values["reasoning"] for source, values in per_source.items()}
    if sum(map(bool, flags.values())) != 1:
        raise InvalidInputError("reasoning", flags, "true for exactly one source")


def _delta(block: Block, source: str) -> Tensor:
    delta = block.deltas[source]
    return torch.zeros_like(block.base) if delta is None else delta


def _penalty(block: Block, reasoner: str, domain: str) -> Tensor:
    """F ⊙ (θR − θD)², F = mean (g θR)²: how much reasoning loses; float64: of fourth order in small numbers."""
    reasoning = _delta(block, reasoner).double()
    prior = needed(block.statistics, reasoner, "fisher").double() * (block.base.double() + reasoning).square()
    return prior.mul_((reasoning - _delta(block, domain).double()).square())


def _sizes(blocks: Blocks) -> Mapping[str, float]:
    """Means of |θ·∂L/∂θ| and of the penalty, over the model, by domain source."""
    sums: dict[str, float] = {}
    size = 0
    for block in blocks():
        if not block.shared["relative"]:
            return {}
        reasoner = _reasoner(block.per_source)
        size += block.base.numel()
        for domain in set(block.per_source) - {reasoner}:
            for name, values in (
                (f"votes {domain}", needed(block.statistics, domain, "votes").abs()),
                (f"penalty {domain}", _penalty(block, reasoner, domain)),
            ):
                sums[name] = sums.get(name, 0.0) + total(values)
    return {name: value / max(size, 1) for name, value in sums.items()}


def _rcp(block: Block) -> Tensor:
    """θR + Σ scale · 1[most items: θD·∂L/∂θD + λ F (θR − θD)² ≤ 0] ⊙ (θD − θ0)."""
    reasoner = _reasoner(block.per_source)
    merged = _delta(block, reasoner).clone()
    for domain in block.per_source:
        if domain != reasoner:
            penalty = _penalty(block, reasoner, domain).mul_(weights.number(block.shared, "prior"))
            if block.shared["relative"]:
                penalty *= block.measured[f"votes {domain}"] / (block.measured[f"penalty {domain}"] or 1.0)
            wanted = needed(block.statistics, domain, "votes").double() <= -penalty
            kept = torch.where(wanted, _delta(block, domain), 0.0)
            merged.add_(kept, alpha=weights.number(block.per_source[domain], "weight"))
    return merged.add_(block.base)


RCP = Method(
    name="rcp",
    title="RCP-Merging",
    paper="Yang et al. 2025, RCP-Merging: Merging Long Chain-of-Thought Models with Domain-Specific Models by "
    "Considering Reasoning Capability as Prior, arXiv:2508.03140",
    merge=_rcp,
    parameters=(
        p.weight(),
        REASONING,
        Parameter("prior", 1000.0, low=1.0, high=1e5, scale="log", legal=(0.0, 1e12),
                  text="λ: how much reasoning's loss counts against the domain's gain; with `relative` try 0.1 to 10"),
        Parameter("relative", False, text="gain and loss in units of their means over the model, so that λ has none"),
    ),
    num_sources=(2, None),
    measure=_sizes,
    measures=lambda shared: "model" if shared["relative"] else "nothing",
    check=_check_reasoning,
    requires=frozenset({"fisher", "votes"}),
)  # fmt: skip

METHODS = (LED, OBIM, OSRM, RCP)
