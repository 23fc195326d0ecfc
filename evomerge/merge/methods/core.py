"""Merges of LoRA adapters between bases that all of them share: core space without loss, joint diagonalisation with."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from evomerge.merge import standard as p
from evomerge.merge.method import Block, Method, Parameter
from evomerge.merge.methods.lora import merged_by, present
from evomerge.merge.methods.task_arithmetic import check, coefficients
from evomerge.merge.primitives import joint, weights
from evomerge.merge.primitives.lora import core_space
from evomerge.merge.stage import compose
from evomerge.merge.stages.elect import DISJOINT_MEAN, ELECT
from evomerge.merge.stages.lora import CORE
from evomerge.merge.stages.post import SCALE
from evomerge.merge.stages.random import BERNOULLI
from evomerge.merge.stages.sparsify import TRIM
from evomerge.merge.stages.spectral_sums import TSV
from evomerge.merge.stages.sums import SUM, WEIGH
from evomerge.merge.workspace import FLOAT32, FLOAT64, Extent, core_bytes, eigen_bytes, kept_core_bytes
from evomerge.models.factors import Factors

RANK = Parameter(
    "rank",
    16.0,
    low=8.0,
    high=256.0,
    scale="log",
    legal=(1.0, 65536.0),
    whole=True,
    text="shared components (k), at most the sum of the ranks",
)
ITERATIONS = Parameter(
    "iterations", 10.0, low=1.0, high=100.0, legal=(1.0, 10000.0), whole=True, text="rounds of alternation"
)
FORM = Parameter(
    "form",
    "full",
    choices=("full", "diagonal"),
    text="each adapter's part: a full matrix (JD-Full) or a diagonal (JD-Diag)",
)


def _shares(block: Block) -> Mapping[str, float]:
    return coefficients(block.shared, block.per_source)


def _combine(block: Block) -> Factors:
    factors = present(block)
    core = core_space(factors)
    shares = _shares(block)
    solve = joint.full if block.shared["form"] == "full" else joint.diagonal
    cores = torch.stack([core.cores[source].double() for source in factors])
    components = min(round(weights.number(block.shared, "rank")), *cores.shape[1:])
    found = solve(cores, components, round(weights.number(block.shared, "iterations")))
    left, right = found.combined(torch.tensor([shares[source] for source in factors]))
    return Factors((right.mT @ core.V.mT).float(), (core.U @ left).float())


def _workspace(extent: Extent) -> int:
    """The cores, in float64 and twice more while one side of them is turned into a Gram matrix, and its vectors."""
    side = min(extent.rank, extent.short)
    cores = extent.num_sources * (FLOAT32 + 3 * FLOAT64) * side * side
    joint = kept_core_bytes(extent) + cores + eigen_bytes(side)
    return max(core_bytes(extent), joint, kept_core_bytes(extent) + 2 * extent.one)


JOINT_DIAGONAL = Method(
    name="joint_diagonal",
    title="Joint diagonalisation (JD-Full, JD-Diag)",
    paper=(
        "Brüel Gabrielsson et al. 2024, Compress then Serve: Serving Thousands of LoRA Adapters with Little Overhead, "
        "arXiv:2407.00066"
    ),
    merge=merged_by(_combine, _shares),
    parameters=(p.weight(), p.LAMBDA, p.normalize(False), RANK, ITERATIONS, FORM),
    check=check,
    grain="tensor",
    factored=True,
    combine=_combine,
    cost="svd",
    workspace=_workspace,
)

_CORE_PAPER = "Panariello et al. 2025, Accurate and Efficient Low-Rank Model Merging in Core Space, arXiv:2509.17786"

CORE_TIES = compose(
    "core_ties",
    "TIES in core space",
    f"{_CORE_PAPER}; Yadav et al. 2023, TIES-Merging, arXiv:2306.01708",
    (CORE, TRIM, WEIGH, ELECT, DISJOINT_MEAN, SCALE),
    defaults={"density": 0.1},
    fixed={"scope": "tensor"},
)
CORE_DARE = compose(
    "core_dare",
    "DARE in core space",
    f"{_CORE_PAPER}; Yu et al. 2024, DARE, arXiv:2311.03099",
    (CORE, BERNOULLI, WEIGH, SUM, SCALE),
    defaults={"density": 0.7},
)

CORE_TSV = compose(
    "core_tsv",
    "TSV-M in core space",
    f"{_CORE_PAPER}; Gargiulo et al. 2025, Task Singular Vectors, arXiv:2412.00081",
    (CORE, TSV, SCALE),
    fixed={"rank_rule": "share"},
)

METHODS = (JOINT_DIAGONAL, CORE_TIES, CORE_DARE, CORE_TSV)
