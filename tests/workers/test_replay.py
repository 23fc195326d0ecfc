"""A stored run asked for again, begun near what is known, and ended by its limits; tiny real models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from api.seeding import with_seeds
from evomerge.errors import InvalidInputError
from evomerge.recipe.schema import Recipe
from evomerge.recipe.text import dump_yaml
from evomerge.run.dialogue import ReplayError
from evomerge.run.spec import RunSpec
from evomerge.storage.store import CandidateQuery, Commit, Event, Store
from tests.workers import tiny_run
from tests.workers.tiny_run import run_spec
from workers.registry import Registry
from workers.replay import replay


def copied(store: Store, events: list[Event], spec: dict[str, Any]) -> str:
    """A run of its own with these events."""
    run = store.create_run(spec, "copy")[0].id
    lease = store.acquire("test", 60, run)
    assert lease is not None
    store.commit(lease, Commit(events=tuple(events)))
    return run


def test_a_stored_run_follows_from_its_spec(whole: tuple[Store, str], registry: Registry) -> None:
    store, run = whole

    found = replay(store, run, registry)

    assert (found.candidates, found.told, found.state) == (12, 12, "succeeded")
    assert found.events == len(store.events(run))


@pytest.mark.parametrize("tampered", ["genome", "digest", "score"])
def test_a_run_that_was_tampered_with_does_not(
    whole: tuple[Store, str], registry: Registry, store: Store, tampered: str
) -> None:
    original, run = whole
    events = [Event(e.type, e.data, e.seq) for e in original.events(run)]
    number = 4 + 5  # within the second generation of four, which depends on the first one's scores
    for event in events:
        if event.type == "candidate.proposed" and event.data["number"] == number and tampered != "score":
            event.data[tampered] = [0.5, 0.25] if tampered == "genome" else "0" * 64
        if event.type == "candidate.scored" and event.data["number"] == 5 and tampered == "score":
            event.data["scores"]["skill"]["mean"] += 0.5

    with pytest.raises(ReplayError, match=r"candidate|event"):
        replay(store, copied(store, events, run_spec()), registry)


def test_a_search_looks_early_near_the_recipes_that_it_is_given(
    whole: tuple[Store, str], registry: Registry, tmp_path: Path
) -> None:
    earlier, run = whole
    (tmp_path / "mergekit.yaml").write_text(
        yaml.safe_dump(
            {
                "merge_method": "task_arithmetic",
                "base_model": str(registry.model("base")),
                "models": [
                    {"model": str(registry.model("math")), "parameters": {"weight": 0.9}},
                    {"model": str(registry.model("ja")), "parameters": {"weight": 0.1}},
                ],
                "dtype": "float32",
            }
        )
    )
    best = earlier.candidates(run, CandidateQuery(kind="search", sort="-score:skill", limit=1))[0][0]
    (tmp_path / "recipe.yaml").write_text(dump_yaml(Recipe.model_validate(best.recipe)))
    spec = RunSpec.model_validate(run_spec(optimizer={"name": "random"}, budget={"candidates": 14}))

    near = [str(tmp_path / "mergekit.yaml"), str(tmp_path / "recipe.yaml"), run]
    asked = with_seeds(spec, near, registry, earlier)

    assert len(asked.seeds) == 2 + 10
    (tmp_path / "again").mkdir()
    store, again = tiny_run.whole_run(tmp_path / "again", registry, asked.model_dump(mode="json", by_alias=True))
    proposed = [e.data for e in store.events(again) if e.type == "candidate.proposed" and e.data["kind"] == "search"]
    seen = [
        {name: p["weight"] for name, p in Recipe.model_validate(row.recipe).merge.sources.items()}
        for row in store.candidates(again, CandidateQuery(kind="search"))[0]
    ]
    assert {"math": 0.9, "ja": 0.1} in seen
    assert best.digest in [data["digest"] for data in proposed]
    assert replay(store, again, registry).candidates == 14
    store.close()


def test_what_is_no_recipe_or_of_other_models_is_refused(whole: tuple[Store, str], registry: Registry) -> None:
    store, run = whole
    spec = RunSpec.model_validate(run_spec(models={"base": "base", "sources": {"math": "math"}}))

    with pytest.raises(InvalidInputError, match=r"nothing\.yaml"):
        with_seeds(spec, ["nothing.yaml"], registry, store)
    with pytest.raises(InvalidInputError, match=r"sources\.ja"):
        with_seeds(spec, [run], registry, store)


@pytest.mark.parametrize(
    ("budget", "said", "most"),
    [
        ({"candidates": 50, "items": 40}, "items", 6),
        ({"candidates": 50, "hours": 1e-9}, "hours", 1),
        ({"candidates": 50, "target": {"skill": 0.0}}, "target", 10),
        ({"candidates": 50, "stagnation": 3}, "nothing got better", 40),
    ],
)
def test_a_search_stops_at_the_first_limit_and_verifies(
    store: Store, registry: Registry, tmp_path: Path, budget: dict[str, Any], said: str, most: int
) -> None:
    run = store.create_run(run_spec(budget=budget), "tiny")[0].id

    state = tiny_run.drive(store, registry, tmp_path / "cache", run)

    row = store.run(run)
    assert row is not None
    if budget.get("hours"):
        assert (state, row.reason) == ("failed", "no candidate could be scored")
        return
    assert state == "succeeded"
    assert row.reason is not None
    assert said in row.reason
    assert row.summary["scored"] <= most
    assert row.summary["result"]["winner"] >= 4
    assert replay(store, run, registry).state == "succeeded"


def test_a_space_of_two_recipes_ends_soon(store: Store, registry: Registry, tmp_path: Path) -> None:
    both = {"math": {"weight": 0.5}, "ja": {"weight": 0.5}}
    space = {"kind": "parameter", "methods": ["linear", "task_arithmetic"], "fixed_sources": both}
    spec = run_spec(space=space, optimizer={"name": "random"}, budget={"candidates": 20_000, "stagnation": 30})
    run = store.create_run(spec, "tiny")[0].id

    state = tiny_run.drive(store, registry, tmp_path / "cache", run)

    row = store.run(run)
    assert row is not None
    assert state == "succeeded"
    assert "nothing got better" in (row.reason or "")
    assert row.summary["scored"] < 200
