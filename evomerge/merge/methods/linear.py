"""Weighted averages of whole models."""

from __future__ import annotations

from collections.abc import Mapping

from evomerge.merge import standard as p
from evomerge.merge.combined import merging
from evomerge.merge.method import Asked, Combination, Method, Values
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.gram import Floats


def _weights(asked: Asked, products: Floats) -> Mapping[str, float]:
    """θ = Σ w θk / Σ w, or Σ w θk."""
    w = weights.of_sources(asked.per_source)
    return weights.normalised(w) if asked.shared["normalize"] else w


def _check(shared: Values, per_source: Mapping[str, Values]) -> None:
    if shared["normalize"]:
        weights.check_sum(weights.of_sources(per_source))


_MEAN = Combination(
    _weights,
    measured=lambda shared: False,
    origin=lambda shared: "zero",
    how=lambda shared: "affine" if shared["normalize"] else "weighted_sum",
)
LINEAR = Method(
    name="linear",
    title="Linear (model soup)",
    paper="Wortsman et al. 2022, Model soups, arXiv:2203.05482",
    merge=merging(_MEAN),
    parameters=(p.weight(), p.normalize(True)),
    domain="weights",
    check=_check,
    keeps_base=lambda shared: bool(shared["normalize"]),
    baseless=lambda num_sources, shared: True,
    combination=_MEAN,
)

METHODS = (LINEAR,)
