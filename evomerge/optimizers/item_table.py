"""Who answered which item how: the sparse table that an `ItemProcess` is made from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from evomerge.candidate import Genome, ItemAnswers
from evomerge.optimizers.genes import as_genome
from evomerge.optimizers.item_process import Floats

WHOLE = 1 - 1e-9
"""Whoever answered items of so large a share is known exactly."""
STALE = 3
"""Who was asked so many times in a row what it had answered before is asked no more: its items do not change."""
STRANGERS = 16
"""Of so many models that are no genomes, the first ones are kept."""


class ItemTable:
    """Answers of genomes and of strangers, which are models that are no genomes.

    Attributes:
        genomes: in the order in which they came, each once.
        strangers: how many there are.
    """

    def __init__(self) -> None:
        self.genomes: list[Genome] = []
        self.strangers = 0
        self._answers: list[dict[int, float]] = []
        self._exact: list[bool] = []
        self._stale: list[int] = []  # times in a row that brought nothing new
        self._known: list[dict[int, float]] = []
        self._shares: dict[int, float] = {}
        self._errors: dict[int, float] = {}
        self._rows: dict[Genome, int] = {}

    def __len__(self) -> int:
        """Genomes."""
        return len(self.genomes)

    @property
    def size(self) -> int:
        """Answers of genomes, scores included."""
        return sum(map(len, self._answers))

    @property
    def by_items(self) -> bool:
        """Whether there are answers to items."""
        return len(self._shares) > len(self._errors)

    def row(self, genome: Genome) -> int | None:
        """The number of a genome that answered."""
        return self._rows.get(genome)

    def add(self, genome: Genome, answers: ItemAnswers) -> None:
        """Answers to items; the same item asked again counts once, as it was answered last."""
        row = self._opened(genome)
        new = not self._answers[row].keys() >= set(answers.places)
        self._stale[row] = 0 if new else self._stale[row] + 1
        self._answers[row].update(zip(answers.places, answers.values, strict=True))
        self._shares.update(zip(answers.places, answers.shares, strict=True))
        self._exact[row] = self._exact[row] or sum(self._shares[place] for place in self._answers[row]) >= WHOLE

    def add_score(self, genome: Genome, trial: int, score: float, error: float) -> None:
        """A score of the whole, as an item of its own that is no part of it."""
        row, place = self._opened(genome), -1 - trial
        self._answers[row][place], self._shares[place], self._errors[place] = score, 0.0, error
        self._exact[row] = self._exact[row] or error == 0

    def add_stranger(self, answers: ItemAnswers) -> None:
        """A model that is no genome answered."""
        if self.strangers < STRANGERS:
            self.strangers += 1
            self._known.append(dict(zip(answers.places, answers.values, strict=True)))
            self._shares.update(zip(answers.places, answers.shares, strict=True))

    def beyond(self) -> Floats:
        """[genomes] how much better they did on their items than is usual there."""
        answers, _, _ = self.arrays()
        known = np.isfinite(answers)
        usual = (np.nansum(answers, axis=0) + answers[known].mean()) / (known.sum(axis=0) + 1)  # of an item
        return np.asarray(np.nanmean(answers[: len(self)] - usual, axis=1))

    def drop(self, row: int) -> None:
        """Forget a genome."""
        for place in self._answers[row]:
            if place in self._errors:
                del self._shares[place], self._errors[place]
        for column in (self.genomes, self._answers, self._exact, self._stale):
            del column[row]
        self._rows = {genome: row for row, genome in enumerate(self.genomes)}

    def exact(self) -> NDArray[np.bool_]:
        """[genomes] whether there is nothing more to ask."""
        return np.array(self._exact, dtype=np.bool_) | (np.array(self._stale, dtype=np.intp) >= STALE)

    def counts(self) -> NDArray[np.intp]:
        """[genomes] answers."""
        return np.array([len(row) for row in self._answers], dtype=np.intp)

    def arrays(self) -> tuple[Floats, Floats, Floats]:
        """Answers [genomes, then strangers; items], NaN where there is none, the items' shares [items], and the
        standard errors of those that are scores [items], NaN for others."""
        rows, places, values = self._triples()
        items, columns = np.unique(places, return_inverse=True)
        answers = np.full((len(self) + self.strangers, len(items)), np.nan)
        answers[rows, columns] = values
        shares = np.array([self._shares[place] for place in items.tolist()])
        return answers, shares, np.array([self._errors.get(place, np.nan) for place in items.tolist()])

    def dump(self, dim: int) -> dict[str, NDArray[Any]]:
        """Plain arrays; `load` reads them."""
        rows, places, values = self._triples()
        shares = np.array([*self._shares.values()])
        errors = np.array([self._errors.get(place, np.nan) for place in self._shares])
        return {
            "genomes": np.reshape(self.genomes, (-1, dim)), "exact": np.array(self._exact, dtype=np.bool_),
            "stale": np.array(self._stale, dtype=np.int64), "rows": rows, "places": places,
            "values": values, "items": np.array([*self._shares], dtype=np.int64), "shares": shares, "errors": errors,
        }  # fmt: skip

    @classmethod
    def load(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """What `dump` wrote."""
        table = cls()
        table.genomes, table._exact = [as_genome(row) for row in arrays["genomes"]], arrays["exact"].tolist()
        table._stale = arrays["stale"].tolist()
        table._rows = {genome: row for row, genome in enumerate(table.genomes)}
        table._shares = dict(zip(arrays["items"].tolist(), arrays["shares"].tolist(), strict=True))
        errors = zip(arrays["items"].tolist(), arrays["errors"].tolist(), strict=True)
        table._errors = {place: error for place, error in errors if not math.isnan(error)}
        rows = arrays["rows"].tolist()
        table.strangers = max([*rows, len(table) - 1]) + 1 - len(table)
        found: list[dict[int, float]] = [{} for _ in range(len(table) + table.strangers)]
        for row, place, value in zip(rows, arrays["places"].tolist(), arrays["values"].tolist(), strict=True):
            found[row][place] = value
        table._answers, table._known = found[: len(table)], found[len(table) :]
        return table

    def _opened(self, genome: Genome) -> int:
        if genome not in self._rows:
            self._rows[genome] = len(self.genomes)
            self.genomes.append(genome)
            self._answers.append({})
            self._exact.append(False)
            self._stale.append(0)
        return self._rows[genome]

    def _triples(self) -> tuple[NDArray[np.intp], NDArray[np.int64], Floats]:
        everybody = [*self._answers, *self._known]
        rows = np.repeat(np.arange(len(everybody)), [len(row) for row in everybody])
        places = np.array([place for row in everybody for place in row], dtype=np.int64)
        return rows, places, np.array([value for row in everybody for value in row.values()], dtype=np.float64)
