"""Stages that weigh task vectors by numbers that people give: losses, metrics, purposes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from evomerge.errors import InvalidInputError
from evomerge.merge.method import Parameter
from evomerge.merge.primitives import shares, weights
from evomerge.merge.stage import Stage, State

BETWEEN = "\x1f"
"""Stands between the parts of a measurement's name."""

LOSS = Parameter(
    "loss", 0.0, low=0.0, high=10.0, per_source=True, text="the source's loss on examples of what is wanted"
)
LOSS_TEMPERATURE = Parameter(
    "temperature",
    1.0,
    low=0.1,
    high=10.0,
    scale="log",
    legal=(1e-12, math.inf),
    text="of the softmax: small ones favour the best",
)
PREFER = Parameter(
    "prefer",
    "low",
    choices=("low", "high"),
    text="which losses weigh most: low ones (LM-Cocktail), or high ones (where the base knows little)",
)
METRIC = Parameter(
    "metric",
    1.0,
    low=0.0,
    high=1.0,
    per_source=True,
    legal=(0.0, math.inf),
    text="how good the source is: a score, one over its loss, its training step",
)
PENALTY = Parameter("penalty", 1.0, low=0.0, high=4.0, text="power of the metric; 0 weighs all alike")
PURPOSE = Parameter(
    "purpose",
    "domain",
    choices=("domain", "instruct"),
    per_source=True,
    text="what a source has learnt: a domain, or to follow instructions",
)
DOMAIN_SCALE = Parameter(
    "domain_scale", 1.0, low=0.0, high=1.2, text="how much of what the domain's sources have learnt is taken"
)
INSTRUCT_SCALE = Parameter("instruct_scale", 1.0, low=0.3, high=1.3, text="how much of the instruction vector is taken")


def weighed(state: State, share: Mapping[str, float]) -> State:
    """δ ← w·δ; means that divide by weights divide by these too."""
    kept = {source: w * share.get(source, 0.0) for source, w in state.weights.items()}
    return replace(state.each(lambda source, delta: delta * share[source]), weights=kept)


def number_of(state: State, key: str, parameter: str) -> float:
    """A measurement that is there unless the tensors of the model disagree on what to measure.

    Raises:
        InvalidInputError: they do; names the parameter.
    """
    if key not in state.measured:
        raise InvalidInputError(parameter, state.shared[parameter], f"one {parameter} for the whole model")
    return state.measured[key]


def _by_loss(state: State) -> State:
    """w = softmax(−loss/T), or softmax(loss/T)."""
    sign = -1.0 if state.shared["prefer"] == "low" else 1.0
    losses = {s: sign * weights.number(v, "loss") for s, v in state.block.per_source.items()}
    return weighed(state, shares.softmax(losses, weights.number(state.shared, "temperature")))


def _by_metric(state: State) -> State:
    """w = metric^p / Σ metric^p."""
    metrics = {s: weights.number(v, "metric") for s, v in state.block.per_source.items()}
    return weighed(state, shares.powers(metrics, weights.number(state.shared, "penalty")))


def _by_purpose(state: State) -> State:
    """δ ← α·δ for domains, β·δ for instruction vectors."""
    scale = {s: weights.number(state.shared, f"{v['purpose']}_scale") for s, v in state.block.per_source.items()}
    return weighed(state, scale)


LOSSES = Stage(
    "losses",
    "weight",
    "weigh task vectors by the softmax of their sources' losses",
    _by_loss,
    (LOSS, LOSS_TEMPERATURE, PREFER),
)
METRICS = Stage(
    "metrics", "weight", "weigh task vectors by a power of their sources' metrics", _by_metric, (METRIC, PENALTY)
)
PURPOSES = Stage(
    "purposes",
    "weight",
    "scale task vectors by what their sources have learnt",
    _by_purpose,
    (PURPOSE, DOMAIN_SCALE, INSTRUCT_SCALE),
)

STAGES = (LOSSES, METRICS, PURPOSES)
