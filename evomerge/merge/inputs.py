"""The open base and sources of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge.align.source import open_aligned_source
from evomerge.merge.blocks import Fresh, Operand, TensorWork
from evomerge.merge.calibration.entries import Found
from evomerge.merge.carried import with_carried
from evomerge.merge.factored import factors_of
from evomerge.merge.plan import Plan, TensorJob
from evomerge.merge.vocabularies import SAME, Base, in_one_vocabulary
from evomerge.merge.vocabulary import Merged
from evomerge.models.architecture import Architecture
from evomerge.models.checkpoint import Checkpoint, open_checkpoint
from evomerge.models.finite import check_finite
from evomerge.models.hub import locate
from evomerge.models.source import AdapterSource, CheckpointSource, Source, architecture_of_checkpoint
from evomerge.models.weights import Place
from evomerge.recipe.align import AlignByNames
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
        vocabulary: of the merged model, where it is not simply that of all.
        written: tensor → the name that it is stored under, where that is another.
    """

    base: Base
    architecture: Architecture
    sources: Mapping[str, Source]
    deltas: Mapping[str, Mapping[str, Tensor]]
    statistics: Callable[[TensorJob], Found] = lambda job: {}
    vocabulary: Merged | None = None
    written: Mapping[str, str] = field(default_factory=dict)

    @property
    def changed(self) -> dict[str, frozenset[str]]:
        """Source name → tensors in which it may differ from the base."""
        return {name: source.changed for name, source in self.sources.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The base's tensors and their shapes."""
        return {name: info.shape for name, info in self.base.tensors.items()}

    def work(self, job: TensorJob) -> TensorWork:
        """The tensors of a job, checked to be finite or checked as they are read."""
        base, fresh = self._theta0(job)
        if job.factored:
            return TensorWork(job, base, {}, factors=factors_of(job, self.sources), fresh=fresh)
        operands = {source: self._operand(source, job) for source in job.changed}
        return TensorWork(job, base, operands, {} if job.buffer else self.statistics(job), fresh=fresh)

    def shape(self, job: TensorJob) -> tuple[int, ...]:
        """The shape of a job's result, as it is stored."""
        like = job.theta0 if job.theta0 is not None else job.tensor_of(job.changed[0])
        return self.base.tensors[like].shape

    def stored_at(self, job: TensorJob) -> list[Place]:
        """Where the tensors of a job lie that are read from files as they are stored."""
        found = []
        if isinstance(self.base, Checkpoint) and job.theta0 is not None:
            found.append(self.base.place(job.theta0))
        for name in job.changed:
            source = self.sources[name]
            if isinstance(source, CheckpointSource):
                found.append(source.place(job.tensor_of(name)))
        return found

    def works(self, plan: Plan) -> Iterator[TensorWork]:
        """The tensors of all jobs that merge, one after the other."""
        return (self.work(job) for job in plan.jobs)

    def _theta0(self, job: TensorJob) -> tuple[Tensor, Fresh | None]:
        if job.theta0 is None:
            first = job.changed[0]
            return self.sources[first].weights(job.tensor_of(first)).contiguous(), None
        base, whose = self.base.read(job.theta0), f"the base model ({self.base.path})"
        if isinstance(self.base, Checkpoint):
            return base, Fresh(job.theta0, None if job.buffer else whose, self.base.place(job.theta0))
        if not job.buffer:
            check_finite(base, job.theta0, whose)
        return base, None

    def _operand(self, name: str, job: TensorJob) -> Operand:
        source, tensor = self.sources[name], job.tensor_of(name)
        if isinstance(source, CheckpointSource):
            fresh = Fresh(tensor, source.whose, source.place(tensor))
            return Operand("weights", source.stored(tensor), fresh)
        if not isinstance(source, AdapterSource):
            return Operand("weights", source.weights(tensor).contiguous())
        delta = self.deltas[name].get(tensor) if name in self.deltas else source.delta(tensor)
        if tensor != job.theta0:  # a slice takes it from another layer: δ from that layer's base is none from θ0
            base = self.base.read(tensor).float()
            return Operand("weights", base if delta is None else delta + base)
        assert delta is not None, f"{name} lists {tensor} as changed"
        return Operand("delta", delta)

    @property
    def read_from(self) -> frozenset[Path]:
        """The directories of all weights that are read."""
        return frozenset((self.base.path, *(source.path for source in self.sources.values())))

    @property
    def computed(self) -> frozenset[str]:
        """Sources (`""`: the base) whose tensors are computed whole when they are asked for."""
        mapped = {name for name, source in self.sources.items() if isinstance(source, CheckpointSource)}
        base = () if isinstance(self.base, Checkpoint) else ("",)
        return frozenset((*base, *(set(self.sources) - mapped - set(self.deltas))))

    def __enter__(self) -> Inputs:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for source in self.sources.values():
            source.close()
        self.base.close()


def open_inputs(
    recipe: Recipe, root: Path, build: BuildRecipe, cache: Path | None = None, *, carried: bool = False
) -> Inputs:
    """Open what a recipe names and check that it fits together.

    Args:
        root: relative locations are under it.
        build: makes the model of a recipe that is itself a source.
        cache: a directory that remembers how units were aligned.
        carried: with the tensors that only one source has, where the recipe carries some over; they are no part of what
            is merged, and a live model that is only read or scored does without.

    Raises:
        CheckpointError, ArchitectureError: files are missing or corrupt, models do not fit together.
        InvalidInputError: their vocabularies differ, and the recipe does not say what to do about it.
    """
    align = recipe.align or {}
    stored = open_checkpoint(directory_of(recipe.base, root, build))
    opened = {
        name: open_aligned_source(
            how := align.get(name),
            root,
            cache,
            name,
            directory_of(ref, root, build),
            stored,
            own_vocabulary=not isinstance(how, AlignByNames) or recipe.tokenizer != SAME,
        )
        for name, ref in sorted(recipe.sources.items())
    }
    architecture = architecture_of_checkpoint(stored)
    written: dict[str, str] = {}
    if carried and recipe.carry is not None:
        places = {name: source.path for name, source in opened.items()}
        stored, architecture, written = with_carried(recipe, stored, architecture, places)
    base, sources, vocabulary = in_one_vocabulary(recipe, stored, opened, architecture)
    return Inputs(base, architecture, sources, {}, vocabulary=vocabulary, written=written)


def is_recipe(path: Path) -> bool:
    """Whether a place holds a recipe, not a model's directory."""
    return path.is_file()


def directory_of(ref: ModelRef, root: Path, build: BuildRecipe) -> Path:
    """Where a model lies; one that is a recipe is built.

    Raises:
        CheckpointError: nothing lies there.
        InvalidInputError: something else than a model or a recipe lies there.
    """
    path = locate(ref, root)
    if not is_recipe(path):
        return path
    if path.suffix not in (".yaml", ".yml", ".json"):
        raise InvalidInputError("location", ref.location, "a model's directory or a recipe (.yaml, .yml, .json)")
    return build(path)
