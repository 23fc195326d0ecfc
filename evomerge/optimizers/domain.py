"""What an optimizer searches: genes and what kind each is, or lineages; how many objectives; how long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evomerge.candidate import Genome


@dataclass(frozen=True, slots=True)
class GeneKind:
    """What one gene may be.

    Attributes:
        choices: None for a real number; else the gene is one of so many values, value i of n standing at (i + ½)/n.
        ordered: whether neighbouring choices are alike (integers), or mere names (categories).
        gate: number of the gene with two choices that must have the second one for this gene to matter; None: it
            always matters. A closed gate makes a gene stand at the start's value.
        step: the share of the usual step that suits this gene, > 0: small where small changes do much.
        group: what the gene is about (`weight`, `density`, …), for searches that take one group after another.
        part: where it holds (a group of tensors, a knot over the depth), for searches that treat each part for itself.
        source: whose it is, if it is one source's; "" for what sources share.
        span: what it stands for at 0 and at 1, where that is a number that rises evenly in between.
    """

    choices: int | None = None
    ordered: bool = False
    gate: int | None = None
    step: float = 1.0
    group: str = ""
    part: str = ""
    source: str = ""
    span: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True, slots=True)
class LineageDomain:
    """Models that descend from sources by crossing (M2N2).

    Attributes:
        sources: how many there are.
        units: for each chromosome, how many places there are to split it at.
    """

    sources: int
    units: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Domain:
    """What a search space offers to optimizers.

    Attributes:
        start: where searches begin, every gene in [0, 1]; empty for lineages.
        genes: one a gene, or empty where all are real numbers.
        seeds: further genomes that are worth a look early, such as each source alone.
        lineage: for spaces whose candidates descend from each other instead of having genes.
    """

    start: Genome
    genes: tuple[GeneKind, ...] = ()
    seeds: tuple[Genome, ...] = ()
    lineage: LineageDomain | None = None

    @property
    def dim(self) -> int:
        """Number of genes."""
        return len(self.start)

    @property
    def kinds(self) -> tuple[GeneKind, ...]:
        """One a gene."""
        return self.genes or (GeneKind(),) * self.dim

    @property
    def real(self) -> bool:
        """Whether every gene is a real number."""
        return all(kind.choices is None for kind in self.genes)


@dataclass(frozen=True, slots=True)
class Problem:
    """One search as an optimizer sees it.

    Attributes:
        num_objectives: values that a tell carries, larger is better.
        budget: evaluations that there will be, where that is known.
        workers: candidates that are evaluated at the same time, where that is known.
    """

    domain: Domain
    num_objectives: int = 1
    budget: int | None = None
    workers: int = 1

    @property
    def start(self) -> Genome:
        """Where to begin."""
        return self.domain.start

    def dump(self) -> dict[str, Any]:
        """JSON-ready; `load` reads it."""
        return asdict(self)

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> Problem:
        """What `dump` wrote."""
        domain, lineage = data["domain"], data["domain"]["lineage"]
        return cls(
            Domain(
                start=tuple(map(float, domain["start"])),
                genes=tuple(_kind(**gene) for gene in domain["genes"]),
                seeds=tuple(tuple(map(float, seed)) for seed in domain["seeds"]),
                lineage=lineage and LineageDomain(lineage["sources"], tuple(lineage["units"])),
            ),
            data["num_objectives"],
            data["budget"],
            data.get("workers", 1),
        )


def _kind(span: Sequence[float] = (0.0, 1.0), **others: Any) -> GeneKind:
    low, high = span
    return GeneKind(span=(float(low), float(high)), **others)


def real(start: Genome, num_objectives: int = 1, budget: int | None = None) -> Problem:
    """A problem of real genes that begins at `start`."""
    return Problem(Domain(start), num_objectives, budget)
