"""The same on the demo's models, weights and all: the table of Gram matrices, crossings at any entry, a live model.

Nothing is spread evenly here: a split inside a block reads a part of that block of every source. Times are those of one
core, what others did meanwhile left out. The cache's table is made anew.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import cast

import numpy as np
import torch

from evomerge.candidate import Descent
from evomerge.merge.resident import Resident
from evomerge.merge.resolve import pin
from evomerge.models.checkpoint import open_checkpoint
from evomerge.models.source import architecture_of_checkpoint
from evomerge.recipe.schema import Merge, ModelRef, Recipe
from search_spaces import make_space
from search_spaces.lineage import CrossingSpace

HERE = Path(__file__).parent
BASE = Path.home() / ".cache" / "evomerge" / "smollm2-135m-instruct"
ADAPTERS = HERE.parent / "zoo" / "adapters"


def main() -> None:
    """Prints and writes real.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--number", type=int, default=300)
    parser.add_argument("--cache", type=Path, default=BASE.parent / "deltas")
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    sources = {path.name: ModelRef(location=str(path)) for path in sorted(ADAPTERS.iterdir())}
    models = pin(Recipe(base=ModelRef(location=str(BASE)), sources=sources, merge=Merge(method="linear")), HERE)
    base = open_checkpoint(BASE)
    made = make_space(
        {"kind": "lineage"}, base=models.base, sources=models.sources,
        architecture=architecture_of_checkpoint(base), tensors=base.tensors, cache=wanted.cache,
    )  # fmt: skip
    space, rng = cast(CrossingSpace, made), np.random.default_rng(0)
    lineage = space.domain.lineage
    assert lineage is not None
    live = Resident(models, cache=wanted.cache)  # multiplies adapters out, where nobody has done it yet
    for path in wanted.cache.glob("gram-*.npy"):
        path.unlink()
    recipes = [space.descend(Descent(source=k), [], k) for k in range(lineage.sources)]
    first, times = list[float](), list[float]()
    for trial in range(len(recipes), wanted.number):
        parents = cast(tuple[int, int], tuple(map(int, rng.choice(range(max(0, trial - 20), trial), 2, replace=False))))
        splits = tuple(int(rng.integers(n)) for n in lineage.units)
        descent = Descent(parents=parents, splits=splits, mix=float(rng.random()))
        began = time.process_time()
        recipes.append(space.descend(descent, [recipes[p] for p in parents], trial))
        (times if first else first).append(1e3 * (time.process_time() - began))
    plain, pieces = list[float](), list[float]()
    for recipe in recipes[-10:]:
        for kind, asked in ((plain, models), (pieces, recipe)):
            began = time.process_time()
            live.materialize(asked)
            kind.append(1e3 * (time.process_time() - began))
    segments = [len(r.segments.chromosomes[0].starts) for r in recipes if r.segments is not None]
    found = {
        "first_crossing_ms": first[0],  # the table is made
        "descend_median_ms": float(np.median(times)),
        "descend_p99_ms": float(np.quantile(times, 0.99)),
        "segments_median": float(np.median(segments)),
        "segments_last": segments[-1],
        "table_mb": sum(path.stat().st_size for path in wanted.cache.glob("gram-*.npy")) / 1e6,
        "materialize_linear_ms": float(np.median(plain)),
        "materialize_segments_ms": float(np.median(pieces)),
    }
    print(json.dumps(found, indent=2))
    (HERE / "real.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
