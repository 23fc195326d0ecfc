"""Which chains of stages there are compiled loops for, and with what numbers. Pure.

Chains that sparsify task vectors in one of four ways, may rescale them by a number, weigh them, and add them up with or
without an election of signs: TIES, DARE, DELLA, Model Breadcrumbs and what users make of the same stages. Combinations
of whole tensors say for themselves what they are (`evomerge.merge.method.Combination`). Everything else, and every
parameter that is not listed here, takes the torch path.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from evomerge.merge.method import Method, Values
from evomerge.merge.plan import Plan, TensorJob
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.measure import count_kept, first_kept, last_kept
from evomerge.merge.primitives.rescale import NORMS, inverse
from evomerge.merge.primitives.sparsify import resolved

Rank = Callable[[int], int]
"""Number of entries → the rank from above of a magnitude; 0: infinity."""


@dataclass(frozen=True, slots=True)
class Vote:
    """What one source adds.

    Attributes:
        keeps: all entries, those of magnitudes from `low` to `high`, or at random: with the probability `density`, or
            with one that rises by rank in the row from density − epsilon to density + epsilon.
        inverse: whether what is kept by rank is divided by its probability.
        factor, weight: what is kept is multiplied by, one after the other.
    """

    keeps: Literal["all", "band", "drawn", "ranked"]
    low: float = 0.0
    high: float = math.inf
    density: float = 1.0
    epsilon: float = 0.0
    inverse: bool = False
    factor: float = 1.0
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Form:
    """One tensor's merge: θ0 + λ·Σ votes.

    Attributes:
        votes: of the sources that take part, in order.
        elects: whether votes count only where they have the elected sign.
        divide: source → what it adds to the divisor where it agrees; None: nothing is divided.
        tie: the sign of even votes.
        scale: λ.
    """

    votes: Mapping[str, Vote]
    elects: bool = False
    divide: Mapping[str, float] | None = None
    tie: float = 1.0
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Chain:
    """A method's stages, by their numbers; None where it has none of the kind.

    Attributes:
        keep: name of the first stage, which sparsifies.
        rescale: of the stage that makes up for what was dropped; sparsifiers at random do that themselves.
    """

    keep: str | None
    rescale: int | None
    elect: int | None
    scaled: bool

    def norms(self, shared: Values) -> bool:
        """Whether a norm has to be measured."""
        rescales = self.rescale is not None or self.keep in _RANDOM
        return rescales and shared["rescale"] in NORMS

    def majority(self, shared: Values) -> bool:
        """Whether the sign of even votes has to be measured."""
        return self.elect is not None and shared["sign_ties"] == "majority"

    def untrimmed(self, per_source: Mapping[str, Values]) -> dict[str, float]:
        """The thresholds that are 0 without a measurement, by the names under which the chain keeps them."""
        whole = (source for source, values in per_source.items() if self.keep == "trim" and values["density"] == 1)
        return {f"0:{source}": 0.0 for source in whole}

    def ranks(self, per_source: Mapping[str, Values]) -> dict[str, tuple[str, Rank]]:
        """The thresholds to be measured: the name under which the chain keeps each → source and rank."""
        found: dict[str, tuple[str, Rank]] = {}
        for source, values in per_source.items() if self.keep in _THRESHOLDS else ():
            density = weights.number(values, "density")
            if density < 1 and self.keep == "trim":
                found[f"0:{source}"] = source, partial(count_kept, density)
            elif density < 1:
                found |= _edges(source, density, weights.number(values, "gamma"))
        return found

    @property
    def tie(self) -> str:
        """The name under which the chain keeps the sign of even votes."""
        return f"{self.elect}:tie sign"


_THRESHOLDS, _RANDOM = ("trim", "band"), ("bernoulli", "magprune")
_LEAST = 2.0**-30
"""Probabilities nearer to 0 and 1 may be rounded to them."""


def chain_of(method: Method) -> Chain | None:
    """A method's stages; None where there are others than the loops know."""
    names = list(method.stages)
    keep = names[0] if names and names[0] in (*_THRESHOLDS, *_RANDOM) else None
    at = 0 if keep is None else 1
    rescale = at if keep in _THRESHOLDS and names[at : at + 1] == ["rescale"] else None
    at += rescale is not None
    elect = at + 1 if names[at + 1 : at + 3] == ["elect", "disjoint_mean"] else None
    rest = names[at + 3 if elect is not None else at + 2 :]
    if names[at : at + 1] != ["weigh"] or (elect is None and names[at + 1 : at + 2] != ["sum"]):
        return None
    return Chain(keep, rescale, elect, bool(rest)) if rest in ([], ["scale"]) else None


def form_of(plan: Plan, job: TensorJob, measured: Mapping[str, float]) -> Form | None:
    """The form of a job's merge; None where there is no loop for it."""
    chain = chain_of(plan.method)
    if chain is None or not job.changed:
        return None
    votes = {source: _vote(chain, job, source, measured) for source in job.changed}
    known = {source: vote for source, vote in votes.items() if vote is not None}
    if len(known) < len(votes):
        return None
    scale = weights.number(job.shared, "lambda") if chain.scaled else 1.0
    if chain.elect is None:
        w = weights.of_sources(job.per_source)
        return None if job.shared["normalize"] and sum(w.values()) != 1 else Form(known, scale=scale)
    return _elected(job, known, measured.get(chain.tie, 1.0), scale)


def _elected(job: TensorJob, votes: Mapping[str, Vote], tie: float, scale: float) -> Form | None:
    if job.shared["election"] != "mass":
        return None
    signed = job.shared["divisor"] == "signed"
    divide = {source: vote.weight if signed else abs(vote.weight) for source, vote in votes.items()}
    return Form(votes, True, divide if job.shared["normalize"] else None, tie, scale)


def _vote(chain: Chain, job: TensorJob, source: str, measured: Mapping[str, float]) -> Vote | None:
    values, found = job.per_source[source], Vote("all", weight=weights.number(job.per_source[source], "weight"))
    if chain.keep is None:
        return found
    density = weights.number(values, "density")
    match chain.keep:
        case "trim":
            if f"0:{source}" not in measured:
                return None
            found = replace(found, keeps="band", low=measured[f"0:{source}"])
        case "band":
            if density < 1 and f"0:low {source}" not in measured:
                return None
            low, high = measured.get(f"0:low {source}", 0.0), measured.get(f"0:high {source}", math.inf)
            found = replace(found, keeps="band", low=low, high=high)
        case "bernoulli":
            density = resolved(density)
            found = replace(found, keeps="drawn" if density < 1 else "all", density=density)
        case _:
            return _by_rank(job, source, density, replace(found, factor=measured.get(f"0:{source}", 1.0)))
    number = chain.rescale if chain.rescale is not None else 0
    factor = 1.0
    if (chain.rescale is not None or chain.keep == "bernoulli") and job.shared["rescale"] != "none":
        factor = inverse(density) if job.shared["rescale"] == "inverse" else measured.get(f"{number}:{source}", 1.0)
    return replace(found, factor=factor)


def _by_rank(job: TensorJob, source: str, density: float, found: Vote) -> Vote | None:
    if density in (0, 1):
        return replace(found, keeps="all") if density else replace(found, keeps="band", low=math.inf)
    epsilon = weights.number(job.per_source[source], "epsilon")
    if (
        job.transposed
        or job.shared["scope"] != "row"
        or not _LEAST <= density - epsilon <= density + epsilon <= 1 - _LEAST
    ):
        return None
    inverse_ = job.shared["rescale"] == "inverse"
    return replace(found, keeps="ranked", density=density, epsilon=epsilon, inverse=inverse_)


def _edges(source: str, density: float, gamma: float) -> dict[str, tuple[str, Rank]]:
    """The smallest magnitude that a band keeps, and where it drops any at the top, the largest."""
    found: dict[str, tuple[str, Rank]] = {f"0:low {source}": (source, partial(last_kept, density, gamma))}
    if gamma > 0:
        found[f"0:high {source}"] = source, partial(first_kept, density, gamma)
    return found
