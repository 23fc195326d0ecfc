"""COMO-CatCMA with margin: mixed genes, several objectives, several kernels on one front."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from evomerge.candidate import Genome
from evomerge.optimizers.catcma import CHANGES
from evomerge.optimizers.checks import check_problem
from evomerge.optimizers.domain import Problem
from evomerge.optimizers.genes import Genes, as_genome
from evomerge.optimizers.mixed import MixedSettings
from evomerge.optimizers.mo_cma import Como, ComoOptions
from evomerge.optimizers.options import Options


class ComoCatCmaOptions(ComoOptions):
    """Options of `ComoCatCma`."""

    changes: float = Field(
        default=CHANGES, gt=0, le=10_000, description="categories that an early candidate changes from a kernel's start"
    )


class ComoCatCma(Como):
    """COMO-CMA-ES (see `ComoCmaEs`) whose kernels are CatCMA with margin: genes of any kind.

    A kernel's mean is that of its normal distribution and the likeliest choices. The library's own class of this name
    is not used: it wants answers kernel by kernel, two objectives, and its state is a pickle.

    Args:
        problem: genes of any kind.
        seed: of the random numbers.
        options: see `ComoCatCmaOptions`.

    Raises:
        InvalidInputError: an unknown option, or a value out of range.
        ValueError: `start` is empty or leaves [0, 1].

    Source: Hamano et al. 2025, CatCMA with Margin, arXiv:2504.07884, COMO-CatCMAwM.
    """

    Options: ClassVar[type[Options]] = ComoCatCmaOptions
    SCHEMA: ClassVar[str] = "evomerge.optimizer.como_catcma/1"

    _options: ComoCatCmaOptions

    def _check(self, problem: Problem) -> None:
        check_problem("como_catcma", problem, mixed=True)

    def _settings(self, number: int) -> MixedSettings:
        return MixedSettings(
            start=self._legal(self._first_mean(number)),
            kinds=self._problem.domain.kinds,
            sigma=self._options.sigma,
            population=self.generation_size,
            changes=self._options.changes,
            normal=self._normal,
        )

    def _legal(self, genome: Genome) -> Genome:
        return as_genome(Genes(self._problem.domain).canonical(np.array([genome]))[0])
