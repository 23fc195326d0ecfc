"""The collected answers as a pool of workers: jobs over merges of the table are answered at once, by real answers."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from collect import TABLE, asked
from grid import BASELINES, SOURCES, STAGES, Stage, Weights

from evomerge.errors import Failure, FailureReason
from evomerge.recipe.schema import Recipe
from evomerge.recipe.written import read
from fitness.evaluator import Responses
from fitness.items import Item, Split
from fitness.matrix import Floats, ResponseMatrix, make_matrix
from workers.job import Job, JobResult

Answers = dict[str, dict[str, Floats]]
"""Skill → metric → [items] in the order of `asked`."""
METRIC = "choice_probability"
"""What searches follow, as the demo's does."""


@dataclass(frozen=True)
class Table:
    """Answers of merges to items.

    Attributes:
        answers: split → name of the merge → its answers.
        most: merges of the largest grid that is wanted; None is any.
    """

    answers: Mapping[Split, Mapping[str, Answers]]
    most: int | None = None

    def names(self, split: Split = "search") -> list[str]:
        """Merges with answers."""
        return list(self.answers[split])

    @cached_property
    def stage(self) -> Stage:
        """The largest grid whose merges have all answered the search items."""
        known = self.answers["search"]
        whole = [stage for stage in STAGES if all(w.name in known for w in stage.merges())]
        return [stage for stage in whole if self.most is None or len(stage.merges()) <= self.most][-1]

    @cached_property
    def merges(self) -> list[str]:
        """Names of that grid's merges."""
        return [weights.name for weights in self.stage.merges()]

    def mean(
        self, name: str, skill: str = "ja_math", metric: str = "choice_probability", split: Split = "search"
    ) -> float:
        """A merge's value on all items of a skill that were asked."""
        return float(self.answers[split][name][skill][metric].mean())

    def values(
        self, name: str, skill: str = "ja_math", metric: str = "choice_probability", split: Split = "search"
    ) -> Floats:
        """A merge's answers to the items of a skill, [items]."""
        return self.answers[split][name][skill][metric]

    def matrix(self, metric: str, names: Sequence[str] | None = None, skill: str = "ja_math") -> ResponseMatrix:
        """Merges by search items."""
        rows = self.names() if names is None else list(names)
        items = self.items("search")[skill]
        values = np.array([self.values(name, skill, metric) for name in rows])
        return make_matrix(values, rows, [item.id for item in items], groups=[item.group for item in items])

    def items(self, split: Split) -> dict[str, tuple[Item, ...]]:
        """Skill → the items that were asked."""
        return self._asked[split]

    @cached_property
    def _asked(self) -> dict[Split, dict[str, tuple[Item, ...]]]:
        return {"search": asked("search"), "holdout": asked("holdout")}

    @cached_property
    def places(self) -> dict[Split, dict[str, dict[str, int]]]:
        """Split → skill → id → place of the item."""
        return {
            split: {skill: {item.id: place for place, item in enumerate(items)} for skill, items in found.items()}
            for split, found in self._asked.items()
        }


def load_table(path: Path = TABLE, most: int | None = None) -> Table:
    """What `collect.py` has collected so far; its grid has at most so many merges."""
    answers: dict[Split, dict[str, Answers]] = {"search": {}, "holdout": {}}
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(text)
        except json.JSONDecodeError:
            continue  # a line that a killed process left
        answers[row["split"]].setdefault(row["name"], _arrays(row["values"]))
    return Table(answers, most)


def _arrays(values: Mapping[str, Mapping[str, str | list[float]]]) -> Answers:
    return {
        skill: {
            metric: np.array([float(digit) for digit in found] if isinstance(found, str) else found)
            for metric, found in by_metric.items()
        }
        for skill, by_metric in values.items()
    }


def name_of(recipe: Recipe, stage: Stage) -> str:
    """The name in the table of what answers for a run's candidate or baseline."""
    merge = recipe.merge
    if merge.method == "passthrough":
        (source,) = recipe.sources
        return BASELINES.get(source, BASELINES["base"]).name
    if merge.method == "linear" and not merge.sources and not merge.parameters:
        return BASELINES["average"].name
    weights = {source: float(merge.sources[source]["weight"]) for source in SOURCES}  # type: ignore[arg-type]
    return stage.answering(Weights(**weights)).name


class TablePool:
    """Fulfils `workers.job.Pool`: one worker that needs no time.

    Args:
        metrics: what answers hold.
    """

    def __init__(self, table: Table, metrics: Sequence[str] = ("choice_probability", "accuracy")) -> None:
        self.size, self.device = 1, "cpu"
        self.num_answers = 0
        self._table, self._metrics = table, metrics
        self._waiting: deque[JobResult] = deque()

    def submit(self, job: Job) -> None:
        """Answer a job; a merge that the table lacks is a bad recipe."""
        name = name_of(read(job.recipe), self._table.stage)
        found: dict[str, Responses] = {}
        for skill, ids in job.items.items():
            split: Split = "search" if ids[0] in self._table.places["search"][skill] else "holdout"
            if name not in self._table.answers[split]:
                failure = Failure(FailureReason.BAD_RECIPE, f"the table lacks {name} on the {split} items")
                self._waiting.append(JobResult(job.number, failure=failure))
                return
            places = [self._table.places[split][skill][i] for i in ids]
            answers = self._table.answers[split][name][skill]
            values = {metric: tuple(answers[metric][places].tolist()) for metric in self._metrics}
            found[skill] = Responses(tuple(ids), values, 0.0, 0)
            self.num_answers += len(ids)
        self._waiting.append(JobResult(job.number, found, worker="table"))

    def wait(self, timeout_s: float) -> list[JobResult]:
        """All results."""
        results = list(self._waiting)
        self._waiting.clear()
        return results

    def cancel(self) -> None:
        """Nothing comes of what was submitted."""
        self._waiting.clear()

    def close(self) -> None:
        """Nothing to stop."""
