"""Weighted averages of whole models."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from evomerge.merge import standard as p
from evomerge.merge.method import Block, Method, Values
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.aggregate import affine, weighted_sum


def _merge(block: Block) -> Tensor:
    """Σ w θ / Σ w, or Σ w θ."""
    w = weights.of_sources(block.per_source)
    models = {source: block.base if model is None else model for source, model in block.models.items()}
    if block.shared["normalize"]:
        return affine(models, weights.normalised(w))
    return weighted_sum(models, w, like=block.base)


def _check(shared: Values, per_source: Mapping[str, Values]) -> None:
    if shared["normalize"]:
        weights.check_sum(weights.of_sources(per_source))


LINEAR = Method(
    name="linear",
    title="Linear (model soup)",
    paper="Wortsman et al. 2022, Model soups, arXiv:2203.05482",
    merge=_merge,
    parameters=(p.weight(), p.normalize(True)),
    domain="weights",
    check=_check,
    keeps_base=lambda shared: bool(shared["normalize"]),
    baseless=lambda num_sources, shared: True,
)

METHODS = (LINEAR,)
