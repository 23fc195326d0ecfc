"""What a gradient costs beside a plain evaluation, on a real model and adapters of it.

Run from the repository's root: python experiments/benchmarks/gradient/measure.py BASE ADAPTER... --items FILE
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from statistics import median
from typing import Any

from evomerge.recipe.schema import Merge, ModelRef, Recipe
from fitness.evaluator import Slopes
from fitness.items import load_eval_set
from workers.job import Job, WorkerSpec
from workers.resident_worker import Worker


def measure(base: Path, adapters: list[Path], items: Path, dtype: Any, count: int, repeats: int) -> dict[str, Any]:
    """Medians of processor seconds, and the peak of memory in MiB before and after the gradients."""
    sources = {path.name: ModelRef(location=str(path.resolve())) for path in adapters}
    share = {"weight": 1 / len(sources)}
    merge = Merge(method="task_arithmetic", parameters=share)
    recipe = Recipe(base=ModelRef(location=str(base.resolve())), sources=sources, merge=merge, dtype=dtype)
    ids = tuple(item.id for item in load_eval_set("items", items).split("search")[:count])
    slopes = (Slopes("choice_probability", {"items": dict.fromkeys(ids, 1 / len(ids))}),)
    worker = Worker(WorkerSpec(recipe, {"items": str(items)}), "w")
    assert worker.run(Job(0, recipe, {"items": ids})).failure is None
    plain = [_timed(worker, Job(0, recipe, {"items": ids})) for _ in range(repeats)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with_gradient = [_timed(worker, Job(0, recipe, {"items": ids}, slopes=slopes)) for _ in range(repeats)]
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "base": base.name,
        "sources": sorted(sources),
        "dtype": dtype,
        "items": len(ids),
        "repeats": repeats,
        "cpu_seconds_plain": median(plain),
        "cpu_seconds_with_gradient": median(with_gradient),
        "ratio": median(with_gradient) / median(plain),
        "peak_mib_before_gradient": before,
        "peak_mib_after_gradient": after,
    }


def _timed(worker: Worker, job: Job) -> float:
    """Processor seconds of a job: on a machine that others use, too, they say more than the clock."""
    began = time.process_time()
    result = worker.run(job)
    seconds = time.process_time() - began
    assert result.failure is None, result.failure
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("adapters", type=Path, nargs="+")
    parser.add_argument("--items", type=Path, required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    given = parser.parse_args()
    found = measure(given.base, given.adapters, given.items, given.dtype, given.count, given.repeats)
    given.out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
