"""Merges whose coefficients gradients find over a user's items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from evomerge.merge import standard as p
from evomerge.merge.calibration.entries import needed
from evomerge.merge.calibration.kinds import COLUMNS
from evomerge.merge.method import Block, Method, Parameter, Values
from evomerge.merge.primitives import weights
from evomerge.merge.stage import compose
from evomerge.merge.stages import learned as s
from evomerge.merge.stages.elect import ELECT
from evomerge.merge.stages.post import SCALE
from evomerge.merge.stages.sparsify import TRIM
from evomerge.merge.workspace import tensors

_ADAMERGING = "Yang et al. 2023, AdaMerging: Adaptive Model Merging for Multi-Task Learning, arXiv:2310.02575"

ADAMERGING = compose("adamerging", "AdaMerging", _ADAMERGING, (s.LEARNED_SUM, SCALE))
ADAMERGING_PLUS_PLUS = compose(
    "adamerging_plus_plus",
    "AdaMerging++",
    _ADAMERGING,
    (TRIM, ELECT, s.LEARNED_SUM, SCALE),
    defaults={"density": 0.2},
)


def _check_shares(shared: Values, per_source: Mapping[str, Values]) -> None:
    weights.check_sum(weights.of_sources(per_source))


def _dam(block: Block) -> Tensor:
    """Σ c ⊙ θ, c a number a column."""
    coefficients = {source: needed(block.statistics, source, COLUMNS) for source in block.per_source}
    result = torch.stack(list(coefficients.values())).sum(0) * block.base
    for source, delta in block.deltas.items():
        if delta is not None:
            result.add_(delta * coefficients[source])
    return result


DAM = Method(
    name="dam",
    title="Differentiable adaptive merging (DAM)",
    paper="Gauthier-Caron et al. 2024, Merging in a Bottle: Differentiable Adaptive Merging (DAM) and the Path from "
    "Averaging to Automation, arXiv:2410.08371",
    merge=_dam,
    parameters=(
        replace(p.weight(), text="coefficients start from the source's part of all weights"),
        s.steps(1700.0),
        s.rate(1e-3),
        s.batch(1.0),
        s.loss("kl"),
        s.temperature(2.0),
        s.decay(0.01),
        s.similarity(0.01, "how dear it is that two sources' columns are weighed alike: times the mean cosine"),
        Parameter("l1", 0.0, low=0.0, high=1e-4, legal=(0.0, 1e6), text="times Σ |c|"),
        Parameter("l2", 0.0, low=0.0, high=1e-4, legal=(0.0, 1e6), text="times ‖c‖"),
        Parameter("overlap", 0.0, low=0.0, high=1e-3, legal=(0.0, 1e6),
                  text="times Σ min(|c|, |c'|) of two sources"),
        Parameter("moving", 0.3, low=0.1, high=1.0, legal=(0.0, 1.0),
                  text="share of each tensor's coefficients that a step moves (MoFO's α); 1: all (AdamW)"),
        Parameter("shape", "none", choices=("none", "tanh", "sigmoid", "relu"),
                  text="what the coefficients are sent through"),
        Parameter("parts", "linear", choices=("linear", "all"),
                  text="what is learned: linear maps and the head (others are averaged), or everything"),
    ),
    check=_check_shares,
    grain="tensor",
    requires=frozenset({COLUMNS}),
    cost="training",
    workspace=tensors(2),
)  # fmt: skip

EXPERT_MERGING = compose(
    "expert_merging",
    "Expert Merging",
    "Zhang et al. 2025, Expert Merging: Model Merging with Unsupervised Expert Alignment and Importance-Guided Layer "
    "Chunking, arXiv:2509.25712",
    (s.CHUNKED_SUM, SCALE),
)
CONCRETE = compose(
    "concrete",
    "Concrete subspace task arithmetic",
    "Tang et al. 2023, Concrete Subspace Learning based Interference Elimination for Multi-task Model Fusion, "
    "arXiv:2312.06173",
    (s.MASKED_SUM, SCALE),
)
CONCRETE_ADAMERGING = compose(
    "concrete_adamerging",
    "Concrete subspace AdaMerging",
    "Tang et al. 2023, Concrete Subspace Learning based Interference Elimination for Multi-task Model Fusion, "
    "arXiv:2312.06173; coefficients as in AdaMerging, arXiv:2310.02575",
    (s.ADAPTIVE_MASKED_SUM, SCALE),
)
FW_SOFT = compose(
    "fw_soft",
    "FW-Merging, soft",
    "Chen et al. 2025, FW-Merging: Scaling Model Merging with Frank-Wolfe Optimization, arXiv:2503.12649; coefficients "
    "as in AdaMerging, arXiv:2310.02575",
    (s.SOFT_CONVEX_SUM, SCALE),
)
FW_MERGING = compose(
    "fw_merging",
    "FW-Merging",
    "Chen et al. 2025, FW-Merging: Scaling Model Merging with Frank-Wolfe Optimization, arXiv:2503.12649",
    (s.CONVEX_SUM, SCALE),
)
ZIPLORA = compose(
    "ziplora",
    "ZipLoRA",
    "Shah et al. 2023, ZipLoRA: Any Subject in Any Style by Effectively Merging LoRAs, arXiv:2311.13600",
    (s.GATED_SUM, SCALE),
)

METHODS = (
    ADAMERGING, ADAMERGING_PLUS_PLUS, DAM, EXPERT_MERGING, CONCRETE, CONCRETE_ADAMERGING, FW_MERGING, FW_SOFT, ZIPLORA,
)  # fmt: skip
