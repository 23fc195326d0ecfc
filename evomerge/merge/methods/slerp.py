"""Spherical interpolation of two models.

With one source the two are the base and the source; with two they are the sources in the order of their names (a
recipe's digest does not depend on the order in which sources are written, so its weights must not either).
"""

from __future__ import annotations

from collections.abc import Mapping

from evomerge.merge.combined import measuring, merging, scope
from evomerge.merge.method import Asked, Combination, Method, Parameter
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.aggregate import slerp_weights
from evomerge.merge.primitives.gram import Floats


def _on_the_arc(asked: Asked, products: Floats) -> Mapping[str, float]:
    t = weights.number(asked.shared, "t")
    pair = slerp_weights(t, products[0, 0], products[1, 1], products[0, 1]) or (1 - t, t)
    return dict(zip(_ARC.vectors(asked), pair, strict=True))


_ARC = Combination(
    _on_the_arc,
    measured=lambda shared: True,
    origin=lambda shared: "zero",
    how=lambda shared: "combination",
    two_ends=True,
)
SLERP = Method(
    name="slerp",
    title="SLERP",
    paper="Shoemake 1985, Animating Rotation with Quaternion Curves, doi:10.1145/325165.325242",
    merge=merging(_ARC),
    parameters=(
        Parameter(
            "t", 0.5, low=0.0, high=1.0, legal=(0.0, 1.0), text="position on the arc from the first to the second"
        ),
    ),
    domain="weights",
    num_sources=(1, 2),
    baseless=lambda num_sources, shared: num_sources == 2,
    measure=measuring(_ARC),
    measures=scope(_ARC),
    combination=_ARC,
)

METHODS = (SLERP,)
