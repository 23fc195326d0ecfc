"""LoRA-LEGO: the rank-one units of all adapters, clustered."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from evomerge.merge.method import Block, Method, Parameter
from evomerge.merge.methods.lora import mean, merged_by, present
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.lora import clustered
from evomerge.merge.primitives.sparsify import mask_key
from evomerge.merge.workspace import of_factors
from evomerge.models.factors import Factors

RANK = Parameter(
    "rank",
    0.0,
    low=4.0,
    high=64.0,
    legal=(0.0, 65536.0),
    whole=True,
    text="clusters, the rank of the result (k); 0: the adapters' mean rank",
)
ITERATIONS = Parameter(
    "iterations", 10.0, low=1.0, high=50.0, legal=(1.0, 1000.0), whole=True, text="most rounds of k-means"
)
SIGNS = Parameter(
    "canonical_signs", True, text="turn (a, b) and (−a, −b), which are one unit, the same way before clustering"
)
REWEIGHT = Parameter(
    "reweight",
    True,
    text="give means the ∞-norm of their members, and the result √(r/k) (the paper's two reweightings)",
)


def _combine(block: Block) -> Factors:
    factors = list(present(block).values())
    rank = round(weights.number(block.shared, "rank")) or round(sum(f.rank for f in factors) / len(factors))
    return clustered(
        [Factors(f.A.cpu(), f.B.cpu()) for f in factors],
        rank,
        _draws(block, rank),
        iterations=round(weights.number(block.shared, "iterations")),
        canonical=bool(block.shared["canonical_signs"]),
        reweight=bool(block.shared["reweight"]),
    ).to(block.base.device)


def _draws(block: Block, count: int) -> Tensor:
    """Numbers in [0, 1) that depend on the seed and the tensor alone: how k-means chooses its first centres."""
    raw = np.random.Philox(key=mask_key(block.seed, "k-means", block.name)).random_raw(count)
    return torch.from_numpy((raw >> np.uint64(11)).astype(np.float64) * 2.0**-53)


LEGO = Method(
    name="lego",
    title="LoRA-LEGO",
    paper=(
        "Zhao et al. 2024, Merging LoRAs like Playing LEGO: Pushing the Modularity of LoRA to Extremes Through "
        "Rank-Wise Clustering, arXiv:2409.16167"
    ),
    merge=merged_by(_combine, mean),
    parameters=(RANK, ITERATIONS, SIGNS, REWEIGHT),
    grain="tensor",
    factored=True,
    combine=_combine,
    stochastic=True,
    cost="solve",
    workspace=of_factors(9),
)

METHODS = (LEGO,)
