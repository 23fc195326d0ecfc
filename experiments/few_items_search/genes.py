"""The table's grid as optimizers see it: three genes, of math, of ja, and of es and geo."""

from __future__ import annotations

from dataclasses import dataclass

from grid import Stage, Weights

from evomerge.candidate import Genome
from evomerge.optimizers.domain import Domain, GeneKind, Problem
from search_spaces.scale import Choices

NUM_GENES = 3


@dataclass(frozen=True, slots=True)
class Genes:
    """The same as the space of a run over the grid, without its models.

    Attributes:
        stage: the grid.
    """

    stage: Stage

    def problem(self, num_objectives: int, budget: int, *, real: bool = False) -> Problem:
        """Begins at the grid's nearest merge to the plain average.

        Args:
            real: genes are real numbers, each taken to the level in whose share of [0, 1] it lies; else choices.
        """
        kinds = () if real else (GeneKind(len(self.stage.levels), ordered=True, group="weight"),) * NUM_GENES
        return Problem(Domain((self._scale.gene(0.25),) * NUM_GENES, kinds), num_objectives, budget)

    def name(self, genome: Genome) -> str:
        """The merge that answers for a genome."""
        math, ja, other = (float(self._scale.value(gene)) for gene in genome)
        return self.stage.answering(Weights(math, ja, other, other)).name

    @property
    def _scale(self) -> Choices:
        return Choices(self.stage.levels, ordered=True)
