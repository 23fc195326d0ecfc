"""The open models of a path. Unlike the sources of a merge they may differ in depth and vocabulary: layers are all that
a path takes of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from evomerge.errors import ArchitectureError, InvalidInputError
from evomerge.merge.blocks import Fresh, Operand, TensorWork
from evomerge.merge.inputs import BuildRecipe, directory_of, is_recipe
from evomerge.merge.plan import TensorJob
from evomerge.models.adapter import is_adapter
from evomerge.models.architecture import Architecture
from evomerge.models.checkpoint import Checkpoint, is_merged, open_checkpoint
from evomerge.models.family import BUFFER, fill_numbers, split_numbers
from evomerge.models.hub import locate
from evomerge.models.source import AdapterSource, architecture_of_checkpoint, open_source
from evomerge.models.weights import Place
from evomerge.recipe.path import MERGED, LayerPath
from evomerge.recipe.schema import ModelRef, Recipe

log = logging.getLogger(__name__)
SAME = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")
"""What a config says about every layer and the shapes of tensors do not tell."""
ALIKE = ("rope_theta", "rope_scaling", "rope_parameters", "rms_norm_eps", "hidden_act", "sliding_window",
         "num_experts_per_tok")  # fmt: skip
"""What one config says for all layers, though models may have been trained with different values."""
Shapes = Mapping[str, tuple[int, ...]]
Building = Callable[[Recipe], Path]
"""A recipe without a path → the directory of the model that it gives."""


@dataclass(frozen=True, slots=True)
class Visited:
    """One model of a path.

    Attributes:
        name: the recipe's: `base`, a source's, or `merged`.
        checkpoint: its weights; of an adapter, the base's.
        adapter: what changes them.
        path: its directory.
    """

    name: str
    checkpoint: Checkpoint
    architecture: Architecture
    path: Path
    adapter: AdapterSource | None = None

    def operand(self, tensor: str) -> Operand:
        """A tensor by this checkpoint's name, checked to be finite or checked as it is read."""
        if self.computes(tensor):
            assert self.adapter is not None
            return Operand("weights", self.adapter.weights(tensor).contiguous())
        whose = f"{self.name!r} ({self.checkpoint.path})"
        fresh = Fresh(tensor, whose, self.checkpoint.place(tensor))
        return Operand("weights", self.checkpoint.read(tensor), fresh)

    def computes(self, tensor: str) -> bool:
        """Whether the tensor is no file's, but computed whole."""
        return self.adapter is not None and tensor in self.adapter.changed

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Of a tensor, unread."""
        return self.checkpoint.tensors[tensor].shape

    def layer(self, number: int) -> dict[str, str]:
        """Template of a tensor's name in the family's own spelling → this checkpoint's name of it in a layer."""
        return {
            template: found
            for template in self.templates
            if (found := self.architecture.find(fill_numbers(template, number))) is not None
        }

    @property
    def templates(self) -> tuple[str, ...]:
        """Of all weights in the layers; those of experts one by one."""
        family = self.architecture.kind
        found: dict[str, None] = {}
        for name, part in self.architecture.parts.items():
            if part.layer == 0 and part.role != BUFFER and is_merged(self.checkpoint.tensors[name]):
                canonical = family.canonical(name)
                assert canonical is not None, "it has a part"
                template, _, expert = split_numbers(canonical)
                found[template.replace("{expert}", str(expert))] = None
        return tuple(found)

    def close(self) -> None:
        """Let the files go."""
        if self.adapter is not None:
            self.adapter.close()
        self.checkpoint.close()


@dataclass(frozen=True, slots=True)
class AllVisited:
    """The models of a path, memory-mapped.

    Attributes:
        models: name → model.
        places: where everything that the recipe names lies, by name.
    """

    models: Mapping[str, Visited]
    places: Mapping[str, Path]
    host: Visited

    def work(self, job: TensorJob) -> TensorWork:
        """The one tensor that a job is made of, as what is scaled or as what is copied."""
        model, tensor = self._of(job)
        operand = model.operand(tensor)
        if job.copy:
            return TensorWork(job, operand.tensor, {}, fresh=operand.fresh)
        return TensorWork(job, operand.tensor, {model.name: operand})

    def shape(self, job: TensorJob) -> tuple[int, ...]:
        """The shape of a job's result."""
        model, tensor = self._of(job)
        return model.shape(tensor)

    def stored_at(self, job: TensorJob) -> list[Place]:
        """Where the tensor lies in a file, which a job is made of."""
        model, tensor = self._of(job)
        return [model.checkpoint.place(tensor)]

    @property
    def computed(self) -> frozenset[str]:
        """Models whose tensors are computed whole when they are asked for."""
        return frozenset(name for name, model in self.models.items() if model.adapter is not None)

    @property
    def read_from(self) -> frozenset[Path]:
        """The directories of all weights that are read."""
        return frozenset(p for model in self.models.values() for p in (model.path, model.checkpoint.path))

    def _of(self, job: TensorJob) -> tuple[Visited, str]:
        assert job.origin is not None, "every tensor of a path has one"
        ((name, tensor),) = job.origin.sources.items()
        return self.models[name], tensor

    def __enter__(self) -> AllVisited:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for model in self.models.values():
            model.close()


def open_visited(recipe: Recipe, root: Path, build: BuildRecipe, merge: Building) -> AllVisited:
    """Open the models of a recipe's path and check that its layers exist and fit together.

    Args:
        root: relative locations are under it.
        build: makes the model of a recipe that is itself the base or a source.
        merge: makes the model that the recipe gives without its path.

    Raises:
        CheckpointError, ArchitectureError: files are missing or corrupt; layers of this family cannot be put on a
            path, or the models' layers do not fit together.
        InvalidInputError: a hop's layer does not exist.
    """
    assert recipe.path is not None, "only recipes with a path have models to visit"
    refs = {"base": recipe.base, **recipe.sources}
    wanted = set(refs) if recipe.path.uses_merged else {"base", *recipe.path.models}
    places = {name: directory_of(ref, root, build) for name, ref in refs.items() if name in wanted}
    if recipe.path.uses_merged:
        places[MERGED] = merge(_part(recipe, places, root))
    models = {name: _opened(name, places) for name in recipe.path.models}
    check_visited(recipe.path, models)
    return AllVisited(models, places, models[recipe.path.host])


def _part(recipe: Recipe, places: Mapping[str, Path], root: Path) -> Recipe:
    """The parameter-space part alone; recipes that it names have been built and are named by what they gave."""

    def found(name: str, ref: ModelRef) -> ModelRef:
        return ModelRef(location=str(places[name].resolve())) if is_recipe(locate(ref, root)) else ref

    sources = {name: found(name, ref) for name, ref in recipe.sources.items()}
    return recipe.parameter_part.model_copy(update={"base": found("base", recipe.base), "sources": sources})


def _opened(name: str, places: Mapping[str, Path]) -> Visited:
    if is_adapter(places[name]):
        base = open_checkpoint(places["base"])
        adapter = open_source(name, places[name], base)
        assert isinstance(adapter, AdapterSource), "that is what lies there"
        return Visited(name, base, architecture_of_checkpoint(base), places[name], adapter)
    checkpoint = open_checkpoint(places[name])
    return Visited(name, checkpoint, architecture_of_checkpoint(checkpoint), places[name])


def check_visited(path: LayerPath, models: Mapping[str, Visited]) -> None:
    """Check that a path's layers exist and that one config can describe them.

    Args:
        models: name → model, all that the path names.

    Raises:
        ArchitectureError, InvalidInputError: as `open_visited`.
    """
    host = models[path.host]
    _ = host.architecture.kind.layer_flow  # or the family is refused
    for model in models.values():
        _check_config(model, host)
    shapes: dict[tuple[str, int], Shapes] = {}
    for number, hop in enumerate(path.layers):
        model = models[hop.model]
        if hop.layer >= model.architecture.num_layers:
            allowed = f"layers 0 to {model.architecture.num_layers - 1} of {hop.model}"
            raise InvalidInputError(f"path.layers[{number}].layer", hop.layer, allowed)
        if (key := (hop.model, hop.layer)) not in shapes:
            shapes[key] = {t: model.shape(tensor) for t, tensor in model.layer(hop.layer).items()}
            _check_shapes(key, shapes[key], *next(iter(shapes.items())))


def _check_config(model: Visited, host: Visited) -> None:
    theirs, own = model.architecture.family, host.architecture.family
    if theirs != own:
        raise ArchitectureError(f"path: {model.name!r} is of the family {theirs!r}, the host {host.name!r} is {own!r}")
    for key in SAME:
        expected, got = host.checkpoint.config.get(key), model.checkpoint.config.get(key)
        if expected is not None and got is not None and expected != got:
            raise ArchitectureError(f"path: {model.name!r} has {key} {got}, the host {host.name!r} has {expected}")
    for key, expected, got in differences(host.checkpoint.config, model.checkpoint.config):
        log.warning("path: %r was made for %s %s; its layers get the host's %s", model.name, key, got, expected)


def differences(host: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """What two configs say about all layers and say differently: field, the host's value, the other's."""
    for key in ALIKE:
        if key in host and key in other and host[key] != other[key]:
            yield key, host[key], other[key]


def _check_shapes(key: tuple[str, int], found: Shapes, first: tuple[str, int], expected: Shapes) -> None:
    names = {key: f"layer {key[1]} of {key[0]!r}", first: f"layer {first[1]} of {first[0]!r}"}
    if different := sorted(set(found) ^ set(expected)):
        raise ArchitectureError(f"path: only one of {names[key]} and {names[first]} has {different[0]!r}")
    for template, shape in expected.items():
        if found[template] != shape:
            raise ArchitectureError(
                f"path: {template!r} is {list(found[template])} in {names[key]} and {list(shape)} in {names[first]}: "
                "one config cannot describe both"
            )
