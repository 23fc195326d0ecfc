"""First populations that know where models work: between the sources, around the start."""

from __future__ import annotations

from typing import Literal

import numpy as np

from evomerge.candidate import Genome
from evomerge.optimizers.domain import Domain
from evomerge.optimizers.genes import Design, Genes, Genomes, as_genome
from evomerge.seeds import generator

Filling = Literal["blended", "sparsified"]
"""What follows the start and the seeds."""

DROPPED = 0.5
"""Share of the genes that a sparsified seed loses."""

DRAWN_ANEW = 0.1
"""Share of the choices that a genome near the start draws anew."""


class Blends(Design):
    """The start, the domain's seeds, then genomes made of these; Sobol points where there are no seeds.

    A *blend* is w·a + (1 - w)·b of two of them, w uniform in [0, reach]: beyond 1 it lies outside, on the side of a
    (Feng et al. 2024, Model Swarms, arXiv:2410.11163, where it fills the population); w ends where a gene would leave
    [0, 1]. Choices come from either.

    A *sparsified* seed has a random half of its genes at the start's value (Zhang et al. 2025, PSO-Merging,
    arXiv:2508.19839, starts with base, experts and sparsified experts; there single weights are dropped, here
    coefficients, of which each moves a group of weights).

    Args:
        domain: with genes of any kind.
        seed: of everything random.
        drawn: how many genomes were drawn before.
        reach: of blends.
        filling: what follows the seeds.
    """

    def __init__(
        self, domain: Domain, seed: int, drawn: int = 0, *, reach: float = 1.0, filling: Filling = "blended"
    ) -> None:
        super().__init__(domain, seed, drawn)
        self._seed, self._reach, self._filling = seed, reach, filling
        self._own = np.array([domain.start, *domain.seeds])
        self._kinds = Genes(domain)

    def next(self) -> Genome:
        if self.drawn < len(self._own) or len(self._own) == 1:
            return super().next()
        rng = generator(self._seed, self._filling, self.drawn)
        self.drawn += 1
        row = self._blend(rng) if self._filling == "blended" else self._sparsify(rng)
        return as_genome(self._kinds.canonical(row[None])[0])

    def _blend(self, rng: np.random.Generator) -> Genomes:
        one, other = self._own[rng.choice(len(self._own), size=2, replace=False)]
        return combine(one, other, rng.uniform(0, min(self._reach, _longest(one, other))), self._kinds, rng)

    def _sparsify(self, rng: np.random.Generator) -> Genomes:
        seed = self._own[rng.integers(1, len(self._own))]
        return np.asarray(np.where(rng.random(len(seed)) < DROPPED, self._own[0], seed))


class Nearby(Design):
    """The start, the domain's seeds, then normal steps from the start; a tenth of the choices is drawn anew.

    Args:
        domain: with genes of any kind.
        seed: of everything random.
        drawn: how many genomes were drawn before.
        spread: standard deviation of a step, a share of the range.
    """

    def __init__(self, domain: Domain, seed: int, drawn: int = 0, *, spread: float) -> None:
        super().__init__(domain, seed, drawn)
        self._seed, self._spread, self._domain = seed, spread, domain
        self._kinds = Genes(domain)

    def next(self) -> Genome:
        if self.drawn <= len(self._domain.seeds):
            return super().next()
        rng = generator(self._seed, "nearby", self.drawn)
        self.drawn += 1
        near = self._kinds.start + self._spread * self._kinds.steps * rng.standard_normal(self._domain.dim)
        anew = self._kinds.chosen[rng.random(len(self._kinds.chosen)) < DRAWN_ANEW]
        near[anew] = rng.random(len(anew))
        near[np.setdiff1d(self._kinds.chosen, anew)] = self._kinds.start[np.setdiff1d(self._kinds.chosen, anew)]
        return as_genome(self._kinds.canonical(near[None])[0])


def _longest(one: Genomes, other: Genomes) -> float:
    """The largest w with w·one + (1 - w)·other in [0, 1], at least 1."""
    way = one - other
    room = np.where(way > 0, 1 - one, one)
    return 1 + float(np.min(room[way != 0] / np.abs(way[way != 0]), initial=np.inf))


def combine(one: Genomes, other: Genomes, weight: float, kinds: Genes, rng: np.random.Generator) -> Genomes:
    """weight·one + (1 - weight)·other, shape [genes]; a choice is the one's with that probability, not in between."""
    mixed = weight * one + (1 - weight) * other
    theirs = rng.random(len(kinds.chosen)) < weight
    mixed[kinds.chosen] = np.where(theirs, one[kinds.chosen], other[kinds.chosen])
    return np.asarray(mixed)
