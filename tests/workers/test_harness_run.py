"""A whole run whose objectives are judged by the code of a task of the LM Evaluation Harness."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evomerge.candidate import Estimate
from fitness.harness.export import Splitting, from_harness, write
from fitness.harness.tasks import Asked
from fitness.items import load_eval_set
from tests.workers.tiny_run import events_of, make_registry, run_spec, scores_of, whole_run
from workers.registry import Registry

pytest.importorskip("lm_eval")

pytestmark = [
    pytest.mark.slow,  # importing the harness and datasets takes half of a minute on a busy machine
    pytest.mark.filterwarnings("ignore"),  # the harness's and its dependencies' own
]

TASK = """\
task: own
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: [0, 1]
process_results: !function own.judge
metric_list: [{metric: acc, aggregation: mean}, {metric: gap, aggregation: mean}]
"""

JUDGE = """\
def judge(doc, results):
    scores = [score for score, _ in results]
    return {"acc": float(scores.index(max(scores)) in (0, 1)), "gap": scores[0] - scores[2]}
"""


def test_a_search_follows_what_a_task_s_code_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hub")
    rows = [{"question": f"2 times {n} =", "choices": [str(2 * n + shift) for shift in range(3)]} for n in range(48)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "own.py").write_text(JUDGE, encoding="utf-8")
    (tmp_path / "own.yaml").write_text(TASK % (tmp_path / "rows.jsonl"), encoding="utf-8")
    write(from_harness(Asked(str(tmp_path / "own.yaml")), splitting=Splitting(0.4)), tmp_path / "own.jsonl")
    known = make_registry(tmp_path)
    registry = Registry(known.models, {"own": tmp_path / "own.jsonl"})
    objectives = [
        {"name": name, "eval_sets": ["own"], "metric": f"harness:{name}", "items": 8} for name in ("acc", "gap")
    ]

    store, run = whole_run(tmp_path, registry, run_spec(objectives=objectives, budget={"candidates": 6}))

    row = store.run(run)
    assert row is not None
    assert (row.state, row.summary.get("reason_for_failure")) == ("succeeded", None), row
    items = load_eval_set("own", tmp_path / "own.jsonl")
    candidate = store.candidate(run, 1)
    assert candidate is not None
    answers = candidate.responses["subset"]["own"]
    assert set(answers["values"]) == {"harness:acc", "harness:gap"}
    assert set(answers["item_ids"]) <= {item.id for item in items.items}
    for scores in scores_of(events_of(store, run)).values():
        assert 0 <= Estimate(**scores["acc"]).mean <= 1
