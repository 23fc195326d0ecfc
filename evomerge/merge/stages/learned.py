"""Stages that add up task vectors under coefficients that were learned over items, and what decides the learning."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from evomerge.merge import standard as p
from evomerge.merge.calibration.entries import needed
from evomerge.merge.calibration.kinds import ADAPTIVE, ALL, CHUNKS, CONVEX, GATES, MASK, SOFT, WEIGHTS
from evomerge.merge.method import Block, Parameter
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.aggregate import sum_of, weighted_sum
from evomerge.merge.primitives.chunks import per_entry
from evomerge.merge.stage import Stage, State


def start(default: float) -> Parameter:
    """Where a coefficient in [0, 1] begins."""
    text = "coefficient that learning starts from"
    return replace(p.weight(default), low=0.0, high=1.0, legal=(0.0, 1.0), text=text)


def steps(default: float) -> Parameter:
    """How long it is learned."""
    return Parameter(
        "steps",
        default,
        low=min(10.0, default),
        high=2000.0,
        scale="log",
        legal=(0.0, 1e6),
        whole=True,
        text="steps of learning",
    )


def rate(default: float) -> Parameter:
    """How fast."""
    return Parameter("learning_rate", default, low=default / 10, high=default * 10, scale="log", legal=(0.0, 1e3),
                     text="learning rate of Adam")  # fmt: skip


def batch(default: float) -> Parameter:
    """From how much a step learns."""
    return Parameter("batch", default, low=1.0, high=16.0, scale="log", legal=(1.0, 1e6), whole=True,
                     text="items of every source that a step looks at")  # fmt: skip


def loss(default: str) -> Parameter:
    """What is made small."""
    return Parameter("loss", default, choices=("entropy", "kl", "squares", "likelihood"),
                     text="what is made small: entropy of the predictions; KL divergence or squared difference of "
                     "logits from each expert on its items; negative log-likelihood of the items")  # fmt: skip


def temperature(default: float) -> Parameter:
    """How soft targets are."""
    return Parameter("temperature", default, low=0.5, high=4.0, scale="log", legal=(1e-3, 1e3),
                     text="divides logits before merged model and expert are compared (T)")  # fmt: skip


def decay(default: float) -> Parameter:
    """Decoupled weight decay of the raw coefficients."""
    return Parameter("decay", default, low=1e-4, high=0.1, scale="log", legal=(0.0, 1.0),
                     text="weight decay of the raw coefficients")  # fmt: skip


def similarity(default: float, text: str) -> Parameter:
    """How much sources' coefficients must differ."""
    return Parameter("similarity", default, low=1e-3, high=0.1, scale="log", legal=(0.0, 1e6), text=text)


def _coefficient(state: State, source: str, kind: str) -> Tensor:
    return needed(state.block.statistics, source, kind)


def _weighted(state: State) -> State:
    """Σ λ δ."""
    shares = {s: float(_coefficient(state, s, WEIGHTS)) for s in state.deltas}
    return state.with_merged(weighted_sum(state.deltas, shares, like=state.zeros))


def _chunked(state: State) -> State:
    """Σ c δ, c of the chunk that an entry lies in; nothing for tensors that are left out."""
    if state.block.kind != "matrix" or not state.deltas:
        return state.with_merged(state.zeros)
    begin, size = state.block.offset, state.block.base.numel()
    parts = []
    for source, delta in state.deltas.items():
        spread = per_entry(_coefficient(state, source, CHUNKS), _size(state.block), begin, begin + size)
        parts.append(delta * spread.view_as(delta))
    return state.with_merged(sum_of(parts))


def _size(block: Block) -> int:
    """Entries of the whole tensor."""
    return int(torch.Size(block.shape).numel())


def _gated(state: State) -> State:
    """Σ c ⊙ δ, c a number a column."""
    if not state.deltas:
        return state.with_merged(state.zeros)
    return state.with_merged(sum_of([delta * _coefficient(state, s, GATES) for s, delta in state.deltas.items()]))


def _soft(state: State) -> State:
    """Σ c δ."""
    shares = {s: float(_coefficient(state, s, SOFT)) for s in state.deltas}
    return state.with_merged(weighted_sum(state.deltas, shares, like=state.zeros))


def _masked(state: State, kind: str = MASK) -> State:
    """m ⊙ Σ λ δ."""
    shares = {s: float(_coefficient(state, s, kind)) for s in state.deltas}
    merged = weighted_sum(state.deltas, shares, like=state.zeros)
    return state.with_merged(merged.mul_(_coefficient(state, ALL, kind)) if state.deltas else merged)


def _adaptive(state: State) -> State:
    """m ⊙ Σ λ δ, both learned."""
    return _masked(state, ADAPTIVE)


def _convex(state: State) -> State:
    """Σ w θ + (1 − Σ w) (θ0 + Σ start · δ) less θ0, of weights w ≥ 0 with Σ w ≤ 1."""
    own = weights.of_sources(state.block.per_source)
    found = {s: float(_coefficient(state, s, CONVEX)) for s in own} if state.deltas else {}
    left = 1 - sum(found.values())
    shares = {s: w + left * own[s] for s, w in found.items()}
    return state.with_merged(weighted_sum(state.deltas, shares, like=state.zeros))


LEARNED_SUM = Stage(
    "learned_sum",
    "aggregate",
    "add up, with coefficients in [0, 1] that are learned for every tensor",
    _weighted,
    (
        start(0.3), steps(500.0), rate(1e-3), batch(16.0), loss("entropy"), temperature(1.0),
        Parameter("granularity", "tensor", choices=("tensor", "source"),
                  text="a coefficient for each source and tensor, or for each source"),
    ),
    requires=frozenset({WEIGHTS}),
    cost="training",
)  # fmt: skip
CHUNKED_SUM = Stage(
    "chunked_sum",
    "aggregate",
    "add up, with coefficients in (0, 1) that are learned for every chunk of a matrix; other tensors stay the base's",
    _chunked,
    (
        replace(start(0.1), low=0.01, high=0.9, legal=(1e-3, 0.999)),
        steps(5.0), rate(0.5), batch(1.0), temperature(1.0), decay(0.01),
        Parameter("chunks", 1.0, low=1.0, high=16.0, scale="log", legal=(1.0, 1e6), whole=True,
                  text="parts of a tensor with a coefficient each; rules may give some tensors more"),
        Parameter("hidden", 1.0, low=0.1, high=10.0, scale="log", legal=(0.0, 1e6),
                  text="how much hidden states count beside logits"),
        Parameter("regularisation", 5.0, low=0.1, high=10.0, scale="log", legal=(0.0, 1e6),
                  text="how dear it is to leave the start: times the mean distance from it"),
    ),
    requires=frozenset({CHUNKS}),
    cost="training",
)  # fmt: skip
GATED_SUM = Stage(
    "gated_sum",
    "aggregate",
    "add up, with coefficients that are learned for every column",
    _gated,
    (
        replace(p.weight(1.0), text="coefficient that learning starts from"),
        steps(100.0), rate(0.01), batch(1.0), loss("squares"), temperature(1.0), decay(1e-4),
        similarity(0.01, "how dear it is that two sources use the same columns: times the mean |c c'|"),
    ),
    grain="tensor",
    requires=frozenset({GATES}),
    cost="training",
)  # fmt: skip
MASKED_SUM = Stage(
    "masked_sum",
    "aggregate",
    "add up under a mask of mean 1 that is learned and that all sources share",
    _masked,
    (
        start(0.3), steps(2000.0), rate(1e-3), batch(16.0), loss("entropy"), temperature(1.0),
        Parameter("softness", 0.5, low=0.1, high=1.0, legal=(1e-2, 1e2), text="temperature of the relaxed mask"),
        Parameter("one_for", "entry", choices=("entry", "row", "column"), text="what a number of the mask belongs to"),
    ),
    grain="tensor",
    requires=frozenset({MASK}),
    cost="training",
)  # fmt: skip
ADAPTIVE_MASKED_SUM = Stage(
    "adaptive_masked_sum",
    "aggregate",
    "add up, with coefficients in [0, 1] that are learned under a mask of mean 1 that all sources share and that was "
    "learned for such coefficients",
    _adaptive,
    (
        start(0.3), steps(1000.0), rate(1e-3), batch(16.0), loss("entropy"), temperature(1.0),
        Parameter("softness", 0.5, low=0.1, high=1.0, legal=(1e-2, 1e2), text="temperature of the relaxed mask"),
        Parameter("one_for", "entry", choices=("entry", "row", "column"), text="what a number of the mask belongs to"),
        Parameter("granularity", "tensor", choices=("tensor", "source"),
                  text="a coefficient for each source and tensor, or for each source"),
        Parameter("inner_rate", 1.0, low=0.01, high=1.0, scale="log", legal=(0.0, 1e3),
                  text="learning rate of the coefficients' one step before each step of the mask"),
        replace(steps(1000.0), name="last_steps", text="steps of the coefficients under the finished mask"),
        replace(rate(1e-3), name="last_rate", text="learning rate of these steps"),
    ),
    grain="tensor",
    requires=frozenset({ADAPTIVE}),
    cost="training",
)  # fmt: skip
SOFT_CONVEX_SUM = Stage(
    "soft_convex_sum",
    "aggregate",
    "add up, with the coefficients of steps of Frank-Wolfe towards several models at a time, each learned",
    _soft,
    (
        replace(steps(10.0), low=3.0, high=50.0),
        replace(batch(100.0), high=300.0),
        loss("likelihood"),
        temperature(1.0),
        Parameter("score", "cosine", choices=("cosine", "inner"),
                  text="what picks a model: cosine of gradient and model (published), or inner product (Frank-Wolfe)"),
        Parameter("granularity", "model", choices=("model", "tensor"),
                  text="pick models for all tensors, or for each"),
        Parameter("picks", 100.0, low=1.0, high=100.0, scale="log", legal=(1.0, 1e6), whole=True,
                  text="most models a step; each source's items pick one"),
        Parameter("first", 0.3, low=0.0, high=1.0, legal=(0.0, 1.0),
                  text="coefficient that the first step's learning starts from"),
        Parameter("later", 1e-8, low=1e-8, high=0.3, scale="log", legal=(0.0, 1.0),
                  text="coefficient that later steps' learning starts from"),
        replace(steps(500.0), name="inner_steps", text="steps of learning coefficients, for each step"),
        rate(1e-3),
        replace(batch(16.0), name="inner_batch", text="items of every source that these look at"),
        replace(loss("entropy"), name="inner_loss", text="what these make small, of the same choices as `loss`"),
    ),
    requires=frozenset({SOFT}),
    cost="training",
)  # fmt: skip
CONVEX_SUM = Stage(
    "convex_sum",
    "aggregate",
    "a convex combination of the models and a start that Frank-Wolfe finds",
    _convex,
    (
        start(0.3),
        replace(steps(10.0), low=3.0, high=50.0),
        replace(batch(100.0), high=300.0),
        loss("likelihood"),
        temperature(1.0),
        Parameter("length", 0.1, low=0.02, high=1.0, scale="log", legal=(0.0, 1.0),
                  text="length of steps, times 2 / (t + 2); at 1 the first leaves the start behind"),
        Parameter("score", "cosine", choices=("cosine", "inner"),
                  text="what picks a model: cosine of gradient and model (published), or inner product (Frank-Wolfe)"),
        Parameter("granularity", "tensor", choices=("tensor", "model"),
                  text="pick a model for each tensor, or one for all"),
    ),
    requires=frozenset({CONVEX}),
    cost="training",
)  # fmt: skip

STAGES = (LEARNED_SUM, CHUNKED_SUM, GATED_SUM, MASKED_SUM, ADAPTIVE_MASKED_SUM, CONVEX_SUM, SOFT_CONVEX_SUM)
