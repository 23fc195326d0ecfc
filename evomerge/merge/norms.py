"""How large the base's tensors are, and each source's differences from them: read once and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from evomerge.errors import CheckpointError, InvalidInputError
from evomerge.merge.blocks import TensorWork, blocks_of
from evomerge.merge.engine import kept_memory, one_thread_a_kernel
from evomerge.merge.execute import usable_cores
from evomerge.merge.folded import exclusive
from evomerge.merge.inputs import open_inputs
from evomerge.merge.plan import Plan, plan
from evomerge.merge.primitives.gram import Gram
from evomerge.merge.resolve import pin
from evomerge.recipe.schema import Merge, ModelRef, Recipe
from evomerge.recipe.shared import VOCABULARY

Norms = Mapping[str, tuple[float, Mapping[str, float]]]
"""Tensor → ‖θ0‖², and source → ‖δ‖²; of tensors that are merged."""

_VERSION = 1
_CPU = torch.device("cpu")


def task_vector_norms(
    base: ModelRef,
    sources: Mapping[str, ModelRef],
    cache: Path | None = None,
    shared: Mapping[str, Any] | None = None,
) -> Norms:
    """Squared norms of every tensor that is merged, in one pass over the models, block by block.

    Sums are in float64 in one fixed order: the same on every machine with the same models.

    Args:
        base, sources: with absolute locations.
        cache: a directory that keeps the numbers under the models' content hashes; None reads the models every time.
        shared: what the recipes in question say of how sources are aligned and rows matched
            (`evomerge.recipe.shared.shared_fields`).

    Raises:
        CheckpointError, ArchitectureError, NonFiniteError: the models cannot be read, do not fit together or hold NaN.
        InvalidInputError: a source is a recipe.
    """
    recipe = Recipe(base=base, sources=dict(sources), merge=Merge(method="task_arithmetic"), **(shared or {}))
    if cache is None:
        return _measure(recipe, None)
    if any(ref.sha256 is None for ref in (base, *sources.values())):
        recipe = pin(recipe, Path("/"))
    path = cache / f"norms-v{_VERSION}-{_digest(recipe)}.json"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with exclusive(path.with_suffix(".lock")):
            if not path.exists():
                part = path.with_suffix(".part")
                part.write_text(json.dumps(_measure(recipe, cache)), encoding="utf-8")
                part.replace(path)
            found: Norms = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: norms cannot be kept: {error.strerror or error}") from error
    return found


def _digest(recipe: Recipe) -> str:
    models = [recipe.base.sha256, *((name, ref.sha256) for name, ref in recipe.sources.items())]
    canonical = recipe.canonical()
    how = {name: canonical[name] for name in ("align", *VOCABULARY) if name in canonical}
    said = [] if how == {"tokenizer": "base"} else [how]
    return hashlib.sha256(json.dumps([_VERSION, models, *said], sort_keys=True).encode()).hexdigest()


def _measure(recipe: Recipe, cache: Path | None) -> Norms:
    with open_inputs(recipe, Path("/"), _refuse, cache) as inputs:
        todo = plan(recipe, inputs.base.tensors, inputs.architecture, inputs.changed)
        works = (work for work in inputs.works(todo) if not work.job.buffer)
        with one_thread_a_kernel(), kept_memory(), ThreadPoolExecutor(usable_cores(), "norms") as pool:
            return dict(pool.map(lambda work: _of_tensor(todo, work), works))


def _of_tensor(todo: Plan, work: TensorWork) -> tuple[str, tuple[float, dict[str, float]]]:
    base, deltas = Gram(1), {name: Gram(1) for name in todo.sources}
    for block in blocks_of(todo, work, {}, _CPU):
        base.add([block.base])
        for name, delta in block.deltas.items():
            if delta is not None:
                deltas[name].add([delta])
    return work.job.name, (float(base.products[0, 0]), {name: float(g.products[0, 0]) for name, g in deltas.items()})


def _refuse(path: Path) -> Path:
    raise InvalidInputError("models", str(path), "a model's directory: for a prior, merge the recipe first")
