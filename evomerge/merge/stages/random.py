"""Stages that drop entries at random. They make up for what they drop themselves: only they know the probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge import standard as p
from evomerge.merge.method import Parameter, Values
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.rescale import NORMS, inverse, matching
from evomerge.merge.primitives.sparsify import (
    bernoulli,
    bernoulli_of,
    drop,
    mask_key,
    probabilities_by_rank,
    resolved,
)
from evomerge.merge.stage import Stage, State, States, by_scope
from evomerge.merge.workspace import tensors

Dropping = Callable[[State, str, Tensor], Tensor]
"""State, source, δ → δ where it is kept and 0 elsewhere; not rescaled by a norm."""


def _bernoulli(state: State, source: str, delta: Tensor) -> Tensor:
    density = weights.number(state.of(source), "density")
    if resolved(density) == 0:
        return torch.zeros_like(delta)
    mask = bernoulli(_key(state, source), density, state.block.offset, delta.numel(), delta.device)
    kept = drop(delta, mask.view(delta.shape))
    return kept.mul_(inverse(resolved(density))) if state.shared["rescale"] == "inverse" else kept


def _magprune(state: State, source: str, delta: Tensor) -> Tensor:
    density, epsilon = (weights.number(state.of(source), name) for name in ("density", "epsilon"))
    if density in (0, 1) or not delta.numel():
        return delta * density
    whole = state.shared["scope"] == "tensor" or delta.dim() < 2
    rows = delta.reshape(1, -1) if whole else delta.reshape(len(delta), -1)
    probabilities = probabilities_by_rank(rows, density, epsilon)
    kept = rows * bernoulli_of(_key(state, source), probabilities, state.block.offset)
    if state.shared["rescale"] == "inverse":
        kept.div_(probabilities.float())
    return kept.view(delta.shape)


def _key(state: State, source: str) -> int:
    return mask_key(state.block.seed, source, state.block.name)


def _measure(dropping: Dropping) -> Callable[[States], Mapping[str, float]]:
    def pairs(states: States) -> Iterator[tuple[str, Tensor, Tensor]]:
        for state in states():
            for source, delta in state.deltas.items():
                yield source, delta, dropping(state, source, delta)

    def measure(states: States) -> Mapping[str, float]:
        return matching(str(next(iter(states())).shared["rescale"]), pairs(states))

    return measure


def _apply(dropping: Dropping) -> Callable[[State], State]:
    def apply(state: State) -> State:
        return state.each(lambda source, x: _scaled(dropping(state, source, x), state.measured.get(source, 1.0)))

    return apply


def _scaled(kept: Tensor, factor: float) -> Tensor:
    return kept if factor == 1 else kept * factor


def _check_window(shared: Values, per_source: Mapping[str, Values]) -> None:
    for source, values in per_source.items():
        density, epsilon = (weights.number(values, name) for name in ("density", "epsilon"))
        if density not in (0, 1) and not 0 < density - epsilon <= density + epsilon < 1:
            allowed = f"less than {min(density, 1 - density):g}, so that density ± epsilon lies inside (0, 1)"
            raise InvalidInputError(f"epsilon of source {source!r} at density {density:g}", epsilon, allowed)


def _by_norm(shared: Values) -> bool:
    return shared["rescale"] in NORMS


BERNOULLI = Stage(
    name="bernoulli",
    kind="sparsify",
    text="keep every entry with the same probability",
    apply=_apply(_bernoulli),
    parameters=(p.density(0.2, low=0.05), p.RESCALE),
    measure=_measure(_bernoulli),
    measures=by_scope,
    needed=_by_norm,
    stochastic=True,
)
MAGPRUNE = Stage(
    name="magprune",
    kind="sparsify",
    text="keep entries at random, large ones more often: the probability rises with the rank in the row",
    apply=_apply(_magprune),
    parameters=(
        p.density(0.2, low=0.05),
        Parameter(
            "epsilon",
            0.07,
            low=0.005,
            high=0.3,
            per_source=True,
            legal=(0.0, 0.5),
            text="how far the probability to be kept moves from the density for the smallest and the largest entry",
        ),
        p.RESCALE,
        Parameter("scope", "row", choices=("row", "tensor"), text="rank entries in their row, or in the whole tensor"),
    ),
    grain="tensor",
    rowwise=lambda shared: shared["scope"] == "row",
    measure=_measure(_magprune),
    measures=by_scope,
    needed=_by_norm,
    stochastic=True,
    cost="sort",
    check=_check_window,
    workspace=tensors(10, a_source=1),
)

STAGES = (BERNOULLI, MAGPRUNE)
