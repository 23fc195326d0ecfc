"""How two genomes become one: simulated binary crossover and polynomial mutation, and their like for choices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pymoo.operators.crossover.sbx import cross_sbx
from pymoo.operators.mutation.pm import mut_pm

from evomerge.optimizers.genes import Genes, Genomes

CROSSED_GENES = 0.5
"""Share of genes that a crossover mixes."""


@dataclass(frozen=True, slots=True)
class Variation:
    """Crossover, then mutation of about one gene.

    Real genes: simulated binary crossover (Deb and Agrawal 1995) and polynomial mutation (Deb and Goyal 1996), as
    pymoo computes them; a mutation's length is multiplied by the gene's step. Choices: each from either parent; a
    mutated category becomes any other one, a mutated ordered choice a neighbour.

    Attributes:
        genes: of the space.
        crossover_index: η of the crossover; the larger, the closer children are to their parents.
        mutation_index: η of the mutation.
        crossover_rate: share of children that are crossed at all.
    """

    genes: Genes
    crossover_index: float
    mutation_index: float
    crossover_rate: float

    def __call__(self, first: Genomes, second: Genomes, rng: np.random.Generator) -> Genomes:
        """One child of each pair; not canonical (`Genes.canonical`).

        Args:
            first: shape [pairs, genes]; children are nearer to these.
            second: shape [pairs, genes].
        """
        children = first.copy()
        crossed = rng.random(len(first)) < self.crossover_rate
        rate = min(CROSSED_GENES, 1 / first.shape[1])
        if len(self.genes.real):
            mixed = self._cross(first[:, self.genes.real], second[:, self.genes.real], rng)
            reals = np.where(crossed[:, None], mixed, first[:, self.genes.real])
            children[:, self.genes.real] = self._mutate(reals, rate, rng)
        if len(self.genes.chosen):
            theirs = crossed[:, None] & (rng.random((len(first), len(self.genes.chosen))) < 1 - CROSSED_GENES)
            children[:, self.genes.chosen] = np.where(theirs, second[:, self.genes.chosen], first[:, self.genes.chosen])
            children[:, self.genes.chosen] = self._choose_anew(children, rate, rng)
        return children

    def _cross(self, first: Genomes, second: Genomes, rng: np.random.Generator) -> Genomes:
        pairs, genes = first.shape
        # The exchange of genes between two children matters to who takes one of them: it makes the child symmetric.
        two = cross_sbx(
            np.stack([first, second]), np.zeros(genes), np.ones(genes), eta=np.full((pairs, 1), self.crossover_index),
            prob_var=np.full((pairs, 1), CROSSED_GENES), prob_bin=np.full((pairs, 1), 0.5), random_state=rng,
        )  # fmt: skip
        return np.asarray(two[0])

    def _mutate(self, reals: Genomes, rate: float, rng: np.random.Generator) -> Genomes:
        size, genes = reals.shape
        moved = mut_pm(
            reals, np.zeros(genes), np.ones(genes), eta=np.full(size, self.mutation_index),
            prob=np.full(size, rate), at_least_once=False, random_state=rng,
        )  # fmt: skip
        return np.asarray(reals + self.genes.steps[self.genes.real] * (moved - reals))

    def _choose_anew(self, children: Genomes, rate: float, rng: np.random.Generator) -> Genomes:
        counts, now = self.genes.counts, self.genes.choices(children)
        mutated = (rng.random(now.shape) < rate) & (counts > 1)
        another = other_choices(now, counts, self.genes.ordered, rng)
        return (np.where(mutated, another, now) + 0.5) / counts


def other_choices(
    now: NDArray[np.intp], counts: NDArray[np.intp], ordered: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.intp]:
    """For each gene a neighbouring choice where choices are ordered, any other one where they are names.

    Args:
        now: shape [genomes, genes], the present choices.
        counts: shape [genes].
        ordered: shape [genes].
    """
    stride = 1 + np.floor(rng.random(now.shape) * (counts - 1)).astype(np.intp)
    side = np.where(rng.random(now.shape) < 0.5, -1, 1)
    side = np.where(now == 0, 1, np.where(now == counts - 1, -1, side))
    return np.where(ordered, np.clip(now + side, 0, counts - 1), (now + stride) % counts)
