"""`evomerge merge`: a recipe to a model directory, out of core.

Everything is written in a hidden directory beside `out`, which takes its name when it is whole. A merge that is killed
leaves its finished shards there, and the same merge goes on from them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from evomerge.errors import InvalidInputError
from evomerge.merge.adapter_output import write_adapter
from evomerge.merge.blocks import measure_model
from evomerge.merge.budget import Shapes, Unit, check_memory, promised, units_of
from evomerge.merge.device import device_named
from evomerge.merge.engine import Progress, Resources, Works, kept_memory, merge_units, one_thread_a_kernel
from evomerge.merge.factored import with_factors
from evomerge.merge.fingerprint import check_circle, fingerprint
from evomerge.merge.flow.layout import path_config, path_plan
from evomerge.merge.flow.visited import AllVisited, open_visited
from evomerge.merge.folded import folded
from evomerge.merge.inputs import Inputs, is_recipe, open_inputs
from evomerge.merge.methods import method_of
from evomerge.merge.outlook import Outlook, check_disk, outlook
from evomerge.merge.plan import Plan, plan
from evomerge.merge.resolve import pin
from evomerge.merge.sidecar import write_sidecar
from evomerge.merge.vocabulary import BASE
from evomerge.models.hub import locate
from evomerge.models.layout import Entry, Shard, lay_out
from evomerge.models.partial import Partial, partial
from evomerge.models.source import AdapterSource
from evomerge.models.stream import ShardWriter
from evomerge.recipe.output import Output
from evomerge.recipe.path import MERGED
from evomerge.recipe.schema import Recipe
from evomerge.recipe.text import load_recipe
from evomerge.runtime import only_new_garbage


def merge_to_directory(
    recipe: Recipe,
    out: Path,
    *,
    root: Path,
    progress: Progress | None = None,
    check_hashes: bool = True,
    threads: int | None = None,
    memory: int | None = None,
    device: str = "cpu",
    cache: Path | None = None,
    hashes: Path | None = None,
) -> Path:
    """Build the model that a recipe describes: weights, config, tokenizer, chat template and the recipe itself.

    A source that is a recipe is built first, beside `out`, and removed afterwards; so is the parameter-space part of a
    recipe whose path visits it.

    Args:
        recipe: what to build.
        out: the directory to make; it may exist if it is empty.
        root: relative locations in the recipe are under it.
        progress: told of bytes written and bytes in all.
        check_hashes: whether to read all weights beforehand and compare them with the recipe's hashes.
        threads: tensors merged at a time; by default one a core that this process may use.
        memory: bytes of tensors that may be in memory at a time, beside the interpreter and its libraries; by default
            (number of sources + 2) × the largest tensor in float32.
        device: where the arithmetic is done: `cpu`, or `cuda` (with `:1` and so on).
        cache: a directory that keeps the statistics of models which some methods read; by default they are collected
            for this merge alone.
        hashes: a directory that remembers hashes of unchanged files; by default all weights are read for theirs.

    Returns:
        `out`.

    Raises:
        InvalidInputError: `out` is in use, the recipe is illegal, recipes refer to each other in a circle, `memory` is
            too small for the method, or there is no such device.
        HashMismatchError: weights are not the ones that the recipe names.
        CheckpointError: files are missing, corrupt or cannot be written, or another merge is writing `out`.
        ArchitectureError, NonFiniteError: see there. No error leaves anything behind; a kill leaves what is finished.
    """
    _check_free(out)
    asked = _Asked(threads or usable_cores(), memory, device_named(device), cache)
    with only_new_garbage():
        return _build(pin(recipe, root, hashes) if check_hashes else recipe, out, root, asked, progress, ())


def _check_free(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInputError("out", str(out), "a directory that does not exist yet or is empty")


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the caller allows."""

    threads: int
    memory: int | None
    device: torch.device
    cache: Path | None

    def resources(self, todo: Plan, units: Sequence[Unit], shapes: Shapes) -> Resources:
        memory = self.memory if self.memory is not None else max(promised(todo, shapes), *(u.memory for u in units), 0)
        check_memory(todo, units, memory)
        return Resources(self.threads, memory, self.device)


def _build(
    recipe: Recipe, out: Path, root: Path, asked: _Asked, progress: Progress | None, above: tuple[Path, ...]
) -> Path:
    """`above` holds the recipe files that wait for this one."""
    with partial(out, fingerprint(recipe, root, above)) as at:

        def build(path: Path) -> Path:
            return _build_source(path.resolve(), at.scratch, asked, above)

        def merge(part: Recipe) -> Path:
            return _build_part(part, root, at.scratch, asked, above)

        if recipe.path is not None:
            _check_whole(recipe)
            with open_visited(recipe, root, build, merge) as visited:
                _write_path(recipe, visited, at, asked, progress)
            at.publish()
            return out
        with open_inputs(recipe, root, build, carried=True) as inputs:
            todo = _planned(recipe, inputs)
            if method_of(recipe.merge).requires:
                from evomerge.merge.calibration.calibrated import calibrated  # loads transformers, which takes a second

                inputs = calibrated(inputs, recipe, asked.cache or at.scratch, root=root, device=asked.device)
            if recipe.output is None:
                _write(recipe, todo, inputs, at, asked, progress)
            else:
                _write_adapter(recipe, recipe.output, todo, inputs, at, asked, progress)
        at.publish()
    return out


def _planned(recipe: Recipe, inputs: Inputs) -> Plan:
    todo = with_factors(plan(recipe, inputs.base.tensors, inputs.architecture, inputs.changed), inputs.sources)
    if not inputs.written:
        return todo
    return replace(todo, jobs=tuple(replace(job, written=inputs.written.get(job.name)) for job in todo.jobs))


def _build_source(path: Path, scratch: Path, asked: _Asked, above: tuple[Path, ...]) -> Path:
    """The model of a recipe that is a source; what a killed merge has built already is taken."""
    check_circle(path, above)
    recipe = load_recipe(path)
    out = scratch / fingerprint(recipe, path.parent, (*above, path))
    return out if out.exists() else _build(recipe, out, path.parent, asked, None, (*above, path))


def _check_whole(recipe: Recipe) -> None:
    if recipe.output is not None:
        raise InvalidInputError("output", recipe.output.kind, "none: a path gives a whole model")


def _build_part(part: Recipe, root: Path, scratch: Path, asked: _Asked, above: tuple[Path, ...]) -> Path:
    """The model that a recipe with a path gives without it; what a killed merge has built already is taken."""
    out = scratch / fingerprint(part, root, above)
    return out if out.exists() else _build(part, out, root, asked, None, above)


def _write_path(recipe: Recipe, visited: AllVisited, at: Partial, asked: _Asked, progress: Progress | None) -> None:
    assert recipe.path is not None
    config = path_config(recipe.path, visited)  # what it refuses is refused before weights are read
    _write_weights(recipe, path_plan(recipe, visited), visited, at, asked, progress, lambda: None)
    places = dict(visited.places)
    base, host = places.pop(BASE), visited.host
    places.pop(MERGED, None)
    donor = host.path if host.adapter is None else host.checkpoint.path
    write_sidecar(base, config, recipe, at.model, places, donor=donor)


def _write(recipe: Recipe, todo: Plan, inputs: Inputs, at: Partial, asked: _Asked, progress: Progress | None) -> None:
    if todo.measures == "model":
        inputs = _with_folded(inputs, at.scratch)  # they are read several times
    _write_weights(recipe, todo, inputs, at, asked, progress, lambda: _measured(todo, inputs, asked))
    places = {name: source.path for name, source in inputs.sources.items()}
    write_sidecar(inputs.base.path, inputs.base.config, recipe, at.model, places, inputs.vocabulary)


def _write_weights(
    recipe: Recipe,
    todo: Plan,
    works: Works,
    at: Partial,
    asked: _Asked,
    progress: Progress | None,
    measure: Callable[[], Mapping[str, float] | None],
) -> None:
    """`measure` gives what the method measures over the whole model; asked only if there is something left to do."""
    shapes, shards = _laid_out(recipe, todo, works)
    missing = {entry.name for shard in shards if shard.file not in at.finished for entry in shard.entries}
    units = units_of(todo, [job for job in todo.jobs if job.output in missing], shapes, works.computed)
    resources = asked.resources(todo, units, shapes)
    check_disk(at.out, sum(shard.file_bytes for shard in shards if shard.file not in at.finished))
    measured = measure() if missing else None
    with ShardWriter(at, shards) as writer:
        merge_units(todo, units, works, writer, resources, measured, progress)


def _laid_out(recipe: Recipe, todo: Plan, inputs: Works) -> tuple[Shapes, tuple[Shard, ...]]:
    """The results' shapes by name, and the files that hold them."""
    shapes = {job.name: inputs.shape(job) for job in todo.jobs}
    return shapes, lay_out([Entry(job.output, job.dtype, shapes[job.name]) for job in todo.jobs], recipe.shard_bytes)


def foresee(
    recipe: Recipe,
    out: Path,
    *,
    root: Path,
    threads: int | None = None,
    memory: int | None = None,
    device: str = "cpu",
) -> Outlook:
    """What `merge_to_directory` would do; nothing is merged or written.

    A source that is a recipe is taken to be as large as its base.

    Raises:
        InvalidInputError, CheckpointError, ArchitectureError: as `merge_to_directory`, but no weights are looked at.
    """
    _check_free(out)
    asked = _Asked(threads or usable_cores(), memory, device_named(device), None)
    return _foreseen(recipe, out, root, asked, ())


def _foreseen(recipe: Recipe, out: Path, root: Path, asked: _Asked, above: tuple[Path, ...]) -> Outlook:
    inner: dict[str, Outlook] = {}

    def build(path: Path) -> Path:
        path = path.resolve()
        check_circle(path, above)
        wanted = load_recipe(path)
        inner[path.name] = _foreseen(wanted, out, path.parent, asked, (*above, path))
        base = locate(wanted.base, path.parent)
        return build(base) if is_recipe(base) else base

    def merge(part: Recipe) -> Path:
        inner[MERGED] = _foreseen(part, out, root, asked, above)
        return build(base) if is_recipe(base := locate(part.base, root)) else base

    def planned(todo: Plan, works: Works) -> Outlook:
        shapes, shards = _laid_out(recipe, todo, works)
        units = units_of(todo, todo.jobs, shapes, works.computed)
        return outlook(todo, works, units, shards, out, asked.resources(todo, units, shapes))

    if recipe.path is not None:
        with open_visited(recipe, root, build, merge) as visited:
            found = planned(path_plan(recipe, visited), visited)
    else:
        with open_inputs(recipe, root, build, carried=True) as inputs:
            found = planned(_planned(recipe, inputs), inputs)
    for name, first in inner.items():
        found = found.after(first, name)
    return found


def _write_adapter(
    recipe: Recipe, output: Output, todo: Plan, inputs: Inputs, at: Partial, asked: _Asked, progress: Progress | None
) -> None:
    if todo.measures == "model":
        inputs = _with_folded(inputs, at.scratch)
    measured = _measured(todo, inputs, asked)
    write_adapter(
        recipe,
        output,
        todo,
        inputs,
        at.model,
        measured=measured,
        threads=asked.threads,
        memory=asked.memory,
        progress=progress,
    )


def _measured(todo: Plan, inputs: Inputs, asked: _Asked) -> Mapping[str, float] | None:
    if todo.measures != "model":
        return None
    with one_thread_a_kernel(), kept_memory():
        return measure_model(todo, lambda: inputs.works(todo), asked.device, asked.threads)


def _with_folded(inputs: Inputs, scratch: Path) -> Inputs:
    deltas = {
        name: folded(source, name, inputs.shapes, scratch)
        for name, source in inputs.sources.items()
        if isinstance(source, AdapterSource)
    }
    return replace(inputs, deltas=deltas)
