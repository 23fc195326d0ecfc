"""Every merge method, with its defaults, on the demo's real models: does it run, what does it cost, how good is it?

Builds each candidate in a worker from the same four adapters and scores it on holdout items of five skills. Methods
that read statistics are calibrated on search items of each source's own skill. Writes `results.json` and `results.md`.

    python experiments/zoo/base.py
    python experiments/methods/run.py            # about half an hour on two quiet cores
    python experiments/methods/run.py --only ties,star --items 20
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.progress import Progress

from evomerge.merge.method import Method
from evomerge.merge.methods import BUILT_IN
from evomerge.merge.resolve import pin
from evomerge.recipe.calibration import Calibration, FileRef
from evomerge.recipe.schema import Merge, ModelRef, Recipe
from fitness.items import load_eval_set
from workers.job import Job, JobResult, WorkerSpec
from workers.ray_pool import RayPool

HERE = Path(__file__).resolve().parent
ZOO = HERE.parent / "zoo"
sys.path.insert(0, str(ZOO))

from base import default_cache, prepare_base  # noqa: E402  # the zoo is a folder of scripts

SOURCES = ("math", "ja", "es", "geo")
SKILLS = (*SOURCES, "ja_math")
PAIR = ("ja", "math")
"""The sources of methods that take fewer than four."""
SAMPLES = 24
"""Calibration items a source."""


def recipes(base: Path, methods: dict[str, Method]) -> dict[str, Recipe]:
    """One recipe a method, at its defaults, on as many sources as it takes."""
    refs = {name: ModelRef(location=str(ZOO / "adapters" / name)) for name in SOURCES}
    whole = pin(Recipe(base=ModelRef(location=str(base)), sources=refs, merge=Merge(method="linear")), HERE)
    found = {
        "base": whole.model_copy(update={"sources": {"the-base": whole.base}, "merge": Merge(method="passthrough")})
    }
    for name, method in sorted(methods.items()):
        most = method.num_sources[1] or len(SOURCES)
        names = SOURCES if most >= len(SOURCES) else PAIR[:most]
        sources = {source: whole.sources[source] for source in sorted(names)}
        update = {"sources": sources, "merge": Merge(method=name), "calibration": _calibration(method, tuple(sources))}
        found[name] = whole.model_copy(update=update)
    return found


def _calibration(method: Method, sources: tuple[str, ...]) -> Calibration | None:
    if not method.requires:
        return None
    files = {s: FileRef(location=str(ZOO / "items" / f"{s}.jsonl")) for s in sources}
    return Calibration(items=next(iter(files.values())), sources=files, number=SAMPLES, without_moments="fisher")


def score(asked: dict[str, Recipe], cache: Path, items_a_skill: int) -> dict[int, JobResult]:
    """All of them, on two workers."""
    files = {skill: ZOO / "items" / f"{skill}.jsonl" for skill in SKILLS}
    items = {
        skill: tuple(item.id for item in load_eval_set(skill, path).split("holdout")[:items_a_skill])
        for skill, path in files.items()
    }
    whole = next(recipe for recipe in asked.values() if len(recipe.sources) == len(SOURCES))
    pool = RayPool(WorkerSpec(whole, {s: str(p) for s, p in files.items()}, cache=str(cache / "deltas")))
    results: dict[int, JobResult] = {}
    try:
        for number, recipe in enumerate(asked.values()):
            pool.submit(Job(number, recipe, items, deadline_s=1200))
        with Progress() as bar:
            task = bar.add_task("scoring", total=len(asked))
            while len(results) < len(asked):
                results |= {result.number: result for result in pool.wait(1.0)}
                bar.update(task, completed=len(results))
    finally:
        pool.close()
    return results


def row(result: JobResult) -> dict[str, object]:
    """Accuracies and seconds, or the reason for which there are none."""
    seconds = {phase: round(value, 2) for phase, value in result.seconds.items()}
    if result.failure is not None:
        return {"failure": f"{result.failure.reason.value}: {result.failure.message}", "seconds": seconds}
    accuracy = {skill: sum(v := result.responses[skill].values["accuracy"]) / len(v) for skill in SKILLS}
    return {"accuracy": {s: round(a, 4) for s, a in accuracy.items()}, "seconds": seconds}


def markdown(rows: dict[str, dict[str, object]], items: int) -> str:
    """The table, best mean first; failures last."""
    lines = [
        f"Accuracy on {items} holdout items a skill (five choices, chance 0.20; one standard error of a mean over the "
        f"five is about {(0.25 / (5 * items)) ** 0.5:.3f} at most), every method at its defaults; seconds to build the "
        "candidate in a worker (wall, one of two at a time).",
        "",
        "| method | " + " | ".join(SKILLS) + " | mean | seconds |",
        "|---|" + "---|" * (len(SKILLS) + 2),
    ]
    good = {n: r["accuracy"] for n, r in rows.items() if isinstance(r.get("accuracy"), dict)}
    means = {name: sum(a.values()) / len(a) for name, a in good.items()}  # type: ignore[attr-defined]
    for name in sorted(good, key=lambda n: -means[n]):
        cells = [f"{value:.2f}" for value in good[name].values()]  # type: ignore[attr-defined]
        seconds = rows[name]["seconds"]
        assert isinstance(seconds, dict)
        cells += [f"{means[name]:.3f}", f"{seconds.get('materialize', 0):.1f}"]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    failed = {n: r["failure"] for n, r in rows.items() if "failure" in r}
    lines += [f"| `{name}` | {reason} |" + " |" * (len(SKILLS) + 1) for name, reason in failed.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Score every method and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=40, help="holdout items a skill")
    parser.add_argument("--only", default="", help="names of methods, with commas")
    parser.add_argument("--out", type=Path, default=HERE)
    arguments = parser.parse_args()
    names = set(arguments.only.split(",")) if arguments.only else set(BUILT_IN)
    cache = default_cache()
    asked = recipes(prepare_base(cache), {n: m for n, m in BUILT_IN.items() if n in names})
    results = score(asked, cache, arguments.items)
    rows = {name: row(results[number]) for number, name in enumerate(asked)}
    (arguments.out / "results.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (arguments.out / "results.md").write_text(markdown(rows, arguments.items), encoding="utf-8")


if __name__ == "__main__":
    main()
