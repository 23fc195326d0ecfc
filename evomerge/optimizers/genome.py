"""GENOME: a genetic algorithm that crosses models by averaging them, on the coefficients of merges."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from evomerge.optimizers.blends import Blends, combine
from evomerge.optimizers.checks import check_problem
from evomerge.optimizers.domain import Problem
from evomerge.optimizers.genes import Design, Genomes
from evomerge.optimizers.options import Options
from evomerge.optimizers.steady_state import Members, SteadyState
from evomerge.optimizers.variation import other_choices

TOURNAMENT = 3
"""Of so many members drawn at random the best survives."""


class GenomeOptions(Options):
    """Options of `GenomeSearch`."""

    population: int = Field(default=20, ge=4, le=10_000, description="members, and answers per generation")
    crossover_rate: float = Field(default=0.7, ge=0, le=1, description="share of children with two parents")
    mutation_rate: float = Field(default=0.6, ge=0, le=1, description="share of children of two parents that mutate")
    gene_mutation_rate: float = Field(default=0.1, gt=0, le=1, description="share of genes that a mutation changes")
    sigma: float = Field(default=0.1, gt=0, le=1, description="standard deviation of mutations, a share of the range")
    elites: float = Field(default=0.1, ge=0, le=1, description="share of members that are kept as the best")


class GenomeSearch(SteadyState):
    """GENOME in the order of arrival, on coefficients; one objective, genes of any kind.

    - **Crossover**: two members drawn by roulette on fitness; the child is their average weighted by fitness. A choice
      is inherited from one of them with the same weights.
    - **Mutation**: normal noise on a random tenth of the genes, at least one; a choice becomes another one. Children of
      one parent always mutate.
    - **Survival**: elites, then winners of tournaments of three, without replacement.

    The paper crosses and mutates LoRA weights. An average of merges of the same sources is a merge with the averaged
    coefficients wherever the method is linear, so the population here is coefficients, and no weights are stored.
    Fitness is the value where all are positive, as in the paper, otherwise the distance to the worst; infeasible
    members have none. The first population is the start, the domain's seeds and blends of two of them (Sobol points
    without seeds). The paper's GENOME+ is this with `swarm` beside it, and is not one optimizer here.

    See `SteadyState` for what differs from generations that wait.

    Args:
        problem: one objective.
        seed: of everything random.
        options: see `GenomeOptions`.

    Raises:
        InvalidInputError: an unknown option, a value out of range, several objectives, or a lineage.
        ValueError: `start` is empty or leaves [0, 1].

    Source: Zhang et al. 2025, Nature-Inspired Population-Based Evolution of Large Language Models, arXiv:2503.01155.
    """

    Options: ClassVar[type[Options]] = GenomeOptions
    SCHEMA: ClassVar[str] = "evomerge.optimizer.genome/1"

    def _check(self, problem: Problem) -> None:
        check_problem("genome", problem, mixed=True, most_objectives=1)

    @property
    def generation_size(self) -> int:
        """Members that survive."""
        return int(self._options.population)

    def _begin(self, drawn: int = 0) -> Design:
        return Blends(self._problem.domain, self._seed, drawn)

    def _child(self, rng: np.random.Generator) -> Genomes:
        fitness = _fitness(self._members)
        chances = fitness / fitness.sum() if fitness.any() else None
        crossed = len(self._members) > 1 and rng.random() < self._options.crossover_rate
        parents = rng.choice(len(self._members), size=2 if crossed else 1, p=chances)
        child = self._members.genomes[parents[0]].copy()
        if crossed:
            weight = _weight(fitness[parents[0]], fitness[parents[1]])
            child = combine(child, self._members.genomes[parents[1]], weight, self._genes, rng)
        if not crossed or rng.random() < self._options.mutation_rate:
            child = self._mutate(child, rng)
        return np.asarray(child[None])

    def _mutate(self, genome: Genomes, rng: np.random.Generator) -> Genomes:
        changed = rng.random(len(genome)) < self._options.gene_mutation_rate
        changed[rng.integers(len(genome))] = True
        noise = self._options.sigma * self._genes.steps * rng.standard_normal(len(genome))
        mutant = genome + np.where(changed, noise, 0.0)
        now, counts = self._genes.choices(genome[None]), self._genes.counts
        another = np.where(counts > 1, other_choices(now, counts, self._genes.ordered, rng), now)[0]
        places = (another + 0.5) / counts
        mutant[self._genes.chosen] = np.where(changed[self._genes.chosen], places, genome[self._genes.chosen])
        return np.asarray(mutant)

    def _survive(self, members: Members, rng: np.random.Generator) -> Members:
        order = best_first(members)
        elites = round(self._options.elites * self.generation_size)
        kept, rest = list(order[:elites]), list(order[elites:])
        while rest and len(kept) < self.generation_size:
            entrants = rng.choice(len(rest), size=min(TOURNAMENT, len(rest)), replace=False)
            kept.append(rest.pop(int(min(entrants))))  # they are sorted
        return members.pick(kept)


def best_first(members: Members) -> NDArray[np.intp]:
    """Row numbers: feasible members by value, then infeasible ones by violation; equal ones in order of arrival."""
    value = np.where(members.violations > 0, 0.0, members.values[:, 0])
    return np.lexsort((-value, members.violations))


def _fitness(members: Members) -> NDArray[np.float64]:
    """Weights of the roulette, at least 0, shape [members]."""
    feasible, values = members.violations == 0, members.values[:, 0]
    if not feasible.any():
        return np.zeros(len(members))
    return np.where(feasible, values - min(0.0, values[feasible].min()), 0.0)


def _weight(one: float, other: float) -> float:
    return one / (one + other) if one + other > 0 else 0.5
