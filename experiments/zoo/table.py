"""The zoo's accuracy table: base, sources and known mixes on every skill's holdout items, scored by evomerge itself.

Writes `accuracy.md` and `accuracy.json` beside this file. Two workers, about ten minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.progress import Progress

from base import default_cache, prepare_base
from evomerge.candidate import Estimate
from evomerge.merge.resolve import pin
from evomerge.recipe.schema import Merge, ModelRef, Recipe
from fitness.estimate import interval
from fitness.items import load_eval_set
from workers.job import Job, JobResult, WorkerSpec
from workers.ray_pool import RayPool

HERE = Path(__file__).resolve().parent
SOURCES = ("math", "ja", "es", "geo")
SKILLS = (*SOURCES, "ja_math")
MIXES = {
    "plain average": dict.fromkeys(SOURCES, 0.25),
    "sum of math and ja": {"math": 1.0, "ja": 1.0},
    "math 1, ja 0.5 (by hand)": {"math": 1.0, "ja": 0.5},
}


def main() -> None:
    """Score everything and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=200, help="holdout items a skill")
    arguments = parser.parse_args()
    cache = default_cache()
    models = _models(prepare_base(cache))
    files = {skill: HERE / "items" / f"{skill}.jsonl" for skill in SKILLS}
    items = {
        skill: tuple(item.id for item in load_eval_set(skill, path).split("holdout")[: arguments.items])
        for skill, path in files.items()
    }
    worker = WorkerSpec(models["plain average"], {s: str(p) for s, p in files.items()}, cache=str(cache / "deltas"))
    results = _score(worker, models, items)
    rows = {name: {skill: _accuracy(results[n], skill) for skill in SKILLS} for n, name in enumerate(models)}
    (HERE / "accuracy.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (HERE / "accuracy.md").write_text(_markdown(rows, items), encoding="utf-8")


def _models(base: Path) -> dict[str, Recipe]:
    sources = {name: ModelRef(location=str(HERE / "adapters" / name)) for name in SOURCES}
    pinned = pin(Recipe(base=ModelRef(location=str(base)), sources=sources, merge=Merge(method="linear")), HERE)

    def alone(name: str, ref: ModelRef) -> Recipe:
        return pinned.model_copy(update={"sources": {name: ref}, "merge": Merge(method="passthrough")})

    def mix(weights: dict[str, float]) -> Recipe:
        values = {name: {"weight": weights.get(name, 0.0)} for name in SOURCES}
        return pinned.model_copy(update={"merge": Merge(method="task_arithmetic", sources=values)})

    return {
        "base": alone("the-base", pinned.base),
        **{name: alone(name, ref) for name, ref in pinned.sources.items()},
        **{name: mix(weights) for name, weights in MIXES.items()},
    }


def _score(worker: WorkerSpec, models: dict[str, Recipe], items: dict[str, tuple[str, ...]]) -> dict[int, JobResult]:
    pool = RayPool(worker)
    results: dict[int, JobResult] = {}
    try:
        for number, recipe in enumerate(models.values()):
            pool.submit(Job(number, recipe, items))
        with Progress() as bar:
            task = bar.add_task("scoring", total=len(models))
            while len(results) < len(models):
                results |= {result.number: result for result in pool.wait(1.0)}
                bar.update(task, completed=len(results))
    finally:
        pool.close()
    return results


def _accuracy(result: JobResult, skill: str) -> dict[str, float]:
    if result.failure is not None:
        raise RuntimeError(f"a model could not be scored: {result.failure.message}")
    right = result.responses[skill].values["accuracy"]
    n, mean = len(right), sum(right) / len(right)
    low, high = interval(Estimate(mean, max(mean * (1 - mean), 1 / n) ** 0.5 / n**0.5, n), bounds=(0.0, 1.0))
    return {"mean": round(mean, 4), "low": round(low, 4), "high": round(high, 4), "n": n}


def _markdown(rows: dict[str, dict[str, dict[str, float]]], items: dict[str, tuple[str, ...]]) -> str:
    counts = ", ".join(f"{skill} {len(ids)}" for skill, ids in items.items())
    lines = [
        f"Accuracy on holdout items ({counts}; five choices, chance 0.20), with 95 % intervals (`make zoo-table`).",
        "",
        "| model | " + " | ".join(SKILLS) + " | mean |",
        "|---|" + "---|" * (len(SKILLS) + 1),
    ]
    for name, scores in rows.items():
        cells = [f"{s['mean']:.3f} [{s['low']:.2f}, {s['high']:.2f}]" for s in scores.values()]
        mean = sum(s["mean"] for s in scores.values()) / len(scores)
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {mean:.3f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
