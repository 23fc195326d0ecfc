"""A tiny real search: the models of `tests.workers.tiny`, items in both splits, a store in a file."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from evomerge.storage.sql import open_store
from evomerge.storage.store import TERMINAL, Event, Store
from tests.workers.tiny import make_spec
from workers.controller import Controller
from workers.drive import ControllerSettings
from workers.pools import make_pool
from workers.registry import Registry

BASELINES = ["base", "average", "source:ja", "source:math"]


def make_registry(folder: Path, **shape: Any) -> Registry:
    """Tiny models and two eval sets with both splits, and a registry file over them."""
    make_spec(folder, **shape)
    for name, step in (("sums", 2), ("threes", 3)):
        lines = [json.dumps(_item(name, n, step)) for n in range(48)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    models = {name: str(folder / name) for name in ("base", "math", "ja")}
    sets = {name: str(folder / f"{name}.jsonl") for name in ("sums", "threes")}
    (folder / "registry.yaml").write_text(json.dumps({"models": models, "eval_sets": sets}))
    return Registry.load(folder / "registry.yaml")


def _item(name: str, n: int, step: int) -> dict[str, Any]:
    choices = [f" {n * step + shift}" for shift in range(3)]
    split = "search" if n % 2 else "holdout"
    return {"id": f"{name}-{n}", "context": f"{step} times {n} =", "choices": choices, "label": 0, "split": split}


def run_spec(**changes: Any) -> dict[str, Any]:
    """A search over the tiny models, as a user would write it."""
    return {
        "name": "tiny",
        "models": {"base": "base", "sources": {"math": "math", "ja": "ja"}},
        "space": {"kind": "parameter", "method": "task_arithmetic"},
        "objectives": [{"name": "skill", "eval_sets": ["sums"], "metric": "choice_probability", "items": 8}],
        "optimizer": {"name": "cma_es", "options": {"population": 4}},
        "budget": {"candidates": 12},
        "verify": {"top": 2},
        "workers": {"pool": "local"},
        "dtype": "float32",
        "seed": 5,
    } | changes


def controller(store: Store, registry: Registry, cache: Path) -> Controller:
    """A controller with the real pools."""
    return Controller(store, registry, make_pool, ControllerSettings(cache=cache, lease_s=5.0, poll_s=0.05))


def drive(store: Store, registry: Registry, cache: Path, run: str, stop: threading.Event | None = None) -> str:
    """Drive a run in this thread until it is over or `stop` is set; its state then."""
    driver = controller(store, registry, cache)
    lease = store.acquire(driver.owner, 5.0, run)
    assert lease is not None
    driver.drive(lease, stop or threading.Event())
    row = store.run(run)
    assert row is not None
    return row.state


def drive_until(store: Store, registry: Registry, cache: Path, run: str, seq: int) -> None:
    """Drive a run in this thread until its event `seq` is stored, or it is over."""

    def watch() -> None:
        while (row := store.run(run)) is not None and row.last_seq < seq and row.state not in TERMINAL:
            time.sleep(0.01)
        stop.set()

    stop = threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    drive(store, registry, cache, run, stop)
    watcher.join()


def whole_run(folder: Path, registry: Registry, spec: dict[str, Any]) -> tuple[Store, str]:
    """A store in which a run of `spec` has ended."""
    store = open_store(f"sqlite:///{folder / 'whole.sqlite3'}")
    run = store.create_run(spec, "tiny")[0].id
    drive(store, registry, folder / "cache", run)
    return store, run


def events_of(store: Store, run: str) -> list[Event]:
    return store.events(run, limit=100_000)


def genomes_of(events: list[Event]) -> list[list[float]]:
    """Every genome asked for, in order."""
    return [e.data["genome"] for e in events if e.type == "candidate.proposed"]


def scores_of(events: list[Event]) -> dict[int, dict[str, Any]]:
    return {e.data["number"]: e.data["scores"] for e in events if e.type == "candidate.scored"}


def counted_once(events: list[Event]) -> bool:
    """Whether every candidate was proposed and scored exactly once and events have no gaps."""
    proposed = Counter(e.data["number"] for e in events if e.type == "candidate.proposed")
    ended = Counter(e.data["number"] for e in events if e.type in ("candidate.scored", "candidate.failed"))
    return (
        [e.seq for e in events] == list(range(1, len(events) + 1))
        and set(proposed.values()) == {1}
        and ended == proposed
    )
