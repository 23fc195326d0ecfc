"""The values that travel between optimizer, search space, workers and archive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

Genome = tuple[float, ...]
"""A point of a search space, every gene in [0, 1]."""


class CandidateState(StrEnum):
    """Where a candidate is on its way."""

    PROPOSED = "proposed"
    RUNNING = "running"
    SCORED = "scored"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Estimate:
    """An objective's value on a whole eval set, predicted from a subset of its items.

    Attributes:
        mean: in the metric's own unit and direction.
        se: standard error of `mean`, same unit; 0 when every item was scored.
        n: number of items that the estimate rests on (its fidelity).
    """

    mean: float
    se: float
    n: int


@dataclass(frozen=True, slots=True)
class Descent:
    """Where a candidate of a lineage comes from: it is a source, or two earlier candidates were crossed.

    A crossing splits every chromosome once. Left of the split the child is SLERP(a, b) at `mix`, right of it at
    1 - `mix` (Abrantes et al. 2025, arXiv:2508.16204, eq. 2); then noise may be added.

    Attributes:
        source: the source's number, in the order of names; None for a crossing.
        parents: trials of a and b.
        splits: for each chromosome the place of its split, of `LineageDomain.units` places; 0: all is right of it.
        mix: t of the left side, in [0, 1].
        noise: standard deviation of normal noise on every weight; 0 for none. Its seed is the proposal's trial.
    """

    source: int | None = None
    parents: tuple[int, int] | None = None
    splits: tuple[int, ...] = ()
    mix: float = 0.0
    noise: float = 0.0

    def dump(self) -> dict[str, Any]:
        """JSON-ready; `load` reads it."""
        parents = None if self.parents is None else list(self.parents)
        return asdict(self) | {"parents": parents, "splits": list(self.splits)}

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> Descent:
        """What `dump` wrote."""
        parents = data["parents"]
        family = None if parents is None else (parents[0], parents[1])
        return cls(data["source"], family, tuple(data["splits"]), data["mix"], data["noise"])


@dataclass(frozen=True, slots=True)
class Proposal:
    """What an optimizer asks to have evaluated.

    Attributes:
        trial: the optimizer's own number, 0, 1, 2, … without gaps.
        genome: every gene in [0, 1]; empty in a lineage.
        generation: proposals of one generation are scored on the same items.
        descent: in a lineage, what the candidate is made of.
        fidelity: how many times the usual number of items this candidate should answer.
    """

    trial: int
    genome: Genome
    generation: int
    descent: Descent | None = None
    fidelity: float = 1.0


@dataclass(frozen=True, slots=True)
class ItemAnswers:
    """What a candidate answered to single items, for one objective.

    Attributes:
        places: the items, as numbers that are the same for all candidates of a run; rising.
        values: the answers, in the objective's unit with the sign that makes larger better.
        shares: what each item counts in the mean over all items, which is what the candidate is worth.
    """

    places: tuple[int, ...]
    values: tuple[float, ...]
    shares: tuple[float, ...]

    def dump(self) -> dict[str, Any]:
        """JSON-ready; `load` reads it. Equal shares are written once."""
        shares = self.shares[:1] if len(set(self.shares)) == 1 else self.shares
        return {"places": list(self.places), "values": list(self.values), "shares": list(shares)}

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> ItemAnswers:
        """What `dump` wrote."""
        places, shares = tuple(data["places"]), tuple(data["shares"])
        return cls(places, tuple(data["values"]), shares * len(places) if len(shares) == 1 else shares)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an optimizer is told about one of its proposals.

    Attributes:
        trial: the proposal's number.
        values: one per objective, larger is better; None when the candidate failed.
        violation: by how much constraints are missed, summed, in their own units; 0 means feasible.
        errors: standard errors of `values`; None where they are not known.
        responses: for each objective the candidate's score on every item, larger is better, in the same order for all
            candidates of a generation; only for optimizers that say `uses_responses`.
        gradients: for each objective its derivatives by the genes, where the evaluator can give them.
        answers: for each objective the candidate's answers to its items; only for optimizers that say `uses_items`,
            where not all items were asked.
    """

    trial: int
    values: tuple[float, ...] | None
    violation: float = 0.0
    errors: tuple[float, ...] | None = None
    responses: tuple[tuple[float, ...], ...] | None = None
    gradients: tuple[tuple[float, ...], ...] | None = None
    answers: tuple[ItemAnswers, ...] | None = None
