"""A run that a script writes instead of a controller: for tests of whatever reads a store.

Every step is one real commit under a real lease, with the events that a controller would write.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

from evomerge.candidate import CandidateState
from evomerge.recipe.schema import Merge, ModelRef, Recipe, Rule
from evomerge.storage.store import CandidateRow, Commit, Event, RunState, Store

Scores = dict[str, dict[str, float]]
GROUPS = ((0, 9), (10, 19), (20, 29))
ROLES = ("attention", "mlp")


def spec(*objectives: str, candidates: int = 40, name: str = "scripted", **more: Any) -> dict[str, Any]:
    """A search over two sources in three layer groups, maximising the named objectives."""
    return {
        "schema": "evomerge.run/1",
        "name": name,
        "models": {"base": "base", "sources": {"ja": "ja", "math": "math"}},
        "space": {"kind": "parameter", "layers": 3},
        "objectives": [
            {"name": o, "eval_sets": [o], "metric": "accuracy", "direction": "maximize"} for o in objectives
        ],
        "budget": {"candidates": candidates},
        **more,
    }


class ScriptedRun:
    """Writes one run. Larger is better in every objective; the front is kept by plain comparison."""

    def __init__(self, store: Store, asked_for: dict[str, Any], *, seed: int = 0, location: str = "models") -> None:
        self.store, self.spec = store, asked_for
        self.row, _ = store.create_run(asked_for, asked_for["name"])
        self.id = self.row.id
        lease = store.acquire("script", 3600, self.id)
        assert lease is not None, "nobody else takes a run that was just made"
        self.lease = lease
        self.objectives = [o["name"] for o in asked_for["objectives"]]
        self.rows: dict[int, CandidateRow] = {}
        self.front: tuple[int, ...] = ()
        self.result: dict[str, Any] | None = None
        self._random = random.Random(seed)
        self._location = location

    def enter(self, state: RunState, reason: str | None = None) -> None:
        """Change the run's state."""
        self._commit([Event("run.state", {"state": state, "reason": reason})], state=state, reason=reason)

    def baselines(self, means: dict[str, tuple[float, ...]]) -> None:
        """Score baselines: label → one mean an objective."""
        for label, values in means.items():
            self.score(self.propose(kind="baseline", label=label), values)

    def propose(self, *, kind: str = "search", label: str = "", generation: int = 0) -> int:
        """A new candidate with a random genome; its number."""
        number = len(self.rows)
        genome = tuple(self._random.random() for _ in range(len(GROUPS) * len(ROLES) * 2))
        recipe = self._recipe(genome)
        row = CandidateRow(
            number=number,
            kind="baseline" if kind == "baseline" else "search",
            label=label,
            state=CandidateState.PROPOSED,
            generation=generation,
            genome=genome,
            digest=recipe.digest,
            recipe=recipe.model_dump(mode="json", by_alias=True, exclude_none=True),
        )
        data = {"number": number, "kind": kind, "label": label, "generation": generation, "digest": row.digest}
        self._commit([Event("candidate.proposed", data)], row)
        return number

    def start(self, number: int) -> None:
        """A worker has it."""
        row = replace(self.rows[number], state=CandidateState.RUNNING, attempts=1, worker="worker-1")
        self._commit([Event("candidate.started", {"number": number, "attempt": 1})], row)

    def score(self, number: int, means: tuple[float, ...], *, n: int = 100, violation: float = 0.0) -> None:
        """A candidate's scores, and the front if they change it."""
        scores = {name: self._estimate(mean, n) for name, mean in zip(self.objectives, means, strict=True)}
        row = replace(
            self.rows[number],
            state=CandidateState.SCORED,
            scores=scores,
            violation=violation,
            attempts=1,
            worker="worker-1",
            seconds={"materialize": 0.42, "score": 1.9},
        )
        seen = ("number", "kind", "label", "generation", "scores", "violation", "cached", "worker", "seconds")
        events = [Event("candidate.scored", {name: getattr(row, name) for name in seen})]
        self.rows[number] = row
        changed = self._update_front(events) if row.kind == "search" and violation <= 0 else []
        self._commit(events, *(self.rows[n] for n in {number, *changed}))

    def fail(self, number: int, reason: str, message: str) -> None:
        """A candidate that could not be scored."""
        failure = {"reason": reason, "message": message}
        row = replace(self.rows[number], state=CandidateState.FAILED, failure=failure, attempts=3)
        self._commit([Event("candidate.failed", {"number": number, "task": "subset", **failure})], row)

    def finish(self, holdout: int = 200) -> None:
        """Verify the first objective's best candidate and the baselines, and end the run."""
        winner = max(self.front, key=lambda n: self.rows[n].scores[self.objectives[0]]["mean"])
        labels = [n for n, row in self.rows.items() if row.kind == "baseline"]
        self.enter("verifying")
        table = [self._verified(n, holdout) for n in (winner, *labels)]
        first = self.objectives[0]
        best = table[0]["holdout"][first]["mean"]
        self.result = {
            "winner": winner,
            "table": table,
            "paired": [_paired(entry, first, best) for entry in table[1:]],
            "inflation": {},
        }
        self._commit([Event("run.result", self.result)])
        self.enter("succeeded")

    def _verified(self, number: int, holdout: int) -> dict[str, Any]:
        row = self.rows[number]
        scores = {
            split: {name: _with_interval(self._estimate(s["mean"] - drop, n)) for name, s in row.scores.items()}
            for split, n, drop in (("search", 2 * holdout, 0.0), ("holdout", holdout, 0.015))
        }
        self.rows[number] = replace(row, verified=scores)
        events = [
            Event("candidate.verified", {"number": number, "kind": row.kind, "label": row.label, "split": split,
                                         "scores": scores[split]})
            for split in scores
        ]  # fmt: skip
        self._commit(events, self.rows[number])
        return {"number": number, "kind": row.kind, "label": row.label, **scores}

    def _estimate(self, mean: float, n: int) -> dict[str, float]:
        return {"mean": mean, "se": math.sqrt(max(mean * (1 - mean), 0.0) / n), "n": n}

    def _update_front(self, events: list[Event]) -> list[int]:
        points = {
            n: tuple(row.scores[o]["mean"] for o in self.objectives)
            for n, row in self.rows.items()
            if row.kind == "search" and row.scores and row.violation <= 0
        }
        front = tuple(n for n in points if not any(_dominates(points[m], points[n]) for m in points))
        changed = sorted(set(front) ^ set(self.front))
        if changed:
            added, removed = sorted(set(front) - set(self.front)), sorted(set(self.front) - set(front))
            self.front = front
            for n in changed:
                self.rows[n] = replace(self.rows[n], on_front=n in front)
            summary = self._summary()
            kept = ("front", "hypervolume", "reference", "best", "scored")
            data = {"added": added, "removed": removed, **{name: summary[name] for name in kept}}
            events.append(Event("front.updated", data))
        return changed

    def _summary(self) -> dict[str, Any]:
        search = {n: row for n, row in self.rows.items() if row.kind == "search"}
        scored = [n for n, row in search.items() if row.state == CandidateState.SCORED]
        best = {}
        for o in self.objectives if scored else ():
            number = max(scored, key=lambda n: search[n].scores[o]["mean"])
            best[o] = {"number": number, **search[number].scores[o]}
        return {
            "budget": self.spec["budget"]["candidates"],
            "proposed": len(search),
            "scored": len(scored),
            "failed": sum(row.state == CandidateState.FAILED for row in search.values()),
            "generation": max((row.generation for row in search.values()), default=0),
            "objectives": self.spec["objectives"],
            "constraints": self.spec.get("constraints", []),
            "best": best,
            "front": list(self.front),
            "hypervolume": self._hypervolume(),
            "reference": [0.0] * len(self.objectives),
            "baselines": {row.label: n for n, row in self.rows.items() if row.kind == "baseline"},
            "result": self.result,
        }

    def _hypervolume(self) -> float:
        """Over the origin: exact for one or two objectives, the best product for more."""
        points = sorted(tuple(self.rows[n].scores[o]["mean"] for o in self.objectives) for n in self.front)
        if len(self.objectives) == 2:
            lower = [0.0, *(p[0] for p in points)]
            return sum((p[0] - low) * p[1] for p, low in zip(points, lower, strict=False))
        return max((math.prod(p) for p in points), default=0.0)

    def _recipe(self, genome: tuple[float, ...]) -> Recipe:
        genes = iter(genome)
        rules = tuple(
            Rule(layers=layers, roles=(role,), source=source, parameters={"weight": round(2 * next(genes) - 0.5, 4)})
            for layers in GROUPS
            for role in ROLES
            for source in ("ja", "math")
        )
        sources = {name: ModelRef(location=f"{self._location}/{name}", sha256="1" * 64) for name in ("ja", "math")}
        base = ModelRef(location=f"{self._location}/base", sha256="0" * 64)
        return Recipe(base=base, sources=sources, merge=Merge(method="task_arithmetic", rules=rules))

    def _commit(self, events: list[Event], *rows: CandidateRow, **more: Any) -> None:
        for row in rows:
            self.rows[row.number] = row
        self.store.commit(self.lease, Commit(tuple(events), tuple(rows), summary=self._summary(), **more))


def _dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a != b and all(x >= y for x, y in zip(a, b, strict=True))


def _with_interval(score: dict[str, float]) -> dict[str, float]:
    return {**score, "low": score["mean"] - 1.96 * score["se"], "high": score["mean"] + 1.96 * score["se"]}


def _paired(entry: dict[str, Any], objective: str, best: float) -> dict[str, Any]:
    difference = best - entry["holdout"][objective]["mean"]
    se = 0.6 * entry["holdout"][objective]["se"]
    low, high = difference - 1.96 * se, difference + 1.96 * se
    return {"against": entry["label"], "objective": objective, "difference": difference, "se": se, "low": low,
            "high": high, "wins": 60, "losses": 20, "p_sign": 0.001}  # fmt: skip
