"""The values that travel between optimizer, search space, workers and archive."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

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
class Proposal:
    """What an optimizer asks to have evaluated.

    Attributes:
        trial: the optimizer's own number, 0, 1, 2, … without gaps.
        genome: every gene in [0, 1].
        generation: proposals of one generation are scored on the same items.
    """

    trial: int
    genome: Genome
    generation: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an optimizer is told about one of its proposals.

    Attributes:
        trial: the proposal's number.
        values: one per objective, larger is better; None when the candidate failed.
        violation: by how much constraints are missed, summed, in their own units; 0 means feasible.
    """

    trial: int
    values: tuple[float, ...] | None
    violation: float = 0.0
