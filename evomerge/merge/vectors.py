"""The sources of a recipe as long vectors: their Gram matrices, block by block, read once and kept.

A crossing asks for the inner products of the sources over its segments. Whole blocks of 65,536 entries are in a table
that is made in one pass over the checkpoints and cached by their content hashes; of a block that a split point cuts
only the entries on one of its sides are read again. Products are added up in float64 in one fixed order, so that all
machines find the same numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from evomerge.archive.flat_order import Chromosome, FlatTensor, IntArray
from evomerge.archive.lineage import FloatArray, Noise
from evomerge.archive.noise import normal
from evomerge.errors import CheckpointError, InvalidInputError
from evomerge.merge.blocks import blocks_of
from evomerge.merge.engine import kept_memory, one_thread_a_kernel
from evomerge.merge.execute import usable_cores
from evomerge.merge.folded import delta_key, exclusive, folded
from evomerge.merge.inputs import Inputs, open_inputs
from evomerge.merge.plan import Plan, plan
from evomerge.merge.primitives.gram import Gram
from evomerge.merge.resolve import pin
from evomerge.models.source import AdapterSource
from evomerge.recipe.schema import Merge, Recipe

BLOCK = 1 << 16
"""Entries in a block of the table."""
_KNOWN = 1 << 16
"""Gram matrices of parts of tensors that are remembered."""
_VERSION = 1
_CPU = torch.device("cpu")


class Entries(Protocol):
    """What lies in the tensors."""

    def gram(self, tensor: str, begin: int, end: int) -> FloatArray:
        """Inner products of the sources over entries of a tensor: [sources, sources]."""
        ...

    def read(self, tensor: str, begin: int, end: int) -> FloatArray:
        """Entries of a tensor: [sources, entries]."""
        ...


class _Known:
    """Gram matrices of parts of tensors, each computed once.

    Attributes:
        numbers: tensor, first entry and the one after the last → row.
        rows: [more than enough, sources, sources].
    """

    def __init__(self, compute: Callable[[FlatTensor, int, int], FloatArray]) -> None:
        self.numbers: dict[tuple[str, int, int], int] = {}
        self.rows: FloatArray = np.empty((0, 0, 0))
        self._compute = compute

    def of(self, tensor: FlatTensor, begin: int, end: int) -> FloatArray:
        """The matrix of entries of a tensor."""
        number = self.number(tensor, begin, end)
        found: FloatArray = self.rows[number]
        return found

    def number(self, tensor: FlatTensor, begin: int, end: int) -> int:
        """Its row."""
        key = (tensor.name, begin, end)
        number = self.numbers.get(key)
        return self._add(key, self._compute(tensor, begin, end)) if number is None else number

    def _add(self, key: tuple[str, int, int], found: FloatArray) -> int:
        number = self.numbers[key] = len(self.numbers)
        if number == len(self.rows):
            wider = np.empty((max(64, 2 * number), *found.shape))
            wider[:number] = self.rows[:number].reshape(-1, *found.shape)
            self.rows = wider
        self.rows[number] = found
        return number


class BlockedVectors:
    """`evomerge.archive.lineage.Vectors` from a table of Gram matrices.

    Args:
        parts: the chromosomes.
        blocks: tensor → Gram matrices of its blocks, [blocks, sources, sources].
        entries: for what is no whole block.
    """

    def __init__(self, parts: Sequence[Chromosome], blocks: Mapping[str, FloatArray], entries: Entries) -> None:
        self._parts, self._blocks, self._entries = tuple(parts), blocks, entries
        self._whole = [
            np.stack([np.add.reduce(blocks[tensor.name], axis=0) for tensor in part.tensors]) for part in parts
        ]
        self._known = _Known(self._sum)

    @property
    def starts(self) -> tuple[IntArray, ...]:
        """Of each chromosome the positions at which its tensors start, and its length behind them."""
        return tuple(part.starts for part in self._parts)

    def grams(self, chromosome: int, edges: IntArray) -> FloatArray:
        """Inner products of the sources between each edge and the next."""
        starts, whole = self._parts[chromosome].starts, self._whole[chromosome]
        owner = np.searchsorted(edges, starts[:-1], side="right") - 1
        uncut = edges[owner + 1] >= starts[1:]
        found = np.zeros((len(edges) - 1, *whole.shape[1:]))
        np.add.at(found, owner[uncut], whole[uncut])
        if not uncut.all():
            begins = np.union1d(starts[:-1][~uncut], edges[:-1][~np.isin(edges[:-1], starts)])
            numbers = np.searchsorted(starts, begins, side="right") - 1
            ends = np.minimum(starts[numbers + 1], np.append(begins[1:], starts[-1]))
            parts = self._pieces(chromosome, numbers, begins - starts[numbers], ends - starts[numbers])
            np.add.at(found, np.searchsorted(edges, begins, side="right") - 1, parts)
        return found

    def _pieces(self, chromosome: int, numbers: IntArray, begins: IntArray, ends: IntArray) -> FloatArray:
        """Gram matrices of parts of tensors."""
        tensors = self._parts[chromosome].tensors
        known = self._known
        if len(known.numbers) > _KNOWN:
            known = self._known = _Known(self._sum)
        pieces = zip(numbers.tolist(), begins.tolist(), ends.tolist(), strict=True)
        rows = [known.number(tensors[number], begin, end) for number, begin, end in pieces]
        return known.rows[rows]

    def _sum(self, tensor: FlatTensor, begin: int, end: int) -> FloatArray:
        """Whole blocks from the table, what is cut of others from the entries, remembered by itself."""
        first, last = -(-begin // BLOCK), end // BLOCK if end < tensor.size else -(-end // BLOCK)
        if begin // BLOCK == (end - 1) // BLOCK and first >= last:
            return self._entries.gram(tensor.name, begin, end)
        total: FloatArray = np.add.reduce(self._blocks[tensor.name][first:last], axis=0)
        if begin < first * BLOCK:
            total = total + self._known.of(tensor, begin, first * BLOCK)
        if last * BLOCK < end:
            total = total + self._known.of(tensor, last * BLOCK, end)
        return total

    def blocks(self, chromosome: int, begin: int, end: int, noise: Sequence[Noise]) -> Iterator[FloatArray]:
        """The entries themselves, piece by piece: [sources + noise terms, entries]."""
        part = self._parts[chromosome]
        while begin < end:
            name, first = part.place(begin)
            number = part.number_of(name)
            assert number is not None, "it was just found"
            length = min(end - begin, part.tensors[number].size - first, BLOCK)
            terms = [term.std * normal(term.seed, name, first, length) for term in noise]
            yield np.vstack([self._entries.read(name, first, first + length), *terms])
            begin += length


class OpenSources:
    """`Entries` of models that are open."""

    def __init__(self, inputs: Inputs, todo: Plan) -> None:
        self._inputs, self._plan = inputs, todo
        self._jobs = {job.name: job for job in todo.jobs}

    def vectors(self, tensor: str, begin: int, end: int) -> list[Tensor]:
        """Of each source the entries, float32, as a merge reads them."""
        work = self._inputs.work(self._jobs[tensor])
        found = list(blocks_of(self._plan, work, {}, _CPU, (begin, end)))
        return [
            torch.cat([block.base if (own := block.models[name]) is None else own for block in found])
            for name in self._plan.sources
        ]

    def gram(self, tensor: str, begin: int, end: int) -> FloatArray:
        """Inner products, in the order that does not depend on anything."""
        found = Gram(len(self._plan.sources))
        found.add(self.vectors(tensor, begin, end))
        return found.products

    def read(self, tensor: str, begin: int, end: int) -> FloatArray:
        """Entries as float64."""
        return np.stack([vector.double().numpy() for vector in self.vectors(tensor, begin, end)])

    def table(self, tensors: Sequence[FlatTensor]) -> dict[str, FloatArray]:
        """Gram matrices of all blocks of all tensors, read once."""

        def of(tensor: FlatTensor) -> FloatArray:
            steps = range(0, tensor.size, BLOCK)
            return np.stack([self.gram(tensor.name, at, min(at + BLOCK, tensor.size)) for at in steps])

        with one_thread_a_kernel(), kept_memory(), ThreadPoolExecutor(usable_cores(), "gram") as pool:
            return {t.name: found for t, found in zip(tensors, pool.map(of, tensors), strict=True)}


def open_vectors(recipe: Recipe, parts: Sequence[Chromosome], cache: Path) -> BlockedVectors:
    """The sources of a recipe as vectors.

    Args:
        recipe: base and sources, with absolute locations.
        parts: the chromosomes.
        cache: a directory that keeps the table (and adapters' deltas) for all who ask for the same sources.

    Raises:
        CheckpointError, ArchitectureError, NonFiniteError: the models cannot be read, do not fit together or hold NaN.
        InvalidInputError: a source is a recipe.
    """
    plain = recipe.model_copy(update={"merge": Merge(method="linear"), "segments": None, "calibration": None})
    pinned = pin(plain, Path("/")) if _unpinned(plain) else plain
    inputs = _with_deltas(open_inputs(pinned, Path("/"), _refuse, cache), pinned, cache)
    todo = plan(pinned, inputs.base.tensors, inputs.architecture, inputs.changed)
    sources = OpenSources(inputs, todo)
    tensors = sorted((tensor for part in parts for tensor in part.tensors), key=lambda tensor: tensor.name)
    return BlockedVectors(parts, _table(sources, tensors, _digest(pinned, tensors), cache), sources)


def _unpinned(recipe: Recipe) -> bool:
    return any(ref.sha256 is None for ref in (recipe.base, *recipe.sources.values()))


def _refuse(path: Path) -> Path:
    raise InvalidInputError("models", str(path), "a model's directory: in a lineage, merge the recipe first")


def _with_deltas(inputs: Inputs, recipe: Recipe, cache: Path) -> Inputs:
    """Adapters multiplied out, so that a part of a tensor can be read without the rest."""
    deltas = {}
    for name, source in inputs.sources.items():
        if isinstance(source, AdapterSource):
            key = delta_key(source, str(recipe.sources[name].sha256), lambda: str(recipe.base.sha256))
            deltas[name] = folded(source, key, inputs.shapes, cache)
    return replace(inputs, deltas=deltas)


def _digest(recipe: Recipe, tensors: Sequence[FlatTensor]) -> str:
    """What decides the table."""
    align = {name: how.model_dump(mode="json") for name, how in (recipe.align or {}).items()}
    models = [recipe.base.sha256, *((name in align, ref.sha256) for name, ref in recipe.sources.items())]
    text = json.dumps([_VERSION, BLOCK, models, align, [(tensor.name, tensor.size) for tensor in tensors]])
    return hashlib.sha256(text.encode()).hexdigest()


def _table(sources: OpenSources, tensors: Sequence[FlatTensor], digest: str, cache: Path) -> dict[str, FloatArray]:
    """Tensor → Gram matrices of its blocks, from the cache, or made and put there."""
    path = cache / f"gram-v{_VERSION}-{digest}.npy"
    counts = np.cumsum([-(-tensor.size // BLOCK) for tensor in tensors])
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with exclusive(path.with_suffix(".lock")):
            if not path.exists():
                made = sources.table(tensors)
                _write(path, np.concatenate([made[tensor.name] for tensor in tensors]))
            rows = np.load(path, allow_pickle=False)
    except OSError as error:
        raise CheckpointError(f"{path}: Gram matrices cannot be kept: {error.strerror or error}") from error
    return {tensor.name: part for tensor, part in zip(tensors, np.split(rows, counts[:-1]), strict=True)}


def _write(path: Path, rows: FloatArray) -> None:
    """Whole or not at all."""
    buffer = BytesIO()
    np.save(buffer, rows, allow_pickle=False)
    part = path.with_suffix(".part")
    part.write_bytes(buffer.getvalue())
    part.replace(path)
