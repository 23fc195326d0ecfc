"""What a run's complete answers say about its items and about ways to need few of them: calibration reports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from evomerge.errors import InvalidInputError
from evomerge.run.spec import RunSpec
from evomerge.runtime import one_blas_thread
from evomerge.storage.store import CandidateQuery, CandidateRow, RunRow, Store
from fitness.irt.calibration import ItemReport, item_report
from fitness.irt.contracts import Bank, Selection
from fitness.matrix import Floats, make_matrix
from fitness.objectives import ObjectivePlan
from workers.drive import all_events
from workers.registry import Registry
from workers.report import responses_of
from workers.setup import load_eval_sets

PAGE = 500

Chosen = Mapping[tuple[int, str], frozenset[str]]
"""(generation, eval set) → items that everybody was asked because they tell most."""


@dataclass(frozen=True, slots=True)
class RunItems:
    """One eval set and metric of a run.

    Attributes:
        subjects: who answered all search items.
        asked: search items that a candidate answers; None is all.
        report: None where there are too few subjects.
        why: why there is no report; else "".
    """

    eval_set: str
    metric: str
    subjects: int
    asked: int | None
    report: ItemReport | None
    why: str

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "eval_set": self.eval_set,
            "metric": self.metric,
            "subjects": self.subjects,
            "asked": self.asked,
            "report": None if self.report is None else self.report.to_dict(),
            "why": self.why,
        }


def item_reports(store: Store, run: RunRow, registry: Registry) -> list[RunItems]:
    """A report for every eval set and metric of a run's objectives; seconds for hundreds of items.

    Raises:
        EvomergeError: an eval set is not there any more.
    """
    spec = RunSpec.model_validate(run.spec)
    plan = ObjectivePlan(spec, load_eval_sets(spec, registry))
    rows = list(_rows(store, run.id))
    chosen = {
        (event.data["generation"], name): frozenset(ids)
        for event in all_events(store, run.id)
        if event.type == "subset.chosen"
        for name, ids in event.data["eval_sets"].items()
    }
    with one_blas_thread():
        return [_items_of(plan, spec, rows, chosen, *question) for question in plan.questions]


def _rows(store: Store, run: str) -> Iterator[CandidateRow]:
    cursor: str | None = None
    while True:
        page, cursor = store.candidates(run, CandidateQuery(limit=PAGE, cursor=cursor))
        yield from page
        if cursor is None:
            return


def _items_of(
    plan: ObjectivePlan, spec: RunSpec, rows: list[CandidateRow], chosen: Chosen, eval_set: str, metric: str
) -> RunItems:
    complete: dict[str, list[float]] = {}
    for row in rows:
        for task in ("subset", "search"):
            found = plan.complete_row(responses_of(row, task), eval_set, metric)
            if found is not None:
                complete[row.label or str(row.number)] = found
    items, asked = plan.items_by_id(eval_set), plan.draws.asked[eval_set]
    matrix = make_matrix(
        np.array(list(complete.values())).reshape(len(complete), len(items)),
        list(complete),
        [item.id for item in items],
        groups=[item.group for item in items],
        weights=[item.weight for item in items],
    )
    parents = tuple(k for k, name in enumerate(complete) if name.startswith("source:"))
    try:
        report = item_report(
            Bank(matrix, parents),
            eval_set=eval_set,
            seed=spec.seed,
            numbers=sorted({10, 20, 30, 50, 100} | ({asked} if asked else set())),
            generations=_generations(plan, rows, chosen, eval_set, metric),
        )
    except InvalidInputError as error:
        return RunItems(eval_set, metric, len(complete), asked, None, str(error))
    return RunItems(eval_set, metric, len(complete), asked, report, "")


def _generations(
    plan: ObjectivePlan, rows: list[CandidateRow], chosen: Chosen, eval_set: str, metric: str
) -> list[tuple[int, Selection, Floats]]:
    """What candidates of each generation answered, as far as they answered the same items."""
    place = {item.id: k for k, item in enumerate(plan.items_by_id(eval_set))}
    asked: dict[int, dict[tuple[str, ...], list[list[float]]]] = {}
    for row in rows:
        found = responses_of(row, "subset").get(eval_set)
        if row.kind == "search" and found is not None and metric in found.values:
            by_id = sorted(zip(found.item_ids, found.values[metric], strict=True))
            ids = tuple(i for i, _ in by_id if i in place)
            values = [value for i, value in by_id if i in place]
            asked.setdefault(row.generation, {}).setdefault(ids, []).append(values)
    result = []
    for generation in sorted(asked):
        ids, answers = max(asked[generation].items(), key=lambda pair: (len(pair[0]), pair[0]))
        places = np.array([place[i] for i in ids], dtype=np.intp)
        certain = chosen.get((plan.draws.number(generation), eval_set), frozenset())
        drawn = np.array([i not in certain for i in ids], dtype=np.bool_)
        result.append((generation, Selection(places, places * 0, {0: len(place)}, drawn), np.array(answers)))
    return result
