"""Searches whose answers vLLM writes, and what is said where it is not installed."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import InvalidInputError
from evomerge.merge.resident import Resident
from evomerge.recipe.path import Hop, LayerPath
from evomerge.recipe.schema import Merge
from evomerge.run.spec import RunSpec
from fitness.fingerprint import libraries
from fitness.generation import GenerationScorer, longest
from fitness.items import load_eval_set
from fitness.vllm_decoder import VllmDecoder
from tests.workers.tiny import make_spec
from tests.workers.tiny_run import counted_once, events_of, make_registry, run_spec, scores_of, whole_run
from workers.job import Job, WorkerSpec
from workers.memory import evaluator_of
from workers.registry import Registry
from workers.resident_worker import Worker
from workers.setup import prepare

INSTALLED = find_spec("vllm") is not None
SHAPE = {"hidden_size": 128, "initializer_range": 0.1}
"""Heads of 32 entries: vLLM's attention on a CPU has none of fewer."""


def answers_file(folder: Path) -> Path:
    answering = {"extract": "continuation", "max_new_tokens": 6, "stop": ["\n"]}
    lines = [
        {"id": f"say-{n}", "context": f"{n} times {n + 1} =", "references": [str(n)], "answering": answering,
         "split": "search" if n % 2 else "holdout"}
        for n in range(24)
    ]  # fmt: skip
    place = folder / "say.jsonl"
    place.write_text("\n".join(map(json.dumps, lines)))
    return place


def asked(**workers: Any) -> dict[str, Any]:
    objective = {"name": "overlap", "eval_sets": ["say"], "metric": "f1", "items": 8}
    tokens = {"name": "length", "eval_sets": ["say"], "metric": "answer_tokens", "direction": "minimize", "items": 8}
    return run_spec(
        objectives=[objective, tokens],
        optimizer={"name": "nsga2"},
        budget={"candidates": 6},
        workers={"pool": "local", **workers},
    )


def registry_of(folder: Path, **shape: Any) -> Registry:
    models = {alias: str(place) for alias, place in make_registry(folder, **shape).models.items()}
    return Registry.of(models, {"say": str(answers_file(folder))}, folder)


@pytest.mark.skipif(INSTALLED, reason="vLLM is installed")
def test_a_run_that_asks_for_vllm_without_it_is_refused(tmp_path: Path) -> None:
    spec = RunSpec.model_validate(asked(generation="vllm"))

    with pytest.raises(InvalidInputError, match=r"(?s)workers\.generation.*vllm.*install vLLM"):
        prepare(spec, registry_of(tmp_path), tmp_path / "cache")


@pytest.mark.skipif(INSTALLED, reason="vLLM is installed")
def test_a_worker_without_vllm_says_so(tmp_path: Path) -> None:
    failure = Worker(replace(make_spec(tmp_path), generation="vllm"), "w").start()

    assert failure is not None
    assert "install vLLM" in failure.message


@pytest.mark.parametrize("workers", [{"generation": "sglang"}, {"generation_memory": 0.0}, {"generation_memory": 1.0}])
def test_other_engines_and_shares_are_refused(workers: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"workers\.generation"):
        RunSpec.model_validate(asked(**workers))


def test_the_fingerprint_names_the_engine_and_plain_answers_keep_theirs(tmp_path: Path) -> None:
    worker = make_spec(tmp_path)
    plain = evaluator_of(worker, "cpu", ["f1"])
    fast = evaluator_of(replace(worker, generation="vllm", generation_memory=0.5), "cpu", ["f1"])

    assert plain.engine == libraries()
    assert fast.engine.startswith(f"{plain.engine}, vllm ")
    assert fast.settings == plain.settings
    assert fast.fingerprint != plain.fingerprint


slow = [
    pytest.mark.slow,
    pytest.mark.skipif(not INSTALLED, reason="vLLM is not installed"),
    pytest.mark.filterwarnings("ignore"),  # its imports warn of what they themselves deprecate
]


@pytest.fixture
def worker_spec(tmp_path: Path) -> WorkerSpec:
    return replace(make_spec(tmp_path, **SHAPE), eval_sets={"say": str(answers_file(tmp_path))})


class TestWithVllm:
    pytestmark = slow

    def test_merges_and_paths_answer_one_after_the_other_as_without_it(self, worker_spec: WorkerSpec) -> None:
        items = load_eval_set("say", Path(worker_spec.eval_sets["say"])).items
        resident = Resident(worker_spec.recipe)
        length = longest(resident.tokenizer, items)
        fast = GenerationScorer(
            resident.model, resident.tokenizer, engine=lambda plain: VllmDecoder(plain, resident, length=length)
        )
        plain = GenerationScorer(resident.model, resident.tokenizer)
        path = LayerPath(layers=tuple(Hop(model="math", layer=n) for n in (0, 1, 1)))
        said = []
        for math, ja, way in ((1.5, 0.0, None), (0.0, 1.5, None), (1.5, 0.0, path), (1.5, 0.0, None)):
            merge = Merge(method="task_arithmetic", sources={"math": {"weight": math}, "ja": {"weight": ja}})
            resident.materialize(worker_spec.recipe.model_copy(update={"merge": merge, "path": way}))
            said.append(fast.answers(items))

            assert said[-1] == plain.answers(items)
        assert said[0] == said[3]
        assert said[0] != said[1] != said[2] != said[0]

    def test_a_worker_takes_it_where_items_ask_for_answers(self, worker_spec: WorkerSpec) -> None:
        ids = {"say": tuple(f"say-{n}" for n in range(24))}
        found = []
        for generation in ("vllm", "transformers"):
            worker = Worker(replace(worker_spec, generation=generation), generation)
            failure, result = worker.start(), worker.run(Job(0, worker_spec.recipe, ids))

            assert failure is result.failure is None
            found.append(result.responses["say"].values)
        assert found[0] == found[1]

    def test_two_searches_in_one_process_score_as_without_it(self, tmp_path: Path) -> None:
        scores = {}
        for name, generation in (("a", "transformers"), ("b", "vllm"), ("c", "vllm")):
            folder = tmp_path / name
            folder.mkdir()
            store, run = whole_run(folder, registry_of(folder, **SHAPE), asked(generation=generation))
            events = events_of(store, run)
            row = store.run(run)

            assert row is not None
            assert row.state == "succeeded"
            assert counted_once(events)
            scores[name] = scores_of(events)
            store.close()

        assert len(scores["a"]) > 6
        assert scores["a"] == scores["b"] == scores["c"]
