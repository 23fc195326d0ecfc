"""NSGA-II and NSGA-III for answers that come out of order, over genes of any kind."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from evomerge.optimizers.blends import Nearby
from evomerge.optimizers.checks import check_problem
from evomerge.optimizers.domain import Problem
from evomerge.optimizers.genes import Design, Genomes
from evomerge.optimizers.options import Option, Options
from evomerge.optimizers.steady_state import Members, SteadyState
from evomerge.optimizers.survival import Niches, by_crowding, reference_directions, standing, survivors
from evomerge.optimizers.variation import Variation

POPULATION = 40
"""Members where the budget is not known."""

GENERATIONS = 20
"""So many generations fit a known budget, if the population then has from 12 to 100 members."""


class NsgaOptions(Options):
    """Options of `Nsga2` and `Nsga3`."""

    population: int | None = Field(
        default=None, ge=4, le=10_000,
        description=f"members, and answers per generation; null: a {GENERATIONS}th of the budget, from 12 to 100",
    )  # fmt: skip
    spread: float | None = Field(
        default=0.15, gt=0, le=1,
        description="standard deviation of the first population around the start; null: Sobol points everywhere",
    )  # fmt: skip
    crossover_index: float | None = Field(
        default=None, ge=0, le=200, description="children are the closer to parents the larger it is; null: 15, or 30"
    )
    mutation_index: float = Field(default=20.0, ge=0, le=200, description="mutations are the shorter the larger it is")


class _Nsga(SteadyState):
    """What both share: members are crossed and mutated, infeasible ones come last.

    The first population is the start, the domain's seeds, and steps from the start, because most merges far from any
    average are broken: on a toy merge Sobol points cost the first 200 evaluations.
    """

    Options: ClassVar[type[Options]] = NsgaOptions
    NAME: ClassVar[str]
    CROSSOVER_INDEX: ClassVar[float]
    CROSSOVER_RATE: ClassVar[float]

    def __init__(self, problem: Problem, *, seed: int, **options: Option) -> None:
        super().__init__(problem, seed=seed, **options)
        chosen: NsgaOptions = self._options
        index = self.CROSSOVER_INDEX if chosen.crossover_index is None else chosen.crossover_index
        self._variation = Variation(self._genes, index, chosen.mutation_index, self.CROSSOVER_RATE)

    def _check(self, problem: Problem) -> None:
        check_problem(self.NAME, problem, mixed=True)

    @property
    def generation_size(self) -> int:
        """Members that survive."""
        budget, population = self._problem.budget, self._options.population
        default = POPULATION if budget is None else min(100, max(12, budget // GENERATIONS))
        return int(population or default)

    def _begin(self, drawn: int = 0) -> Design:
        if self._options.spread is None:
            return super()._begin(drawn)
        return Nearby(self._problem.domain, self._seed, drawn, spread=self._options.spread)

    def _child(self, rng: np.random.Generator) -> Genomes:
        genomes = self._members.genomes
        first, second = (self._winner(rng) for _ in range(2))
        return self._variation(genomes[[first]], genomes[[second]], rng)

    def _winner(self, rng: np.random.Generator) -> int:
        """The better of two members drawn at random."""
        one, other = (int(i) for i in rng.integers(len(self._members), size=2))
        return one if self._is_better(one, other, rng) else other

    @abstractmethod
    def _is_better(self, one: int, other: int, rng: np.random.Generator) -> bool: ...


class Nsga2(_Nsga):
    """NSGA-II in the order of arrival: fronts, then crowding distance; for few objectives and genes of any kind.

    Parents win binary tournaments by front, then by crowding distance. See `SteadyState` for what differs from
    generations that wait, and `Variation` for how children are made.

    Args:
        problem: real and chosen genes, any number of objectives.
        seed: of everything random.
        options: see `NsgaOptions`.

    Raises:
        InvalidInputError: an unknown option, a value out of range, or a lineage.
        ValueError: `start` is empty or leaves [0, 1].

    Source: Deb, Pratap, Agarwal, Meyarivan 2002, A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II;
    operators of pymoo (Blank and Deb 2020).
    """

    SCHEMA: ClassVar[str] = "evomerge.optimizer.nsga2/1"
    NAME = "nsga2"
    CROSSOVER_INDEX, CROSSOVER_RATE = 15.0, 0.9

    def __init__(self, problem: Problem, *, seed: int, **options: Option) -> None:
        super().__init__(problem, seed=seed, **options)
        self._standing = standing(self._members)

    def _survive(self, members: Members, rng: np.random.Generator) -> Members:
        kept = survivors(members, self.generation_size, partial(by_crowding, rng=rng))
        self._standing = standing(kept)
        return kept

    def _is_better(self, one: int, other: int, rng: np.random.Generator) -> bool:
        rank, crowding = self._standing
        return bool((rank[one], -crowding[one]) <= (rank[other], -crowding[other]))

    def _restore(self, head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        super()._restore(head, arrays)
        self._standing = standing(self._members)


class Nsga3(_Nsga):
    """NSGA-III in the order of arrival: fronts, then reference directions; for three objectives and more.

    Parents are drawn at random, the feasible before the infeasible. There are as many directions as fit the population.
    See `SteadyState` for what differs from generations that wait, and `Variation` for how children are made.

    Args:
        problem: real and chosen genes, any number of objectives.
        seed: of everything random.
        options: see `NsgaOptions`.

    Raises:
        InvalidInputError: an unknown option, a value out of range, or a lineage.
        ValueError: `start` is empty or leaves [0, 1].

    Source: Deb and Jain 2014, An Evolutionary Many-Objective Optimization Algorithm Using Reference-Point-Based
    Nondominated Sorting Approach; operators of pymoo (Blank and Deb 2020).
    """

    SCHEMA: ClassVar[str] = "evomerge.optimizer.nsga3/1"
    NAME = "nsga3"
    CROSSOVER_INDEX, CROSSOVER_RATE = 30.0, 1.0

    def __init__(self, problem: Problem, *, seed: int, **options: Option) -> None:
        super().__init__(problem, seed=seed, **options)
        self._niches = Niches(reference_directions(problem.num_objectives, self.generation_size))

    def _survive(self, members: Members, rng: np.random.Generator) -> Members:
        return survivors(members, self.generation_size, partial(self._niches, rng=rng))

    def _is_better(self, one: int, other: int, rng: np.random.Generator) -> bool:
        violations = self._members.violations
        return bool(violations[one] <= violations[other])  # drawn in random order: the first of equal ones is random

    def _more(self) -> dict[str, NDArray[Any]]:
        return self._niches.dump()

    def _restore(self, head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        super()._restore(head, arrays)
        self._niches.load(dict(arrays))
