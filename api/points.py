"""A run's scatter plot and history as columns, projected from its events and kept between requests.

Twenty thousand candidates are a fraction of a megabyte this way, and a poll costs one read of the newest events.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from evomerge.storage.store import Event, Store

PAGE = 2000
KEPT_RUNS = 32
"""Runs whose columns stay in memory; the least recently asked for goes first."""


class Projection:
    """The columns of one run up to event `last_seq`."""

    def __init__(self) -> None:
        self.last_seq = 0
        self.number: list[int] = []
        self.kind: list[str] = []
        self.label: list[str] = []
        self.generation: list[int] = []
        self.state: list[str] = []
        self.violation: list[float | None] = []
        self.scores: dict[str, list[float | None]] = {}
        self.se: dict[str, list[float | None]] = {}
        self.front: frozenset[int] = frozenset()
        self.history: dict[str, list[Any]] = {"scored": [], "seq": [], "hypervolume": []}
        self.best: dict[str, list[float | None]] = {}
        self._row: dict[int, int] = {}
        self._searching = True

    def apply(self, event: Event) -> None:
        """Take in the next event."""
        data = event.data
        match event.type:
            case "candidate.proposed":
                self._place(data)
            case "candidate.scored":
                self._score(data)
            case "candidate.started" | "candidate.requeued" | "candidate.failed" if _first(data):
                states = {"candidate.started": "running", "candidate.requeued": "proposed"}
                self.state[self._place(data)] = states.get(event.type, "failed")
            case "candidate.verified" if data["split"] == "search" and self._searching:
                self._score(data)  # an elite, known exactly from now on; the front is made of these scores
            case "run.state" if data.get("state") == "verifying":
                self._searching = False
            case "front.updated":
                self._update_front(event)
            case "run.state" if data.get("state") == "cancelled":
                self.state = ["cancelled" if s in ("proposed", "running") else s for s in self.state]
        self.last_seq = event.seq

    def _place(self, data: dict[str, Any]) -> int:
        """The candidate's row, a new one when it was not seen before."""
        number = data["number"]
        if number not in self._row:
            self._row[number] = len(self.number)
            self.number.append(number)
            self.kind.append(data.get("kind", "search"))
            self.label.append(data.get("label", ""))
            self.generation.append(data.get("generation", 0))
            self.state.append("proposed")
            self.violation.append(None)
            for column in (*self.scores.values(), *self.se.values()):
                column.append(None)
        return self._row[number]

    def _score(self, data: dict[str, Any]) -> None:
        row = self._place(data)
        self.state[row] = "scored"
        self.violation[row] = data.get("violation", 0.0)
        for name, score in data.get("scores", {}).items():
            for columns, key in ((self.scores, "mean"), (self.se, "se")):
                columns.setdefault(name, [None] * len(self.number))[row] = score.get(key)

    def _update_front(self, event: Event) -> None:
        self.front = frozenset(event.data.get("front", ()))
        length = len(self.history["seq"])
        self.history["seq"].append(event.seq)
        self.history["scored"].append(event.data.get("scored"))
        self.history["hypervolume"].append(event.data.get("hypervolume"))
        best = event.data.get("best") or {}
        for name in dict.fromkeys([*self.best, *best]):
            self.best.setdefault(name, [None] * length).append((best.get(name) or {}).get("mean"))

    def points(self) -> dict[str, Any]:
        """The scatter plot's columns, JSON-ready."""
        return {
            "last_seq": self.last_seq,
            "number": list(self.number),
            "kind": list(self.kind),
            "label": list(self.label),
            "generation": list(self.generation),
            "state": list(self.state),
            "on_front": [n in self.front for n in self.number],
            "violation": list(self.violation),
            "scores": {name: list(column) for name, column in self.scores.items()},
            "se": {name: list(column) for name, column in self.se.items()},
        }

    def course(self) -> dict[str, Any]:
        """The history's columns, JSON-ready: one row for each change of the front."""
        best = {name: list(column) for name, column in self.best.items()}
        return {"last_seq": self.last_seq, **{k: list(v) for k, v in self.history.items()}, "best": best}


def _first(data: dict[str, Any]) -> bool:
    """Whether an event is about a candidate's own scoring; a verification later leaves its place alone."""
    return bool(data.get("task", "subset") == "subset")


class Projections:
    """The projections of the runs that were asked for lately, each read up to the store's newest event."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: OrderedDict[str, tuple[threading.Lock, Projection]] = OrderedDict()
        self._lock = threading.Lock()

    def points(self, run_id: str) -> dict[str, Any]:
        """The scatter plot's columns as of now."""
        lock, projection = self._of(run_id)
        with lock:
            self._read(run_id, projection)
            return projection.points()

    def course(self, run_id: str) -> dict[str, Any]:
        """The history as of now."""
        lock, projection = self._of(run_id)
        with lock:
            self._read(run_id, projection)
            return projection.course()

    def _of(self, run_id: str) -> tuple[threading.Lock, Projection]:
        with self._lock:
            entry = self._kept.setdefault(run_id, (threading.Lock(), Projection()))
            self._kept.move_to_end(run_id)
            while len(self._kept) > KEPT_RUNS:
                self._kept.popitem(last=False)
            return entry

    def _read(self, run_id: str, projection: Projection) -> None:
        while events := self._store.events(run_id, projection.last_seq, PAGE):
            for event in events:
                projection.apply(event)
