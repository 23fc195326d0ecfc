"""Scales of a path as factors of tensors, so that the merged model needs no code of its own.

A pre-norm layer is B(h) = h + f(norm(h)), and an RMSNorm does not see a scale: norm(c·h) = sign(c)·norm(h), up to its
epsilon. With `stream` semantics hop t is h ← B_t(s_t·h). Let C_t = s_1 · … · s_t and ĥ = h / C_t; then

    ĥ ← ĥ + f_t(sign(C_t)·norm(ĥ)) / C_t,

an ordinary layer whose outputs are divided by C_t and, where C_t is negative, whose norms are negated. The final norm
takes C_T away. s_0 multiplies the embedding: that is exact, whereas the embedding is small and a norm's epsilon would
be seen there. With `delta` semantics s_t multiplies what the MLP of hop t − 1 adds, so it is a factor of that MLP's
last matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evomerge.models.family import Flow
from evomerge.recipe.path import LayerPath

Factors = Mapping[str, float]
"""Role → what its tensors, weight and bias alike, are multiplied by; roles without an entry stay as they are."""


@dataclass(frozen=True, slots=True)
class Fold:
    """All factors of a path.

    Attributes:
        outside: of the host's tensors.
        hops: of each hop's layer.
    """

    outside: Factors
    hops: tuple[Factors, ...]

    @property
    def unties(self) -> bool:
        """Whether the embedding changes, so that a head that was tied to it cannot be any longer."""
        return "embedding" in self.outside


def fold(path: LayerPath, flow: Flow) -> Fold:
    """The factors that make an ordinary model of a path.

    Args:
        flow: how the family's layers are tied to the residual stream.
    """
    hops = _stream(path, flow) if path.semantics == "stream" else _delta(path, flow)
    outside = {"embedding": path.layers[0].scale}
    if path.semantics == "stream" and path.cumulative[-1] < 0:
        outside["norm.final"] = -1.0
    return Fold(_only_factors(outside), tuple(map(_only_factors, hops)))


def _stream(path: LayerPath, flow: Flow) -> list[dict[str, float]]:
    writers = (*flow.attention, *flow.mlp)
    return [
        dict.fromkeys(writers, 1.0 / reached) | dict.fromkeys(flow.norms if reached < 0 else (), -1.0)
        for reached in path.cumulative
    ]


def _delta(path: LayerPath, flow: Flow) -> list[dict[str, float]]:
    following = [*(hop.scale for hop in path.layers[1:]), 1.0]
    return [dict.fromkeys(flow.mlp, scale) for scale in following]


def _only_factors(factors: Factors) -> Factors:
    return {role: factor for role, factor in factors.items() if factor != 1}
