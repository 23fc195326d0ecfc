"""Least squares on what linear maps put out: RegMean and MaTS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from evomerge.merge.calibration.entries import needed
from evomerge.merge.calibration.kinds import MERGED_GRAM
from evomerge.merge.method import Block, Method, Parameter
from evomerge.merge.methods.curvature import SHARE, check_shares
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.aggregate import weighted_sum
from evomerge.merge.primitives.solve import gram_solve
from evomerge.merge.workspace import FLOAT64, Extent, eigen_bytes

OFF_DIAGONAL = Parameter(
    "off_diagonal", 0.1, low=0.0, high=1.0, legal=(0.0, 1.0), text="factor of the Gram matrices off their diagonal (α)"
)
RIDGE = Parameter(
    "ridge", 1e-6, low=1e-8, high=1e-2, scale="log", legal=(0.0, 1e6),
    text="added to the diagonal, in units of its mean: inputs that no item has used give the mean (0: the paper)",
)  # fmt: skip


def shrunk(gram: Tensor, off_diagonal: float, ridge: float = 0.0) -> Tensor:
    """α·G + (1 − α)·diag(G) + ridge · mean(diag G) · I; new memory."""
    diagonal = gram.diagonal()
    result = gram * off_diagonal
    result.diagonal().copy_(diagonal + ridge * diagonal.mean())
    return result


def mean_delta(block: Block) -> Tensor:
    """Σ w δ / Σ w, for tensors that are no linear maps."""
    w = weights.normalised(weights.of_sources(block.per_source))
    return weighted_sum(block.deltas, w, like=block.base)


def deltas_of(block: Block) -> dict[str, Tensor]:
    """δ of every source, zeros where it leaves the tensor alone."""
    return {s: torch.zeros_like(block.base) if d is None else d for s, d in block.deltas.items()}


def has(block: Block, kind: str) -> bool:
    """Whether this tensor is one that has such statistics."""
    return any(kind in found for found in block.statistics.values())


def _regmean(block: Block, kind: str = "gram") -> Tensor:
    """θ0 + (Σ c G̃)⁻¹ Σ c G̃ δ, which is the mean of θ that eq. 2 gives; the weighted mean for all but linear maps."""
    if not has(block, kind):
        return mean_delta(block).add_(block.base)
    a, ridge = weights.number(block.shared, "off_diagonal"), weights.number(block.shared, "ridge")
    shares = {s: w for s, w in weights.of_sources(block.per_source).items() if w > 0}
    deltas = deltas_of(block)
    grams = (shrunk(needed(block.statistics, s, kind), a, ridge).mul_(w) for s, w in shares.items())
    return gram_solve(grams, (deltas[s] for s in shares)).add_(block.base)


def _solved_bytes(x: Extent) -> int:
    return eigen_bytes(x.shape[1]) + 4 * x.one if x.matrix else 2 * x.one


REGMEAN = Method(
    name="regmean",
    title="RegMean",
    paper="Jin et al. 2023, Dataless Knowledge Fusion by Merging Weights of Language Models, arXiv:2212.09849",
    merge=_regmean,
    parameters=(SHARE, OFF_DIAGONAL, RIDGE),
    check=check_shares,
    grain="tensor",
    requires=frozenset({"gram"}),
    cost="solve",
    workspace=_solved_bytes,
)


REGMEAN_PLUS_PLUS = replace(
    REGMEAN,
    name="regmean_plus_plus",
    title="RegMean++",
    paper="Nguyen et al. 2025, RegMean++: Enhancing Effectiveness and Generalization of Regression Mean for Model "
    "Merging, arXiv:2508.03121",
    merge=partial(_regmean, kind=MERGED_GRAM),
    requires=frozenset({MERGED_GRAM}),
)


def _mats(block: Block) -> Tensor:
    """Conjugate gradient on Σ H (X − δ) G = 0 from λ Σ δ: few steps stay near task arithmetic."""
    if not has(block, "gram"):
        return mean_delta(block).add_(block.base)
    a = weights.number(block.shared, "off_diagonal")
    shares = {s: w for s, w in weights.of_sources(block.per_source).items() if w > 0}
    deltas = deltas_of(block)
    start = weighted_sum(block.deltas, dict.fromkeys(deltas, weights.number(block.shared, "start")), like=block.base)
    solved = gram_solve(
        [shrunk(needed(block.statistics, s, "gram"), a).mul_(w) for s, w in shares.items()],
        [deltas[s] for s in shares],
        outs=_outs(block, shares, a),
        initial=start,
        steps=int(weights.number(block.shared, "steps")),
    )
    return solved.add_(block.base)


def _outs(block: Block, shares: Mapping[str, float], off_diagonal: float) -> list[Tensor]:
    """Hᵢ: Gram matrices of output gradients scaled to a mean diagonal of 1 over all sources, or identities.

    The scale changes nothing but the range of the numbers: squared gradients lie near the ends of float32's.
    """
    if block.shared["objective"] == "inputs":
        return [torch.eye(block.base.shape[0], dtype=torch.float64, device=block.base.device)] * len(shares)
    outs = [shrunk(needed(block.statistics, s, "output_gram").double(), off_diagonal) for s in shares]
    size = sum(float(out.diagonal().mean()) for out in outs) / len(outs)
    return [out.div_(size) for out in outs] if size > 0 else outs


def _iterated_bytes(x: Extent) -> int:
    """Every source's two Gram matrices, and what conjugate gradient goes on with, all in float64."""
    if not x.matrix:
        return 2 * x.one
    return x.num_sources * 2 * FLOAT64 * (x.shape[0] ** 2 + x.shape[1] ** 2) + 16 * x.one


MATS = Method(
    name="mats",
    title="MaTS",
    paper="Tam et al. 2024, Merging by Matching Models in Task Parameter Subspaces, arXiv:2312.04339",
    merge=_mats,
    parameters=(
        SHARE,
        Parameter("off_diagonal", 1.0, low=0.0, high=1.0, legal=(0.0, 1.0),
                  text="factor of the Gram matrices off their diagonal"),
        Parameter("steps", 100.0, low=10.0, high=200.0, scale="log", legal=(0.0, 1e5), whole=True,
                  text="steps of conjugate gradient; few of them stay near the start"),
        Parameter("start", 0.3, low=0.0, high=1.0, text="the start: θ0 + start · Σ δ"),
        Parameter("objective", "fisher", choices=("fisher", "inputs"),
                  text="block Fisher (inputs and output gradients), or inputs alone (RegMean's)"),
    ),
    check=check_shares,
    grain="tensor",
    requires=frozenset({"gram", "output_gram"}),
    cost="solve",
    workspace=_iterated_bytes,
)  # fmt: skip

METHODS = (REGMEAN, REGMEAN_PLUS_PLUS, MATS)
