"""A whole search over a lineage: M2N2, candidates as segments over the sources, tiny real models."""

from __future__ import annotations

from pathlib import Path

from evomerge.merge.execute import merge_to_directory
from evomerge.recipe.schema import Recipe
from evomerge.storage.store import CandidateQuery
from tests.workers import tiny_run
from tests.workers.tiny_run import run_spec
from workers.registry import Registry
from workers.replay import replay

SPEC = run_spec(
    space={"kind": "lineage", "chromosomes": [["attention"], ["*"]], "granularity": "exact", "angle": "side"},
    optimizer={"name": "m2n2", "options": {"population": 4, "warmup": 2}},
    budget={"candidates": 14},
)


def test_a_search_over_a_lineage_runs_to_its_end_and_follows_from_its_spec(registry: Registry, tmp_path: Path) -> None:
    store, run = tiny_run.whole_run(tmp_path, registry, SPEC)
    row = store.run(run)
    assert row is not None

    assert row.state == "succeeded"
    rows, _ = store.candidates(run, CandidateQuery(limit=100))
    recipes = [Recipe.model_validate(r.recipe) for r in rows if r.kind == "search"]
    segments = [sum(len(c.starts) for c in recipe.segments.chromosomes) for recipe in recipes if recipe.segments]
    assert len(segments) == 14
    assert max(segments) > 4  # grandchildren
    assert list((tmp_path / "cache").glob("gram-*.npy"))
    assert replay(store, run, registry).candidates == 14
    best = max((r for r in rows if r.kind == "search" and r.scores), key=lambda r: r.scores["skill"]["mean"])
    built = merge_to_directory(Recipe.model_validate(best.recipe), tmp_path / "best", root=Path())
    assert (built / "model.safetensors").exists()
    store.close()
