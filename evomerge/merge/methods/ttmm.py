"""Weights from similarities: the static part of test-time model merging."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge import standard as p
from evomerge.merge.method import Block, Method, Parameter, Values
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.aggregate import weighted_sum

SIMILARITY = Parameter(
    "similarity",
    0.0,
    low=-1.0,
    high=1.0,
    per_source=True,
    legal=(-1.0, 1.0),
    text="cosine of the task and the source's training data",
)
BETA = Parameter(
    "beta",
    0.2,
    low=0.05,
    high=1.0,
    scale="log",
    legal=(1e-3, 1e3),
    text="width of the kernel: w ∝ exp(−(1 − similarity)/β²)",
)
TAU = Parameter(
    "tau", 0.01, low=0.0, high=0.2, legal=(0.0, 1.0), text="sources whose share is not above this are dropped"
)
MOST = Parameter(
    "most",
    50.0,
    low=1.0,
    high=50.0,
    legal=(1.0, 1e6),
    whole=True,
    text="most sources that are merged, the nearest ones",
)


def kernel_shares(similarities: Mapping[str, float], beta: float, tau: float, most: int) -> dict[str, float]:
    """exp(−(1 − s)/β²) normalised; shares above τ, the largest `most` of them (ties by name), normalised again.

    Returns:
        source → share, 0 where it was dropped; all 0 where no share is above τ: the base is left as it is.

    Source: Bertolissi et al. 2025, Local Mixtures of Experts: Essentially Free Test-Time Training via Model Merging,
    arXiv:2505.14136, sparse cross-attention.
    """
    nearest = max(similarities.values())  # a common factor, so that exp does not underflow for all
    kernel = {source: math.exp((s - nearest) / beta**2) for source, s in similarities.items()}
    total = sum(kernel.values())
    kept = sorted((s for s in kernel if kernel[s] / total > tau), key=lambda s: (-kernel[s], s))[:most]
    left = sum(kernel[s] for s in kept)
    return {source: kernel[source] / left if source in kept else 0.0 for source in similarities}


def _shares(shared: Values, per_source: Mapping[str, Values]) -> dict[str, float]:
    similarities = {source: weights.number(values, "similarity") for source, values in per_source.items()}
    beta, tau, most = (weights.number(shared, name) for name in ("beta", "tau", "most"))
    return kernel_shares(similarities, beta, tau, round(most))


def _merge(block: Block) -> Tensor:
    """θ0 + λ Σ w δ."""
    scale = weights.number(block.shared, "lambda")
    shares = {source: scale * w for source, w in _shares(block.shared, block.per_source).items()}
    return weighted_sum(block.deltas, shares, like=block.base).add_(block.base)


# The authors' code falls back to the base without a word; a recipe that merges nothing is a mistake here.
def _check(shared: Values, per_source: Mapping[str, Values]) -> None:
    if not any(_shares(shared, per_source).values()):
        raise InvalidInputError("tau", shared["tau"], "less than the nearest source's share: no source is left")


TTMM = Method(
    name="ttmm",
    title="Test-time model merging (static part)",
    paper=(
        "Bertolissi et al. 2025, Local Mixtures of Experts: Essentially Free Test-Time Training via Model Merging, "
        "arXiv:2505.14136"
    ),
    merge=_merge,
    parameters=(SIMILARITY, BETA, TAU, MOST, p.LAMBDA),
    check=_check,
)

METHODS = (TTMM,)
