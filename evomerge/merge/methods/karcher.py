"""Means of several models on the sphere: Karcher's mean, and the normalised mean direction (Multi-SLERP)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from evomerge.errors import InvalidInputError
from evomerge.merge import standard as p
from evomerge.merge.combined import measuring, merging, scope
from evomerge.merge.method import Asked, Combination, Method, Parameter, Values
from evomerge.merge.primitives import sphere, weights
from evomerge.merge.primitives.gram import Floats

ORIGIN = Parameter(
    "origin",
    "zero",
    choices=("zero", "base"),
    text="the sphere's centre: 0 (the models' own weights), or the base (their task vectors)",
)


def _karcher(asked: Asked, gram: Floats) -> Mapping[str, float]:
    w = weights.normalised(weights.of_sources(asked.per_source))
    steps, tol = int(weights.number(asked.shared, "max_iter")), weights.number(asked.shared, "tol")
    if len(w) == 1:
        return w
    found = sphere.karcher(gram, np.array(list(w.values())), steps, tol)
    return dict(zip(w, found.tolist(), strict=True))


def _multislerp(asked: Asked, gram: Floats) -> Mapping[str, float]:
    w = weights.of_sources(asked.per_source)
    if asked.shared["normalize_weights"]:
        w = weights.normalised(w)
    if len(w) == 1:
        return dict.fromkeys(w, 1.0)
    found = sphere.normalised_mean(gram, np.array(list(w.values())), weights.number(asked.shared, "eps"))
    if found is None and len(w) > 2:
        raise InvalidInputError("weight", w, f"weights under which the directions of {asked.name} do not cancel")
    return w if found is None else dict(zip(w, found.tolist(), strict=True))


def _check_karcher(shared: Values, per_source: Mapping[str, Values]) -> None:
    weights.check_sum(weights.of_sources(per_source))


def _check_multislerp(shared: Values, per_source: Mapping[str, Values]) -> None:
    if shared["normalize_weights"]:
        weights.check_sum(weights.of_sources(per_source))


_MEAN = Combination(
    _karcher, measured=lambda shared: True, origin=lambda shared: "zero", how=lambda shared: "combination"
)
_DIRECTION = Combination(
    _multislerp,
    measured=lambda shared: True,
    origin=lambda shared: "base" if shared["origin"] == "base" else "zero",
    how=lambda shared: "combination",
)
KARCHER = Method(
    name="karcher",
    title="Karcher mean",
    paper="Karcher 1977, Riemannian Center of Mass and Mollifier Smoothing, doi:10.1002/cpa.3160300502; "
    "of models as in mergekit, arXiv:2403.13257",
    merge=merging(_MEAN),
    parameters=(
        Parameter(
            "weight", 1.0, low=0.0, high=1.5, per_source=True, legal=(0.0, float("inf")), text="pull of a source"
        ),
        Parameter(
            "max_iter", 10.0, low=1.0, high=20.0, legal=(0.0, 1000.0), whole=True, text="most steps of the iteration"
        ),
        Parameter(
            "tol", 1e-5, low=1e-8, high=1e-3, scale="log", legal=(0.0, 1.0), text="a step so short ends the iteration"
        ),
    ),
    domain="weights",
    measure=measuring(_MEAN),
    measures=scope(_MEAN),
    combination=_MEAN,
    check=_check_karcher,
    baseless=lambda num_sources, shared: True,
)
MULTISLERP = Method(
    name="multislerp",
    title="Multi-SLERP",
    paper="Goddard 2025, Multi-SLERP, https://goddard.blog/posts/multislerp-wow-what-a-cool-idea",
    merge=merging(_DIRECTION),
    parameters=(
        p.weight(),
        Parameter("normalize_weights", True, text="divide the weights by their sum"),
        ORIGIN,
        Parameter(
            "eps",
            1e-8,
            low=1e-10,
            high=1e-4,
            scale="log",
            legal=(0.0, 1.0),
            text="length of the mean direction below which directions count as cancelled",
        ),
    ),
    domain="weights",
    measure=measuring(_DIRECTION),
    measures=scope(_DIRECTION),
    combination=_DIRECTION,
    check=_check_multislerp,
    baseless=lambda num_sources, shared: shared["origin"] == "zero",
    keeps_base=lambda shared: bool(shared["normalize_weights"]) or shared["origin"] == "base",
)

METHODS = (KARCHER, MULTISLERP)
