"""Stages that elect signs and average what agrees."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from evomerge.merge import standard as p
from evomerge.merge.method import Parameter, Values
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.aggregate import agreeing, agreeing_weight, sum_of, weighted_sum
from evomerge.merge.primitives.elect import elect, settle
from evomerge.merge.primitives.gram import Gram
from evomerge.merge.primitives.measure import total
from evomerge.merge.stage import Stage, State, States, by_scope

_TIE = "tie sign"


def _majority(states: States) -> Mapping[str, float]:
    """The sign of the sum of all elected signs, for entries whose votes are even."""
    count = 0
    for state in states():
        if state.deltas:
            signs = elect(list(state.deltas.values()), str(state.shared["election"]))
            count += int(total(signs))  # whole numbers: exact in any order
    return {_TIE: float((count > 0) - (count < 0))}


def _elect(state: State) -> State:
    if not state.deltas:
        return state
    votes = list(state.deltas.values())
    signs = settle(elect(votes, str(state.shared["election"])), state.measured.get(_TIE, 1.0))
    return state.with_deltas({s: x.mul_(signs) for s, x in zip(state.deltas, agreeing(votes, signs), strict=True)})


def _disjoint_mean(state: State) -> State:
    """Σ δ over the entries that are not 0, and with `normalize` over Σ|w| of the same."""
    if not state.deltas:
        return state.with_merged(state.zeros)
    votes = list(state.deltas.values())
    merged = sum_of(votes)
    if state.shared["normalize"]:
        signed = state.shared["divisor"] == "signed"
        merged.div_(agreeing_weight(votes, [state.weights[s] for s in state.deltas], signed=signed))
    return state.with_merged(merged)


def _check_disjoint(shared: Values, per_source: Mapping[str, Values]) -> None:
    if shared["normalize"] and all("weight" in values for values in per_source.values()):
        weights.check_sum(weights.of_sources(per_source), magnitudes=True)


def _energies(states: States) -> Mapping[str, float]:
    """Mean square of every task vector."""
    squares: dict[str, Gram] = {}
    size = 0
    for state in states():
        size += state.size
        for source, delta in state.deltas.items():
            squares.setdefault(source, Gram(1)).add([delta.reshape(-1)])
    return {source: float(gram.products[0, 0]) / max(size, 1) for source, gram in squares.items()}


def _energy_mean(state: State) -> State:
    if not state.deltas:
        return state.with_merged(state.zeros)
    votes = list(state.deltas.values())
    every = shares(state.shared, state.measured, state.num_sources)
    found = {source: every[source] for source in state.deltas}
    signs = settle(elect(votes, "mass"), 1.0)
    kept = agreeing(votes, signs)
    divisor = sum_of([torch.ne(x, 0, out=torch.empty_like(x)).mul_(found[s]) for s, x in zip(found, kept, strict=True)])
    merged = weighted_sum(dict(zip(found, kept, strict=True)), found, like=state.zeros)
    return state.with_merged(merged.mul_(signs).div_(divisor.clamp_(min=LEAST_SHARE)))


LEAST_SHARE = 1e-6
"""What the authors' code divides by where no source, or one of hardly any energy, agrees."""


def shares(shared: Values, energies: Mapping[str, float], num_sources: int) -> dict[str, float]:
    """Each source's part of all energy; equal parts where there is hardly any."""
    whole = sum(energies.values())
    if whole <= weights.number(shared, "energy_floor"):
        return dict.fromkeys(energies, 1 / num_sources)
    return {source: energy / whole for source, energy in energies.items()}


def _counts(states: States) -> Mapping[str, float]:
    """How many of a source's entries other sources change too, over how many no other does (0 where there is none)."""
    shared: dict[str, float] = {}
    unique: dict[str, float] = {}
    for state in states():
        changed, alone = _changed(state)
        for source, mask in changed.items():
            own = total(mask * alone)
            unique[source] = unique.get(source, 0.0) + own
            shared[source] = shared.get(source, 0.0) + total(mask) - own
    return {source: ratio(count, shared[source]) for source, count in unique.items()}


def ratio(alone: float, others: float) -> float:
    """Entries that other sources change too, over those that no other does; 0 where there is none of these."""
    return others / alone if alone else 0.0


def gain(shared: Values, measured: float) -> float:
    """What the entries grow by that a source alone changes."""
    r, alpha = weights.number(shared, "r"), weights.number(shared, "alpha")
    return r * min(max(measured, 0.0), alpha)


def _changed(state: State) -> tuple[dict[str, Tensor], Tensor]:
    """Per source 1 where it changes an entry; 1 where exactly one does."""
    changed = {s: torch.ne(x, 0, out=torch.empty_like(x)) for s, x in state.deltas.items()}
    count = sum_of(list(changed.values())) if changed else state.zeros
    return changed, torch.eq(count, 1, out=torch.empty_like(count))


def _amplify(state: State) -> State:
    _, alone = _changed(state)
    gains = {source: gain(state.shared, state.measured[source]) for source in state.deltas}
    return state.each(lambda source, delta: (alone * gains[source]).add_(1).mul_(delta))


ELECT = Stage(
    name="elect",
    kind="elect",
    text="zero the entries whose sign is not the elected one",
    apply=_elect,
    parameters=(p.ELECTION, p.SIGN_TIES),
    measure=_majority,
    measures=by_scope,
    needed=lambda shared: shared["sign_ties"] == "majority",
)
AMPLIFY = Stage(
    name="amplify",
    kind="weight",
    text="scale up the entries that one source alone changes, the more of the others it shares",
    apply=_amplify,
    parameters=(
        Parameter("r", 0.2, low=0.0, high=0.5, text="strength of the gain: 1 + r · min(shared / unique, alpha)"),
        Parameter("alpha", 1.0, low=0.1, high=2.0, legal=(0.0, float("inf")), text="largest ratio that counts"),
        p.SCOPE,
    ),
    measure=_counts,
    measures=by_scope,
)
DISJOINT_MEAN = Stage(
    name="disjoint_mean",
    kind="aggregate",
    text="average every entry over the sources in which it is not 0",
    apply=_disjoint_mean,
    parameters=(p.normalize(True), p.DIVISOR),
    check=_check_disjoint,
)
ENERGY_MEAN = Stage(
    name="energy_mean",
    kind="aggregate",
    text="weigh sources by their mean square, erase minority signs, average what is left",
    apply=_energy_mean,
    parameters=(
        Parameter(
            "energy_floor",
            0.0,
            low=0.0,
            high=1e-5,
            legal=(0.0, float("inf")),
            text="sum of the mean squares up to which sources count alike (mergekit: 1e-6)",
        ),
    ),
    measure=_energies,
    measures=by_scope,
)

STAGES = (ELECT, AMPLIFY, DISJOINT_MEAN, ENERGY_MEAN)
