"""A real search over methods, orders and choices: it ends, and follows from its spec."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.optimizers import OPTIMIZERS
from evomerge.storage.sql import open_store
from tests.workers.tiny_run import counted_once, drive, events_of, run_spec
from workers.registry import Registry
from workers.replay import replay

SPACE = {
    "kind": "parameter",
    "methods": ["ties", "cabs", "ema"],
    "density": [0.2, 1],
    "order": True,
    "prior": "delta_norm",
    "search": {"election": ["mass", "count"], "normalize": None, "group": [32, 64, 128], "alpha": None},
}
BASELINES = 4


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("catcma", {"population": 5}),
        pytest.param("auto", {}, marks=pytest.mark.slow),
        pytest.param("staged", {"population": 4, "order": "density,weight"}, marks=pytest.mark.slow),
        pytest.param("random", {}, marks=pytest.mark.slow),
    ],
)
def test_a_search_of_mixed_genes_ends_and_follows_from_its_spec(
    registry: Registry, tmp_path: Path, name: str, options: dict[str, object]
) -> None:
    assert name in OPTIMIZERS
    spec = run_spec(space=SPACE, optimizer={"name": name, "options": options}, budget={"candidates": 16})
    store = open_store(f"sqlite:///{tmp_path / 'mixed.sqlite3'}")
    run = store.create_run(spec, "mixed")[0].id
    try:
        assert drive(store, registry, tmp_path / "cache", run) == "succeeded"
        events = events_of(store, run)
        proposed = [e.data for e in events if e.type == "candidate.proposed" and e.data["kind"] != "baseline"]
        failed = [e for e in events if e.type == "candidate.failed"]
        replayed = replay(store, run, registry)
    finally:
        store.close()

    assert counted_once(events)
    assert failed == []
    assert len({(data["genome"][0]) for data in proposed}) >= 2  # more than one method
    assert replayed.candidates == 16
    assert replayed.state == "succeeded"
