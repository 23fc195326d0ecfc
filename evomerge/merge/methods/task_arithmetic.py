"""Weighted sums of task vectors."""

from __future__ import annotations

from collections.abc import Mapping

from evomerge.merge import standard as p
from evomerge.merge.combined import merging
from evomerge.merge.method import Block, Combination, Method, Values
from evomerge.merge.primitives import weights
from evomerge.models.factors import Factors, concatenated


def coefficients(shared: Values, per_source: Mapping[str, Values]) -> dict[str, float]:
    """λ·w, or λ·w/Σw with `normalize`."""
    w = weights.of_sources(per_source)
    if shared["normalize"]:
        w = weights.normalised(w)
    scale = weights.number(shared, "lambda")
    return {source: scale * weight for source, weight in w.items()}


_SUM = Combination(
    lambda asked, products: coefficients(asked.shared, asked.per_source),
    measured=lambda shared: False,
    origin=lambda shared: "base",
    how=lambda shared: "weighted_sum",
)


def _combine(block: Block) -> Factors:
    """The same of LoRA adapters: their factors side by side, of the sum of their ranks."""
    scales = coefficients(block.shared, block.per_source)
    present = {source: factors for source, factors in block.factors.items() if factors is not None}
    parts = [factors.scaled(scales[source]) for source, factors in present.items() if scales[source] != 0]
    return concatenated(parts) if parts else next(iter(present.values())).first(0)


def check(shared: Values, per_source: Mapping[str, Values]) -> None:
    """Refuse weights that `normalize` cannot divide by."""
    if shared["normalize"]:
        weights.check_sum(weights.of_sources(per_source))


TASK_ARITHMETIC = Method(
    name="task_arithmetic",
    title="Task arithmetic",
    paper="Ilharco et al. 2023, Editing Models with Task Arithmetic, arXiv:2212.04089",
    merge=merging(_SUM),
    parameters=(p.weight(), p.LAMBDA, p.normalize(False)),
    check=check,
    combine=_combine,
    combination=_SUM,
)

METHODS = (TASK_ARITHMETIC,)
