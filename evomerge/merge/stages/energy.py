"""The stage that weighs task vectors by their energy: over the model, a layer, a module, a tensor, or every entry."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from evomerge.merge.method import Block, Parameter, Scope, Values
from evomerge.merge.primitives import shares, weights
from evomerge.merge.primitives.measure import inner
from evomerge.merge.stage import Stage, State, States
from evomerge.merge.stages.weigh import BETWEEN, number_of, weighed

LEVEL = Parameter(
    "level",
    "tensor",
    choices=("model", "layer", "module", "tensor", "element"),
    text="over what a task vector's energy is taken: one weight a source for each of these",
)
POOL = Parameter(
    "pool",
    "entries",
    choices=("entries", "tensors"),
    text="the energy of a unit of several tensors: the mean over its entries, or the sum of its tensors' means "
    "(the authors' code)",
)
NORMALISER = Parameter(
    "normaliser",
    "linear",
    choices=("linear", "softmax"),
    text="energies to weights: divided by their sum, or the softmax of energy / temperature",
)
TEMPERATURE = Parameter(
    "temperature",
    1.0,
    low=0.1,
    high=10.0,
    scale="log",
    legal=(1e-12, math.inf),
    text="of the softmax: small ones favour the largest",
)
EXPONENT = Parameter(
    "exponent",
    1.0,
    low=-1.0,
    high=2.0,
    legal=(-8.0, 8.0),
    text="power of the energy; negative favours sources that changed little",
)


def _unit(block: Block) -> str | None:
    """What shares its weights with this tensor; None where the level gives it no unit (outside the layers)."""
    level = str(block.shared["level"])
    if level == "layer":
        return None if block.layer is None else f"layer {block.layer}"
    if level == "module":
        module = block.role.split(".")[0]
        return f"{block.layer} {module if module in ('attention', 'mlp') else block.role}"
    return level if level == "model" else block.name


def _energies(states: States) -> Mapping[str, float]:
    """Per unit and source the sum of squares (or of means of squares), and per unit the number of entries."""
    found: dict[str, float] = {}
    for state in states():
        unit = _unit(state.block)
        if unit is None or state.shared["level"] == "element":
            continue
        by = math.prod(state.block.shape) if state.shared["pool"] == "tensors" else 1
        found[unit] = found.get(unit, 0.0) + state.size
        for source in state.block.per_source:
            delta = state.deltas.get(source)
            energy = 0.0 if delta is None else inner(delta, delta) / max(by, 1)
            key = f"{unit}{BETWEEN}{source}"
            found[key] = found.get(key, 0.0) + energy
    return found


def _energy_scope(shared: Values) -> Scope:
    level = shared["level"]
    return "nothing" if level == "element" else "tensor" if level == "tensor" else "model"


def _by_energy(state: State) -> State:
    """δ ← w·δ with w = Eδ² ^ q / Σ Eδ² ^ q; equal weights where a source has no energy, as there its model is θ0."""
    if state.shared["level"] == "element":
        return _by_own_energy(state)
    unit = _unit(state.block)
    if unit is None:
        return weighed(state, shares.equal(state.block.per_source))
    entries = 1.0 if state.shared["pool"] == "tensors" else max(number_of(state, unit, "level"), 1.0)
    energies = {
        source: number_of(state, f"{unit}{BETWEEN}{source}", "level") / entries for source in state.block.per_source
    }
    return weighed(state, _shares(energies, state.shared))


def _shares(energies: Mapping[str, float], shared: Values) -> dict[str, float]:
    exponent = weights.number(shared, "exponent")
    if min(energies.values()) == 0:
        return shares.equal(energies)
    if shared["normaliser"] == "linear":
        return shares.powers(energies, exponent)
    scores = {source: energy**exponent for source, energy in energies.items()}
    return shares.softmax(scores, weights.number(shared, "temperature"))


def _by_own_energy(state: State) -> State:
    """The same for every entry by itself; where all δ are 0 nothing is to be weighed.

    A source with δ = 0 at an entry has no say there, as for exponents above 0 the formula has it.
    """
    exponent = weights.number(state.shared, "exponent")
    powers = {s: _power(delta.double().square_(), exponent) for s, delta in state.deltas.items()}
    if state.shared["normaliser"] == "softmax":
        return _by_softmax(state, powers)
    if not powers:
        return state
    top = torch.stack(list(powers.values())).amax(dim=0).clamp_(min=torch.finfo(torch.float64).tiny)
    scaled = {s: x / top for s, x in powers.items()}
    sum_of_all = sum(scaled.values(), torch.zeros_like(top)).clamp_(min=1e-300)
    return state.each(lambda source, delta: (delta * (scaled[source] / sum_of_all)).float())


def _power(energy: Tensor, exponent: float) -> Tensor:
    return torch.where(energy > 0, energy.pow(exponent), 0.0)


def _by_softmax(state: State, powers: Mapping[str, Tensor]) -> State:
    temperature = weights.number(state.shared, "temperature")
    scores = [powers.get(s, state.zeros.double()) / temperature for s in state.block.per_source]
    share = dict(zip(state.block.per_source, torch.stack(scores).softmax(dim=0), strict=True))
    return state.each(lambda source, delta: (delta * share[source]).float())


ENERGY = Stage(
    name="energy",
    kind="weight",
    text="weigh task vectors by their mean square",
    apply=_by_energy,
    parameters=(LEVEL, POOL, NORMALISER, TEMPERATURE, EXPONENT),
    measure=_energies,
    measures=_energy_scope,
)

STAGES = (ENERGY,)
