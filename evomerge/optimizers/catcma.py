"""CatCMA with margin: real numbers, ordered choices and categories, all adapted together."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from evomerge.optimizers.checks import check_problem
from evomerge.optimizers.domain import Problem
from evomerge.optimizers.evolution import EvolutionOptions, EvolutionStrategy, Normal, Numbers
from evomerge.optimizers.mixed import MixedDistribution, MixedSettings
from evomerge.optimizers.options import Options
from evomerge.optimizers.ranking import Vector
from evomerge.optimizers.restarts import Regime

CHANGES = 4.0
"""Categories that a first candidate changes on average."""


class CatCmaOptions(EvolutionOptions):
    """Options of `CatCma`."""

    changes: float = Field(
        default=4.0,
        gt=0,
        le=10_000,
        description="categories that an early candidate changes from the start, on average",
    )


class CatCma(EvolutionStrategy):
    """CatCMA with margin (`cmaes`) in the order of arrival; see `EvolutionStrategy` for what it does with answers.

    Real genes and ordered choices follow a normal distribution that CMA-ES adapts, categories and bits one of their
    own each; margins keep every choice possible. One natural gradient moves all of them.

    - **The start's choices** are likely at first: of all categories a first candidate changes `changes` on average. Far
      from the start little works in a search over many bits, such as which layers of a host model stay on.
    - **Genes behind a closed gate** stand at the start's value in the genome. The distribution learns from the value
      that was drawn: as it had no effect, selection by it is pure chance. The gene's mean walks at random, without
      drift, and its variance stays; told at the mean instead, the gene's variance would shrink without reason.

    State is exact and bounded, as that of `CmaEs`: the numbers of `MixedDistribution`, points without an answer, and
    answers that wait.

    Args:
        problem: genes of any kind.
        seed: of the random numbers.
        options: see `CatCmaOptions`.

    Raises:
        InvalidInputError: an unknown option, or a value out of range.
        ValueError: `start` is empty or leaves [0, 1].

    Source: Hamano et al. 2025, CatCMA with Margin, arXiv:2504.07884.
    """

    Options: ClassVar[type[Options]] = CatCmaOptions
    SCHEMA: ClassVar[str] = "evomerge.optimizer.catcma/2"

    _options: CatCmaOptions

    def _check(self, problem: Problem) -> None:
        check_problem("catcma", problem, mixed=True)

    def _prepare(self, seed: int) -> None:
        self._normal = Normal(seed, "catcma")

    def _draw_from(self, regime: Regime, numbers: Numbers | None) -> MixedDistribution:
        settings = MixedSettings(
            start=self._start,
            kinds=self._problem.domain.kinds,
            sigma=regime.sigma,
            population=regime.population,
            changes=self._options.changes,
            normal=self._normal,
        )
        return MixedDistribution(settings, numbers)

    def _sample(self, trial: int) -> Vector:
        self._normal.trial = trial
        return self._distribution.sample()
