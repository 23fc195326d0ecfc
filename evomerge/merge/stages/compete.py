"""Stages for task vectors with outliers: clip them, or let the sources' entries compete with weights of their own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge import standard as p
from evomerge.merge.method import Parameter
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.measure import inner, kth_largest, kth_values
from evomerge.merge.primitives.shares import steady
from evomerge.merge.stage import Stage, State, States, by_scope

CLIP = Parameter(
    "clip",
    1e-4,
    low=1e-5,
    high=1e-2,
    scale="log",
    legal=(0.0, 0.49),
    text="share of the largest magnitudes brought down, and of the smallest brought up, to the next",
)
INTER_SCALE = Parameter(
    "inter_scale",
    False,
    text="measure agreement of entries in units of their root mean square, so that scaling all task vectors changes "
    "nothing (ours; the paper's tanh sees raw products)",
)
_TINY = 1e-12
"""Least sum of weights that is divided by, as in the authors' code."""


def _low(source: str) -> str:
    return f"low\x1f{source}"


def _high(source: str) -> str:
    return f"high\x1f{source}"


def _kept_by_low(clip: float, size: int) -> int:
    """The rank from above of the entry at index ⌊clip·d⌋ in ascending order."""
    return size - min(int(size * clip), max(size - 1, 0))


def _kept_by_high(clip: float, size: int) -> int:
    """The same for index ⌊(1 − clip)·d − 1⌋."""
    return size - max(int(size * (1 - clip) - 1), 0)


def _bounds(states: States) -> dict[str, float]:
    """Per source the magnitudes between which its entries are brought."""
    clip = weights.number(next(iter(states())).shared, "clip")
    sources = list(next(iter(states())).block.per_source)

    def rows() -> Iterator[tuple[int, Mapping[str, Tensor | None]]]:
        for state in states():
            _same(state, "clip", weights.number(state.shared, "clip"), clip)
            parts = {s: state.deltas.get(s) for s in sources}
            lows, highs = ({name(s): x for s, x in parts.items()} for name in (_low, _high))
            yield state.size, {**lows, **highs}

    low = {_low(s): partial(_kept_by_low, clip) for s in sources}
    return kth_largest(rows, low | {_high(s): partial(_kept_by_high, clip) for s in sources})


def _same(state: State, name: str, found: object, expected: object) -> None:
    if found != expected:
        raise InvalidInputError(name, found, f"one {name} where it holds for the whole model (elsewhere {expected})")


def _clipped(delta: Tensor, low: float, high: float) -> Tensor:
    """sign(δ) · |δ| brought into [low, high]; 0 stays 0."""
    return delta.abs().clamp_(low, high).mul_(delta.sign())


def _clip_quantiles(state: State) -> State:
    return state.each(lambda s, delta: _clipped(delta, state.measured[_low(s)], state.measured[_high(s)]))


def _scores(state: State, measured: Mapping[str, float]) -> dict[str, Tensor]:
    """β = exp(N · (intra − 1)) · tanh(δ · Σδ), intra = minmax(clipped |δ|)²; for every source, zeros included.

    The paper's β over exp(N), which changes no share and stays finite however many sources there are. In float64,
    rounded once: the same entry has the same score in whatever block it is computed.
    """
    sources = state.block.per_source
    by = 1 / measured["rms"] if measured["rms"] else 1.0
    deltas = {s: state.deltas.get(s, state.zeros).double() for s in sources}
    together = sum(deltas.values(), torch.zeros_like(next(iter(deltas.values())))).mul_(by)
    scores = {}
    for s, delta in deltas.items():
        low, high = measured[_low(s)], measured[_high(s)]
        span = high - low if high > low else math.inf
        intra = delta.abs().clamp_(low, high).sub_(low).div_(span).square_().sub_(1).mul_(len(sources)).exp_()
        scores[s] = intra.mul_(delta.mul(by).mul_(together).tanh_()).float()
    return scores


def _compete_measure(states: States) -> Mapping[str, float]:
    """The bounds of magnitudes, and per source the score from which entries count, and the largest."""
    first = next(iter(states()))
    sources, densities = list(first.block.per_source), _densities(first)
    measured = _bounds(states)
    measured["rms"] = _rms(states) if first.shared["inter_scale"] else 0.0

    def rows() -> Iterator[tuple[int, Mapping[str, Tensor | None]]]:
        for state in states():
            _same(state, "density", _densities(state), densities)
            scores = _scores(state, measured)
            tops = {f"top\x1f{s}": x for s, x in scores.items()}
            yield state.size, {f"cut\x1f{s}": x for s, x in scores.items()} | tops

    cuts = {f"cut\x1f{s}": partial(_kept_by_density, densities[s]) for s in sources}
    return measured | kth_values(rows, cuts | {f"top\x1f{s}": lambda size: 1 for s in sources})


def _kept_by_density(density: float, size: int) -> int:
    """The rank from above of the entry at index ⌊(1 − density)·d⌋ in ascending order."""
    return size - min(int(size * (1 - density)), max(size - 1, 0))


def _densities(state: State) -> dict[str, float]:
    return {source: weights.number(values, "density") for source, values in state.block.per_source.items()}


def _rms(states: States) -> float:
    """Root of the mean square of all entries of all sources."""
    squares, count = 0.0, 0
    for state in states():
        count += state.size * state.num_sources
        squares += math.fsum(inner(delta, delta) for delta in state.deltas.values())
    return steady(math.sqrt(squares / count)) if count else 0.0


def _compete(state: State) -> State:
    """Σ w·v·δ / Σ v, v = minmax(β brought up to its cut): entries below the cut have no say."""
    merged, total = state.zeros, state.zeros
    for s, score in _scores(state, state.measured).items():
        cut, top = state.measured[f"cut\x1f{s}"], state.measured[f"top\x1f{s}"]
        share = score.clamp_(min=cut).sub_(cut).div_(top - cut) if top > cut else torch.zeros_like(score)
        total += share
        if s in state.deltas:
            own = _clipped(state.deltas[s], state.measured[_low(s)], state.measured[_high(s)])
            merged += own.mul_(share).mul_(weights.number(state.of(s), "weight"))
    return state.with_merged(merged.div_(total.clamp_(min=_TINY)))


CLIP_QUANTILES = Stage(
    name="clip_quantiles",
    kind="rescale",
    text="bring the largest magnitudes down and the smallest up to quantiles of all",
    apply=_clip_quantiles,
    parameters=(CLIP, p.SCOPE),
    measure=_bounds,
    measures=by_scope,
    cost="sort",
)
COMPETE = Stage(
    name="compete",
    kind="aggregate",
    text="average with a weight for every entry: how large it is in its source, and how well it agrees with all",
    apply=_compete,
    parameters=(p.density(0.1, low=0.05), p.weight(), CLIP, INTER_SCALE),
    measure=_compete_measure,
    measures=lambda shared: "model",
    cost="sort",
)

STAGES = (CLIP_QUANTILES, COMPETE)
