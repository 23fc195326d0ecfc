"""Candidates with a path on a worker: scored as the checkpoint that is exported of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.errors import FailureReason
from evomerge.merge.execute import merge_to_directory
from evomerge.recipe.path import Hop, LayerPath
from evomerge.recipe.schema import Merge, Recipe
from fitness.items import load_eval_set
from fitness.scorer import make_scorer
from tests.workers.tiny import NUM_ITEMS, make_spec
from workers.job import Job, WorkerSpec
from workers.resident_worker import Worker

ITEMS = {"sums": tuple(f"sum-{n}" for n in range(NUM_ITEMS))}
PATHS = {
    "deeper": (("base", 0, 1.0), ("math", 1, 0.9), ("ja", 0, -1.2), ("math", 1, 0.8), ("base", 1, 1.1)),
    "shallower": (("math", 1, 1.3),),
    "hybrid": (("merged", 0, 1.0), ("base", 1, 0.9), ("merged", 1, 1.1)),
}


def path_of(name: str) -> LayerPath:
    return LayerPath(layers=tuple(Hop(model=m, layer=n, scale=s) for m, n, s in PATHS[name]))


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> WorkerSpec:
    return make_spec(tmp_path_factory.mktemp("path-jobs"))


def candidate(spec: WorkerSpec, path: LayerPath | None) -> Recipe:
    merge = Merge(method="linear", sources={"math": {"weight": 0.8}, "ja": {"weight": 0.2}})
    return spec.recipe.model_copy(update={"path": path, "merge": merge})


def test_paths_are_scored_as_their_exports(spec: WorkerSpec, tmp_path: Path) -> None:
    worker = Worker(spec, "one")
    recipes = {"merge": candidate(spec, None), **{name: candidate(spec, path_of(name)) for name in PATHS}}
    for name in ("deeper", "merge", "hybrid", "shallower", "deeper"):
        done = worker.run(Job(0, recipes[name], ITEMS))
        assert done.failure is None
        out = tmp_path / name
        if not out.exists():
            merge_to_directory(recipes[name], out, root=tmp_path)
        model = AutoModelForCausalLM.from_pretrained(out).eval()
        scorer = make_scorer(model, AutoTokenizer.from_pretrained(spec.recipe.base.location))
        expected = scorer.score(load_eval_set("sums", Path(spec.eval_sets["sums"])).pick(ITEMS["sums"]))

        found = done.responses["sums"]
        for metric in found.values:
            np.testing.assert_allclose(found.values[metric], expected.values[metric], atol=1e-4)


def test_a_path_that_cannot_be_is_a_failure_not_an_end(spec: WorkerSpec) -> None:
    worker = Worker(spec, "one")
    wrong = candidate(spec, LayerPath(layers=(Hop(model="base", layer=2),)))
    failed = worker.run(Job(0, wrong, ITEMS))
    after = worker.run(Job(1, candidate(spec, path_of("shallower")), ITEMS))

    assert failed.failure is not None
    assert failed.failure.reason is FailureReason.BAD_RECIPE
    assert "layers 0 to 1 of base" in failed.failure.message
    assert after.failure is None
