"""Whole searches by the product itself over the table: controller, state machine, estimates, store; only the answers
come from a file."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collect import BASE, CACHE
from grid import SOURCES, ZOO

from evomerge.recipe.schema import Recipe
from evomerge.storage.sql import open_store
from table import Table, TablePool, name_of
from workers.controller import Controller
from workers.drive import ControllerSettings, all_events
from workers.job import WorkerSpec
from workers.registry import Registry


@dataclass(frozen=True, slots=True)
class Believed:
    """A candidate, and what the search said of its first objective.

    Attributes:
        mean, se: what was believed of it, or in loops its estimate, and the standard error.
        score: the unbiased score on its own items; None in loops.
    """

    name: str
    mean: float
    se: float
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What came of a run.

    Attributes:
        scored: the candidate with the best unbiased score, and its score and error.
        chosen: that of which most was believed when the search ended.
        verified: the run's winner: the best on all search items of those that the verification asked.
        front: names of all winners.
        items: answers that candidates gave before the verification, elites' included.
        all_items: all answers that were asked for: baselines, search and verification.
        candidates: that were scored, cached ones included.
    """

    scored: Believed
    chosen: Believed
    verified: Believed
    front: tuple[str, ...]
    items: int
    all_items: int
    candidates: int


def space(table: Table) -> dict[str, Any]:
    """The table's grid: three ordered choices."""
    weights = {"weight": list(table.stage.levels)}
    return {"kind": "parameter", "method": "task_arithmetic", "search": weights, "tie": [["es", "geo"]]}


def make_registry(table: Table, folder: Path) -> Registry:
    """The zoo's models, and eval sets of the items that the table has."""
    files = {}
    for skill, items in table.items("search").items():
        whole = {}
        for text in (ZOO / "items" / f"{skill}.jsonl").read_text(encoding="utf-8").splitlines():
            whole[json.loads(text)["id"]] = text
        kept = [*items, *table.items("holdout").get(skill, ())]
        files[skill] = str(folder / f"{skill}.jsonl")
        Path(files[skill]).write_text("".join(f"{whole[item.id]}\n" for item in kept), encoding="utf-8")
    models = {"base": str(BASE), **{name: str(ZOO / "adapters" / name) for name in SOURCES}}
    return Registry.of(models, files, folder)


def run(table: Table, registry: Registry, spec: Mapping[str, Any], folder: Path) -> Found:
    """One search from its spec to its winners, which answer all search items and not the holdout's.

    Args:
        spec: without models and space.
    """
    place = folder / "run.sqlite3"
    for old in folder.glob("run.sqlite3*"):
        old.unlink()
    store = open_store(f"sqlite:///{place}")
    pools = list[TablePool]()

    def pool_of(worker: WorkerSpec, spec: object) -> TablePool:
        pools.append(TablePool(table))
        return pools[-1]

    document: dict[str, Any] = {
        "models": {"base": "base", "sources": {name: name for name in SOURCES}},
        "space": space(table),
        "verify": {"top": 5, "holdout": False},
        **spec,
    }
    name = store.create_run(document, "table")[0].id
    controller = Controller(store, registry, pool_of, ControllerSettings(cache=CACHE, lease_s=60.0))
    lease = store.acquire(controller.owner, 60.0, name)
    assert lease is not None, "nobody else is here"
    controller.drive(lease, threading.Event())
    row = store.run(name)
    assert row is not None, "it was made above"
    if row.state != "succeeded":
        raise RuntimeError(f"{row.state}: {row.reason}")
    events = all_events(store, name)
    (result,) = [event.data for event in events if event.type == "run.result"]
    scored = {e.data["number"]: e.data for e in events if e.type == "candidate.scored" and e.data["kind"] == "search"}
    reviews = [event.data for event in events if event.type == "belief.updated"]
    objective = document["objectives"][0]["name"]

    def said(number: int, of: Mapping[str, float]) -> Believed:
        row = store.candidate(name, number)
        assert row is not None, "winners are candidates"
        score = scored[number]["scores"][objective]["mean"]
        return Believed(name_of(Recipe.model_validate(row.recipe), table.stage), of["mean"], of["se"], score)

    scores = {number: data["scores"][objective] for number, data in scored.items()}
    best = max(scores, key=lambda number: (scores[number]["mean"], -number))
    most = reviews[-1]["best"][objective] if reviews else scores[best] | {"number": best}
    winner, inflation = result["winner"], result["inflation"][objective]
    found = Found(
        scored=said(best, scores[best]),
        chosen=said(most["number"], most),
        verified=said(winner, {"mean": inflation["believed"], "se": inflation["se"]}),
        front=tuple(dict.fromkeys(said(number, scores[number]).name for number in result["winners"])),
        items=row.summary["items"],
        all_items=pools[0].num_answers,
        candidates=len(scored),
    )
    store.close()
    return found
