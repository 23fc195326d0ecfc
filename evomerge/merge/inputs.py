"""The open base and sources of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge.align.source import open_aligned_source
from evomerge.merge.blocks import Operand, Span, TensorWork
from evomerge.merge.calibration.entries import Found
from evomerge.merge.factored import factors_of
from evomerge.merge.plan import Plan, TensorJob
from evomerge.models.architecture import Architecture
from evomerge.models.checkpoint import Checkpoint, open_checkpoint
from evomerge.models.finite import check_finite
from evomerge.models.hub import locate
from evomerge.models.source import AdapterSource, Source, architecture_of_checkpoint
from evomerge.recipe.schema import ModelRef, Recipe

BuildRecipe = Callable[[Path], Path]
"""A recipe file → the directory of the model that it makes."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is merged, memory-mapped.

    Attributes:
        sources: name → source, in the order of their names.
        deltas: source name → deltas that lie ready; sources without an entry compute theirs when asked.
        statistics: what calibration collected for a tensor.
    """

    base: Checkpoint
    architecture: Architecture
    sources: Mapping[str, Source]
    deltas: Mapping[str, Mapping[str, Tensor]]
    statistics: Callable[[TensorJob], Found] = lambda job: {}

    @property
    def changed(self) -> dict[str, frozenset[str]]:
        """Source name → tensors in which it may differ from the base."""
        return {name: source.changed for name, source in self.sources.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The base's tensors and their shapes."""
        return {name: info.shape for name, info in self.base.tensors.items()}

    def work(self, job: TensorJob) -> TensorWork:
        """The tensors of a job, checked to be finite."""
        if job.factored:
            return TensorWork(job, self._theta0(job), {}, factors=factors_of(job, self.sources))
        operands = {source: self._operand(source, job) for source in job.changed}
        return TensorWork(job, self._theta0(job), operands, {} if job.copy else self.statistics(job))

    def shape(self, job: TensorJob) -> tuple[int, ...]:
        """The shape of a job's result, as it is stored."""
        like = job.theta0 if job.theta0 is not None else job.tensor_of(job.changed[0])
        return self.base.tensors[like].shape

    def works(self, plan: Plan) -> Iterator[TensorWork]:
        """The tensors of all jobs that merge, one after the other."""
        return (self.work(job) for job in plan.jobs)

    def _theta0(self, job: TensorJob) -> Tensor:
        if job.theta0 is None:
            first = job.changed[0]
            return self.sources[first].weights(job.tensor_of(first)).contiguous()
        base = self.base.read(job.theta0)
        if not job.buffer:
            check_finite(base, job.theta0, f"the base model ({self.base.path})")
        return base

    def _operand(self, name: str, job: TensorJob) -> Operand:
        source, tensor = self.sources[name], job.tensor_of(name)
        if not isinstance(source, AdapterSource):
            return Operand("weights", source.weights(tensor).contiguous())
        delta = self.deltas[name].get(tensor) if name in self.deltas else source.delta(tensor)
        if tensor != job.theta0:  # a slice takes it from another layer: δ from that layer's base is none from θ0
            base = self.base.read(tensor).float()
            return Operand("weights", base if delta is None else delta + base)
        assert delta is not None, f"{name} lists {tensor} as changed"
        return Operand("delta", delta)

    @property
    def computed(self) -> frozenset[str]:
        """Sources whose tensors are computed whole when they are asked for."""
        return frozenset(
            name
            for name, source in self.sources.items()
            if isinstance(source, AdapterSource) and name not in self.deltas
        )

    def release(self, work: TensorWork, span: Span | None) -> None:
        """Let pages of mapped files go that have been read."""

    def __enter__(self) -> Inputs:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for source in self.sources.values():
            source.close()
        self.base.close()


def open_inputs(recipe: Recipe, root: Path, build: BuildRecipe, cache: Path | None = None) -> Inputs:
    """Open what a recipe names and check that it fits together.

    Args:
        root: relative locations are under it.
        build: makes the model of a recipe that is itself a source.
        cache: a directory that remembers how units were aligned.

    Raises:
        CheckpointError, ArchitectureError: files are missing or corrupt, models do not fit together.
    """
    align = recipe.align or {}
    base = open_checkpoint(_directory(recipe.base, root, build))
    sources = {name: open_aligned_source(align.get(name), root, cache, name, _directory(ref, root, build), base) for name, ref in recipe.sources.items()}
    return Inputs(base, architecture_of_checkpoint(base), dict(sorted(sources.items())), {})


def is_recipe(path: Path) -> bool:
    """Whether a place holds a recipe, not a model's directory."""
    return path.is_file()


def _directory(ref: ModelRef, root: Path, build: BuildRecipe) -> Path:
    path = locate(ref, root)
    if not is_recipe(path):
        return path
    if path.suffix not in (".yaml", ".yml", ".json"):
        raise InvalidInputError("location", ref.location, "a model's directory or a recipe (.yaml, .yml, .json)")
    return build(path)
