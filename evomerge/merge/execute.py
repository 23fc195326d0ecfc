"""`evomerge merge`: a recipe to a model directory, out of core.

One tensor is in memory at a time: its operands and the result. Everything is written beside `out` and renamed when it
is whole.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from evomerge.errors import CheckpointError, InvalidInputError
from evomerge.merge.blocks import measure_model, merge_into
from evomerge.merge.folded import folded
from evomerge.merge.inputs import Inputs, open_inputs
from evomerge.merge.plan import Plan, plan
from evomerge.merge.resolve import pin
from evomerge.merge.sidecar import write_sidecar
from evomerge.models.source import AdapterSource
from evomerge.models.stream import ShardWriter
from evomerge.recipe.schema import Recipe
from evomerge.recipe.text import load_recipe

Progress = Callable[[int, int], None]
"""Called with tensors done and tensors in all."""


def merge_to_directory(
    recipe: Recipe,
    out: Path,
    *,
    root: Path,
    progress: Progress | None = None,
    check_hashes: bool = True,
) -> Path:
    """Build the model that a recipe describes: weights, config, tokenizer, chat template and the recipe itself.

    A source that is a recipe is built first, beside `out`, and removed afterwards.

    Args:
        recipe: what to build.
        out: the directory to make; it may exist if it is empty.
        root: relative locations in the recipe are under it.
        progress: told of every tensor that is done.
        check_hashes: whether to read all weights beforehand and compare them with the recipe's hashes.

    Returns:
        `out`.

    Raises:
        InvalidInputError: `out` is in use, the recipe is illegal, or recipes refer to each other in a circle.
        HashMismatchError: weights are not the ones that the recipe names.
        CheckpointError, ArchitectureError, NonFiniteError: see there. Nothing is left behind.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInputError("out", str(out), "a directory that does not exist yet or is empty")
    return _build(pin(recipe, root) if check_hashes else recipe, out, root, progress, ())


def _build(recipe: Recipe, out: Path, root: Path, progress: Progress | None, above: tuple[Path, ...]) -> Path:
    """`above` holds the recipe files that wait for this one."""
    with _scratch(out) as scratch:

        def build(path: Path) -> Path:
            return _build_source(path, scratch, above)

        with open_inputs(recipe, root, build) as inputs:
            todo = plan(recipe, inputs.base.tensors, inputs.architecture, inputs.changed)
            _write(recipe, todo, inputs, out, scratch, progress)
    return out


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A folder on the disk of `out` that is gone afterwards."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        made = tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".parts", dir=out.parent)
    except OSError as error:
        raise CheckpointError(f"{out}: cannot be written: {error.strerror or error}") from error
    try:
        yield Path(made)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _build_source(path: Path, scratch: Path, above: tuple[Path, ...]) -> Path:
    path = path.resolve()
    if path in above:
        circle = " → ".join(p.name for p in (*above, path))
        raise InvalidInputError("sources", str(path), f"recipes that do not refer to each other in a circle ({circle})")
    out = scratch / str(len(list(scratch.iterdir())))
    return _build(load_recipe(path), out, path.parent, None, (*above, path))


def _write(recipe: Recipe, todo: Plan, inputs: Inputs, out: Path, scratch: Path, progress: Progress | None) -> None:
    measured: Mapping[str, float] | None = None
    if todo.measures == "model":
        inputs = _with_folded(inputs, scratch)  # they are read several times
        measured = measure_model(todo, lambda: inputs.works(todo), torch.device("cpu"))
    with ShardWriter(out, recipe.shard_bytes) as writer:
        for done, job in enumerate(todo.jobs):
            work = inputs.work(job)
            result = torch.empty(work.base.shape, dtype=job.dtype)
            merge_into(result, todo, work, measured)
            writer.add(job.name, result)
            if progress is not None:
                progress(done + 1, len(todo.jobs))
        places = [source.path for source in inputs.sources.values()]
        write_sidecar(inputs.base.path, inputs.base.config, recipe, writer.directory, places)


def _with_folded(inputs: Inputs, scratch: Path) -> Inputs:
    deltas = {
        name: folded(source, name, inputs.shapes, scratch)
        for name, source in inputs.sources.items()
        if isinstance(source, AdapterSource)
    }
    return replace(inputs, deltas=deltas)
