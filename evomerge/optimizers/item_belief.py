"""One objective of a search by single items: who answered what, and the process that is fitted to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from evomerge.candidate import Estimate, Genome, ItemAnswers
from evomerge.optimizers.genes import Genomes
from evomerge.optimizers.item_process import ItemProcess, Posterior, Prior
from evomerge.optimizers.item_table import ItemTable

FIRST_FIT, REFIT = 200, 1.25
"""The covariances are the usual ones until there are so many answers; then they are fitted, and again after so many
times as many. Fitted to fewer they explain these too well (experiments/few_items_search)."""
FIRST_SCORES = 8
"""Where there are scores only, these suffice."""


class ItemBelief:
    """What an objective's answers say.

    Args:
        points: genomes → where they lie.
    """

    def __init__(self, points: Callable[[Genomes], Genomes]) -> None:
        self.table = ItemTable()
        self._points = points
        self._prior, self._fitted_at = Prior(), 0
        self._process: ItemProcess | None = None  # of the answers so far, once somebody asks

    def add(self, genome: Genome, answers: ItemAnswers) -> None:
        """A genome answered items."""
        self.table.add(genome, answers)
        self._process = None

    def add_score(self, genome: Genome, trial: int, value: float, error: float) -> None:
        """A genome has a score of the whole; an error that is not known is none."""
        self.table.add_score(genome, trial, value, error if math.isfinite(error) else 0.0)
        self._process = None

    def add_stranger(self, answers: ItemAnswers) -> None:
        """A model that is no genome answered items."""
        self.table.add_stranger(answers)
        self._process = None

    def drop(self, row: int) -> None:
        """Forget a genome."""
        self.table.drop(row)
        self._process = None

    def fit(self) -> None:
        """The covariances, where enough is new; only who asks does it, so that looking at beliefs changes nothing."""
        due = max(FIRST_FIT if self.table.by_items else FIRST_SCORES, REFIT * self._fitted_at)
        if len(self.table) > 1 and self.table.size >= due:
            self._prior, self._fitted_at = self._of_answers().likeliest(self._prior), self.table.size

    def posterior(self, new: Genomes) -> Posterior:
        """Of the genomes in the table, then of new ones."""
        points = self._points(new) if len(new) else None
        return self._of_answers().posterior(self._prior, points).without(len(self.table), self.table.strangers)

    def estimates(self, dim: int) -> list[Estimate]:
        """Of the genomes in the table."""
        if not len(self.table):
            return []
        found = self.posterior(np.empty((0, dim)))
        columns = found.mean.tolist(), found.deviations.tolist(), self.table.counts().tolist()
        return [Estimate(*row) for row in zip(*columns, strict=True)]

    def _of_answers(self) -> ItemProcess:
        if self._process is None:
            points = self._points(np.array(self.table.genomes))
            strangers = np.full((self.table.strangers, points.shape[1]), np.nan)
            self._process = ItemProcess(np.vstack([points, strangers]), *self.table.arrays())
        return self._process

    def head(self) -> dict[str, Any]:
        """JSON-ready; with `table.dump`, `load` reads it."""
        return {"prior": asdict(self._prior), "fitted_at": self._fitted_at}

    @classmethod
    def load(
        cls, points: Callable[[Genomes], Genomes], head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        """What `head` and `table.dump` wrote."""
        belief = cls(points)
        belief._prior, belief._fitted_at = Prior(**head["prior"]), head["fitted_at"]
        belief.table = ItemTable.load(arrays)
        return belief
