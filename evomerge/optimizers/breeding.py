"""How M2N2's children come about: descents in a lineage, or genomes that are crossed themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from evomerge.candidate import Descent, Genome
from evomerge.optimizers.domain import Domain, LineageDomain
from evomerge.optimizers.genes import Genes, as_genome
from evomerge.optimizers.niche_archive import Member
from evomerge.seeds import generator

FEW = 4
"""With fewer genomes to begin with than so many there is too little to cross."""

AROUND = 0.25
"""How far from the start further genomes lie to begin with, in each gene: most merges far from any average are
broken."""

Row = NDArray[np.float64]
"""A genome as an array."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """What a child takes from whom.

    Attributes:
        crossover: whether it has two parents.
        split: whether the genes left of a random place are mixed at t and those right of it at 1 - t (eq. 2); else all
            are mixed at 1 - t.
        mutation: standard deviation of what is added to each weight, or to each gene.
    """

    crossover: bool
    split: bool
    mutation: float


@dataclass(frozen=True, slots=True)
class Child:
    """A proposal's genome, or how it descends."""

    genome: Genome = ()
    descent: Descent | None = None


class Breeder(Protocol):
    """Makes children.

    Attributes:
        founders: how many candidates there are to begin with.
    """

    founders: int

    def founder(self, number: int) -> Child:
        """Candidate `number` of those to begin with; they are the first trials."""
        ...

    def cross(self, a: Member, b: Member, rng: np.random.Generator) -> Child:
        """A child of two."""
        ...

    def cross_founders(self, a: int, b: int, rng: np.random.Generator) -> Child:
        """A child of two of those to begin with, whether they were scored or not."""
        ...

    def again(self, member: Member) -> Child:
        """The same candidate once more."""
        ...


class Lineages:
    """Children by descent: who crosses knows the trials only, never a weight."""

    def __init__(self, domain: LineageDomain, crossing: Crossing) -> None:
        self._domain, self._crossing = domain, crossing
        self.founders = domain.sources

    def founder(self, number: int) -> Child:
        return Child(descent=Descent(source=number))

    def cross(self, a: Member, b: Member, rng: np.random.Generator) -> Child:
        return self._descend(a.trial, b.trial, rng)

    def cross_founders(self, a: int, b: int, rng: np.random.Generator) -> Child:
        return self._descend(a, b, rng)

    def again(self, member: Member) -> Child:
        """A crossing with itself: the original's own descent would draw other noise."""
        return Child(descent=self._copy(member.trial, 0.0))

    def _descend(self, a: int, b: int, rng: np.random.Generator) -> Child:
        crossing, units = self._crossing, self._domain.units
        if not crossing.crossover:
            return Child(descent=self._copy(a, crossing.mutation))
        splits = tuple(int(rng.integers(places)) if crossing.split else 0 for places in units)
        return Child(descent=Descent(None, (a, b), splits, rng.random(), crossing.mutation))

    def _copy(self, trial: int, noise: float) -> Descent:
        return Descent(None, (trial, trial), (0,) * len(self._domain.units), 0.0, noise)


class Genomes:
    """Children whose genes are mixed linearly.

    For coefficients of a linear merge this is M2N2 with the groups of layers as its places to split. To begin with
    there are the start and the seeds, and where these are few, Sobol points around the start. Choices are taken from
    one parent, from b with the probability that a mix would give b's part.

    Args:
        population: how many Sobol points make up for a lack of seeds.
        seed: of these.
    """

    def __init__(self, domain: Domain, crossing: Crossing, *, population: int, seed: int) -> None:
        self._genes, self._crossing = Genes(domain), crossing
        self._founders = [domain.start, *domain.seeds]
        if len(self._founders) < FEW:
            points = qmc.Sobol(domain.dim, scramble=True, rng=generator(seed, "m2n2", "founders"))
            for _ in range(population - len(self._founders)):  # singly: a first draw that is no power of 2 warns
                self._founders.append(self._around(np.array(domain.start), points.random(1)[0]))
        self.founders = len(self._founders)

    def founder(self, number: int) -> Child:
        return Child(self._founders[number])

    def cross(self, a: Member, b: Member, rng: np.random.Generator) -> Child:
        return self._mix(a.genome, b.genome, rng)

    def cross_founders(self, a: int, b: int, rng: np.random.Generator) -> Child:
        return self._mix(self._founders[a], self._founders[b], rng)

    def again(self, member: Member) -> Child:
        return Child(member.genome)

    def _around(self, start: Row, point: Row) -> Genome:
        near = start + AROUND * (2 * point - 1)
        near[self._genes.chosen] = point[self._genes.chosen]
        return self._genome(near)

    def _genome(self, row: Row) -> Genome:
        return as_genome(self._genes.canonical(row[None])[0])

    def _mix(self, a: Genome, b: Genome, rng: np.random.Generator) -> Child:
        child, other, chosen = np.array(a), np.array(b), self._genes.chosen
        if self._crossing.crossover:
            split = int(rng.integers(len(a))) if self._crossing.split else 0
            mix = rng.random()
            t = np.where(np.arange(len(a)) < split, mix, 1 - mix)
            picked = np.where(rng.random(len(chosen)) < t[chosen], other[chosen], child[chosen])
            child = (1 - t) * child + t * other
            child[chosen] = picked
        if self._crossing.mutation:
            self._mutate(child, rng)
        return Child(self._genome(child))

    def _mutate(self, child: Row, rng: np.random.Generator) -> None:
        """Normal noise on real genes, scaled by their steps. A choice changes with a probability of the noise's size,
        to a neighbour where choices are ordered."""
        genes, std = self._genes, self._crossing.mutation
        child[genes.real] += std * genes.steps[genes.real] * rng.standard_normal(len(genes.real))
        luck, draw = rng.random((2, len(genes.chosen)))
        neighbour = child[genes.chosen] + np.where(draw < 0.5, -1, 1) / genes.counts
        child[genes.chosen] = np.where(
            luck >= std, child[genes.chosen], np.where(genes.ordered, np.clip(neighbour, 0.0, 1.0), draw)
        )
