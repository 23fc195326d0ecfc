"""The weights of a mixture of experts: a merged trunk, the experts and their routers, in one directory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from evomerge.merge.blocks import measure_model
from evomerge.merge.budget import check_memory, promised, units_of
from evomerge.merge.calibration.live import tokenizer_of
from evomerge.merge.engine import Progress, Resources, kept_memory, merge_units, one_thread_a_kernel
from evomerge.merge.factored import with_factors
from evomerge.merge.folded import folded
from evomerge.merge.inputs import Inputs
from evomerge.merge.outlook import check_disk
from evomerge.merge.plan import DTYPES, Origin, Plan, TensorJob, plan
from evomerge.merge.primitives.sparsify import mask_key
from evomerge.merge.primitives.spectral import gaussian
from evomerge.merge.structure.blueprint import DENSE, Blueprint
from evomerge.merge.structure.expansion import Child, expand, with_children
from evomerge.merge.structure.gates import cheap_rows, child_row, hidden_rows, warn_alike
from evomerge.merge.structure.targets import mixture_entries, shared_shapes
from evomerge.models.checkpoint import open_checkpoint
from evomerge.models.finite import check_finite
from evomerge.models.layout import Entry, lay_out
from evomerge.models.partial import Partial
from evomerge.models.source import AdapterSource
from evomerge.models.stream import ShardWriter
from evomerge.recipe.schema import Recipe


def write_weights(
    recipe: Recipe,
    blueprint: Blueprint,
    inputs: Inputs,
    at: Partial,
    threads: int,
    progress: Progress | None,
    memory: int | None = None,
) -> tuple[Child, ...]:
    """Merge the trunk, and write it with experts and routers.

    Returns:
        What bred experts are made of.
    """
    todo = with_factors(
        _trunk(plan(recipe, inputs.base.tensors, inputs.architecture, inputs.changed), inputs), inputs.sources
    )
    if todo.measures == "model":
        deltas = {n: folded(s, n, inputs.shapes, at.scratch) for n, s in inputs.sources.items() if _is_adapter(s)}
        inputs = replace(inputs, deltas=deltas)
    shapes = {job.name: inputs.shape(job) for job in todo.jobs}
    like = Entry("", DTYPES[recipe.dtype], inputs.base.tensors[blueprint.mlps[0]["up"]].shape)
    experts = mixture_entries(blueprint.target, like, len(blueprint.mlps), len(blueprint.names))
    trunk = [Entry(job.name, job.dtype, shapes[job.name]) for job in todo.jobs]
    shards = lay_out([*trunk, *experts], recipe.shard_bytes)
    missing = [entry for shard in shards if shard.file not in at.finished for entry in shard.entries]
    left = {entry.name for entry in missing}
    check_disk(at.out, sum(shard.file_bytes for shard in shards if shard.file not in at.finished))
    units = units_of(todo, [job for job in todo.jobs if job.name in left], shapes, inputs.computed)
    if memory is None:
        memory = max(promised(todo, shapes), *(unit.memory for unit in units), 0)
    check_memory(todo, units, memory)
    told = _Told(progress, sum(entry.num_bytes for entry in missing))
    children = _children(blueprint, inputs)
    with ShardWriter(at, shards) as writer:
        measured = None
        if todo.measures == "model" and units:
            with one_thread_a_kernel(), kept_memory():
                measured = measure_model(todo, lambda: inputs.works(todo), torch.device("cpu"), threads)
        resources = Resources(threads, memory, torch.device("cpu"))
        merge_units(todo, units, inputs, writer, resources, measured, told.of_trunk)
        told.begin(sum(unit.num_bytes for unit in units))
        for name, tensor in _tensors(blueprint, children, inputs):
            if name in left:
                check_finite(tensor, name, "the mixture")
                stored = tensor.to(like.dtype)
                writer.write(name, stored)
                told.more(stored.numel() * stored.element_size())
    return children


def _is_adapter(source: object) -> bool:
    return isinstance(source, AdapterSource)


class _Told:
    """Passes on how far the whole is."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def of_trunk(self, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(done, self._total)

    def begin(self, done: int) -> None:
        self._done = done

    def more(self, num_bytes: int) -> None:
        self._done += num_bytes
        self.of_trunk(self._done, self._total)


def _trunk(whole: Plan, inputs: Inputs) -> Plan:
    """What is merged: all but the MLPs, in the names that the family spells out."""
    family = inputs.architecture.kind
    jobs = [job for job in whole.jobs if job.part.role not in DENSE]
    return replace(whole, jobs=tuple(_spelled(job, family.canonical(job.name) or job.name, whole) for job in jobs))


def _spelled(job: TensorJob, name: str, whole: Plan) -> TensorJob:
    if name == job.name:
        return job
    return replace(job, name=name, origin=Origin(job.name, dict.fromkeys(whole.sources, job.name)))


def _children(blueprint: Blueprint, inputs: Inputs) -> tuple[Child, ...]:
    names = blueprint.names[: blueprint.originals]

    def read() -> Iterator[tuple[str, dict[str, Tensor]]]:
        for layer, mlp in enumerate(blueprint.mlps):
            for matrix, name in mlp.items():
                base = inputs.base.read(name).float()
                yield _key(layer, matrix), {n: _model(inputs, n, name).float() - base for n in names}

    with one_thread_a_kernel():
        return expand(names, blueprint.settings.expand, read, blueprint.settings.density, blueprint.seed)


def _model(inputs: Inputs, expert: str, name: str) -> Tensor:
    """A tensor of one of the recipe's models, in the base's name."""
    return inputs.sources[expert].weights(name) if expert in inputs.sources else inputs.base.read(name)


def _tensors(blueprint: Blueprint, children: Sequence[Child], inputs: Inputs) -> Iterator[tuple[str, Tensor]]:
    """What stands in place of the dense MLPs, layer by layer."""
    rows = _rows(blueprint, children, inputs)
    for layer, names in enumerate(blueprint.mlps):
        yield blueprint.target.router(layer), rows[layer]
        for matrix, name in names.items():
            for number, tensor in enumerate(_experts(blueprint, children, inputs, name, _key(layer, matrix))):
                yield blueprint.target.expert(matrix, layer, number), tensor
        if blueprint.target.shared:
            for at, shape in shared_shapes(blueprint.target, layer, rows.shape[2]).items():
                yield at, torch.zeros(shape)


def _key(layer: int, matrix: str) -> str:
    """What masks are drawn by: the same however a checkpoint spells its names."""
    return f"layer {layer} {matrix}"


def _experts(blueprint: Blueprint, children: Sequence[Child], inputs: Inputs, name: str, key: str) -> list[Tensor]:
    """One matrix of every expert: the models' own bytes, and θ0 + δ for bred ones."""
    models = {n: _model(inputs, n, name) for n in blueprint.names[: blueprint.originals]}
    if children:
        base = inputs.base.read(name).float()
        deltas = {n: tensor.float() - base for n, tensor in models.items()}
        found = with_children(deltas, children, key, blueprint.settings.density, blueprint.seed)
        models |= {child.name: base + found[child.name] for child in children}
    return [models[n] for n in blueprint.names]


def _rows(blueprint: Blueprint, children: Sequence[Child], inputs: Inputs) -> Tensor:
    """The routers: (layers × experts × hidden)."""
    gate, layers = blueprint.settings.gate, len(blueprint.mlps)
    width = inputs.base.tensors[blueprint.mlps[0]["up"]].shape[1]
    if gate == "uniform":
        return torch.zeros(layers, len(blueprint.names), width)
    if gate == "random":
        keys = [mask_key(blueprint.seed, "router", blueprint.target.router(layer)) for layer in range(layers)]
        return torch.stack([gaussian(key, len(blueprint.names), width) for key in keys])
    return _of_prompts(blueprint, children, inputs)


def _of_prompts(blueprint: Blueprint, children: Sequence[Child], inputs: Inputs) -> Tensor:
    settings, architecture = blueprint.settings, inputs.architecture
    with open_checkpoint(inputs.base.path) as base:  # in the vocabulary that its own tokenizer knows
        tokenizer = tokenizer_of(None, base)
        if settings.gate == "hidden":
            found = hidden_rows(base.path, architecture, tokenizer, blueprint.prompts, settings.states, settings.tokens)
        else:
            table = next(name for name, part in architecture.parts.items() if part.role == "embedding")
            found = cheap_rows(base.read(table), tokenizer, blueprint.prompts, len(blueprint.mlps))
    warn_alike(found, blueprint.names[: blueprint.originals])
    rows = dict(zip(blueprint.names, found.unbind(1), strict=False))
    for child in children:
        rows[child.name] = child_row(rows, child.parents, child.shares)
    return torch.stack([rows[name] for name in blueprint.names], 1)
