"""What of a hybrid winner is its path, and what its weights?

Each without the other answers the same holdout items, and so do two paths written by hand.

python experiments/data_flow_search/parts.py --base ~/.cache/evomerge/smollm2-135m-instruct
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from study import HERE, SOURCES, ZOO, items

from evomerge.recipe.path import Hop, LayerPath
from evomerge.recipe.schema import Merge, Recipe
from evomerge.run.spec import RunSpec
from workers.job import Job
from workers.registry import Registry
from workers.resident_worker import Worker
from workers.setup import prepare

BY_HAND = ("math:0-0 ja:1-14 math:15-29", "math:0-20 ja:21-28 math:29-29")


def path_of(words: str) -> LayerPath:
    """What `study.said` wrote; the host comes first."""
    hops = []
    for stretch in words.split():
        model, _, layers = stretch.partition(":")
        first, _, last = layers.partition("-")
        hops += [Hop(model=model, layer=layer) for layer in range(int(first), int(last) + 1)]
    return LayerPath(host=hops[0].model, layers=tuple(hops))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--pool", type=int, default=150)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads((HERE / "results_hybrid_auto_0.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        items(folder / "ja_math.jsonl", arguments.pool)
        models = {"base": str(arguments.base.expanduser()), **{s: str(ZOO / "adapters" / s) for s in SOURCES}}
        registry = Registry.of(models, {"ja_math": "ja_math.jsonl"}, folder)
        search = prepare(RunSpec.model_validate(found["spec"]), registry, folder / "cache")
        average = search.baselines["average"]
        merge, path = Merge.model_validate(found["merge"]), path_of(found["path"])
        recipes = {
            "average": average,
            "weights": average.model_copy(update={"merge": merge}),
            "path": average.model_copy(update={"path": path}),
            **{words: average.model_copy(update={"path": path_of(words)}) for words in BY_HAND},
            "both": Recipe.model_validate(average.model_copy(update={"merge": merge, "path": path}).model_dump()),
        }
        worker = Worker(search.worker, "parts")
        ids = tuple(item.id for item in search.plan.eval_sets["ja_math"].split("holdout"))
        values = {}
        for number, (name, recipe) in enumerate(recipes.items()):
            result = worker.run(Job(number, recipe, {"ja_math": ids}))
            assert result.failure is None, result.failure
            values[name] = np.array(result.responses["ja_math"].values["choice_probability"])
    rows = {}
    for name, answers in values.items():
        differences = {other: answers - others for other, others in values.items() if other != name}
        rows[name] = {
            "mean": round(float(answers.mean()), 4),
            "minus": {
                other: [round(float(d.mean()), 4), round(float(d.std(ddof=1) / len(d) ** 0.5), 4)]
                for other, d in differences.items()
            },
        }
        print(name, rows[name])
    (HERE / "results_parts_0.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
