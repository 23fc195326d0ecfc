"""Tasks of the LM Evaluation Harness on two Ray workers, who build them anew and say what the local pool says."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fitness.harness.export import Splitting, from_harness, write
from fitness.harness.tasks import Asked
from fitness.items import load_eval_set
from tests.workers.pool_contract import collect, job
from tests.workers.tiny import make_spec
from workers import ray_runtime
from workers.job import JobResult, Pool, WorkerSpec
from workers.local import LocalPool
from workers.ray_pool import RayPool

pytest.importorskip("lm_eval")

pytestmark = [
    pytest.mark.slow,  # the harness is imported in three processes
    pytest.mark.ray,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore"),  # the harness's and its dependencies' own
]

DATA = """\
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
doc_to_text: "{{question}}"
"""

CHOICES = """\
task: picks
output_type: multiple_choice
doc_to_choice: choices
doc_to_target: [0, 1]
process_results: !function own.judge
metric_list: [{metric: acc, aggregation: mean}, {metric: gap, aggregation: mean}]
"""

TEXTS = """\
task: says
output_type: generate_until
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["="], max_gen_toks: 12}
process_results: !function own.digits
metric_list: [{metric: digits, aggregation: mean}, {metric: length, aggregation: mean}]
"""

OWN = """\
import hashlib

def judge(doc, results):
    scores = [score for score, _ in results]
    return {"acc": float(scores.index(max(scores)) in (0, 1)), "gap": scores[0] - scores[2]}

def digits(doc, results):
    text = hashlib.sha256(results[0].encode()).hexdigest()  # any other text is worth another number
    return {"digits": int(text[:6], 16), "length": len(results[0])}
"""

METRICS = {"picks": ("harness:acc", "harness:gap"), "says": ("harness:digits", "harness:length")}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerSpec]:
    """Tiny models, and two tasks written down as eval sets; their data are removed then, for workers need none."""
    folder = tmp_path_factory.mktemp("tasks")
    known = make_spec(folder)
    rows = [{"question": f"2 times {n} =", "choices": [str(2 * n + shift) for shift in range(3)]} for n in range(24)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "own.py").write_text(OWN, encoding="utf-8")
    eval_sets = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "hub")
        for name, text in (("picks", CHOICES), ("says", TEXTS)):
            task = folder / f"{name}.yaml"
            task.write_text(text + DATA % (folder / "rows.jsonl"), encoding="utf-8")
            write(from_harness(Asked(str(task)), splitting=Splitting(0.4)), folder / f"items-{name}.jsonl")
            eval_sets[name] = str(folder / f"items-{name}.jsonl")
        (folder / "rows.jsonl").unlink()
        yield replace(known, eval_sets=eval_sets, metrics=METRICS)


def answers(pool: Pool, spec: WorkerSpec, numbers: range) -> dict[int, JobResult]:
    """Of candidates that differ by a weight, to all items of both tasks."""
    ids = {name: tuple(i.id for i in load_eval_set(name, Path(path)).items) for name, path in spec.eval_sets.items()}
    for n in numbers:
        pool.submit(replace(job(spec, n, math=0.4 * n), items=ids))
    return collect(pool, len(numbers))


def test_two_ray_workers_score_tasks_as_the_local_pool_does(spec: WorkerSpec) -> None:
    local = LocalPool(spec)
    try:
        expected = answers(local, spec, range(6))
    finally:
        local.close()
    assert ray_runtime.start(count=2)
    try:
        pool = RayPool(spec, count=2)
        try:
            found = answers(pool, spec, range(6))
            pids = pool.pids
        finally:
            pool.close()
    finally:
        ray_runtime.stop()

    assert len({*pids, os.getpid()}) == 3
    assert len({result.worker for result in found.values()}) == 2
    for n, result in found.items():
        assert result.failure is None, result.failure
        for name, metrics in METRICS.items():
            assert set(result.responses[name].values) == set(metrics)
            assert result.responses[name].item_ids == expected[n].responses[name].item_ids
            assert result.responses[name].values == expected[n].responses[name].values
    assert found[0].responses["picks"].values != found[5].responses["picks"].values
    assert found[0].responses["says"].values != found[5].responses["says"].values
