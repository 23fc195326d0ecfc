"""A search whose optimizer asks for more items gets them, from all candidates of a generation alike."""

from __future__ import annotations

from pathlib import Path

from evomerge.storage.store import Store
from tests.workers.tiny_run import BASELINES, events_of, make_registry, run_spec, whole_run


def items_of(store: Store, run: str, number: int) -> set[str]:
    row = store.candidate(run, number)
    assert row is not None
    return set(row.responses["subset"]["sums"]["item_ids"])


def test_noisy_ranks_are_answered_with_more_items(tmp_path: Path) -> None:
    objective = {"name": "skill", "eval_sets": ["sums"], "metric": "accuracy", "items": 4}
    spec = run_spec(objectives=[objective], budget={"candidates": 14}, subset={"rotate": False})
    spec["optimizer"] = {"name": "cma_es", "options": {"population": 4, "noise": "auto"}}
    store, run = whole_run(tmp_path, make_registry(tmp_path), spec)
    asked = [e.data for e in events_of(store, run) if e.type == "candidate.proposed"][len(BASELINES) :]
    answers = {data["number"]: items_of(store, run, data["number"]) for data in asked}
    by_fidelity = {data.get("fidelity", 1.0): answers[data["number"]] for data in asked}

    assert max(by_fidelity) > 1
    assert all(answers[data["number"]] == by_fidelity[data.get("fidelity", 1.0)] for data in asked)
    for fidelity, items in by_fidelity.items():
        assert by_fidelity[1.0] <= items
        assert len(items) == round(4 * fidelity)
    row = store.candidate(run, asked[-1]["number"])
    assert row is not None
    assert row.scores["skill"]["n"] == len(answers[row.number])
