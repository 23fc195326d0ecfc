"""Data flow: which layers of which models a token goes through, in which order, each with a scale of its input.

Source: Akiba et al. 2024, Evolutionary Optimization of Model Merging Recipes, arXiv:2403.13187, section 3.2 (merging in
the data flow space).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from evomerge.candidate import Genome
from evomerge.errors import ArchitectureError, InvalidInputError
from evomerge.optimizers.domain import Domain
from evomerge.recipe.path import MAX_HOPS, MERGED, SCALES, LayerPath
from evomerge.recipe.schema import NO_MERGE, Recipe
from evomerge.recipe.text import path_text, validate
from search_spaces.parameter import MAX_GENES
from search_spaces.paths import Paths
from search_spaces.scale import Scale
from search_spaces.setting import Setting
from search_spaces.slots import Slot, blocks, indicators
from search_spaces.template import differences

REPEATS = {"indicator": 3, "blocks": 1}
"""Where a spec says nothing. 3 is the paper's."""


class DataFlowSpec(BaseModel):
    """A run's `space` of kind `data_flow`.

    Attributes:
        host: `base`, a source's name or, in a hybrid space, `merged`: the model whose first and last layer begin and
            end every path, whose embedding, norm and head stand around it, and whose layers are where searches begin.
        models: whose layers may be visited, in the order in which they are laid out; null: the host's, then the
            sources'.
        encoding: `indicator`: all layers of all models one after another, several times over, each on or off.
            `blocks`: for each depth a choice: which model's layer, none (skip), or the layer before again (back).
        repeats: rounds, or choices for each depth; null: 3 rounds, or 1 choice.
        back: whether `blocks` has the layer before again among its choices.
        scales: range of the scale of each hop's input; null searches none.
        semantics: what a scale scales, as in a recipe's path.
        min_hops, max_hops: fewest and most layers on a path; null allows twice the host's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["data_flow"] = "data_flow"
    host: str = "base"
    models: tuple[str, ...] | None = Field(default=None, min_length=1)
    encoding: Literal["indicator", "blocks"] = "indicator"
    repeats: int | None = Field(default=None, ge=1, le=100)
    back: bool = True
    scales: tuple[float, float] | None = (0.5, 1.5)
    semantics: Literal["stream", "delta"] = "stream"
    min_hops: int = Field(default=2, ge=2, le=MAX_HOPS)
    max_hops: int | None = Field(default=None, ge=2, le=MAX_HOPS)


def data_flow_space(spec: Mapping[str, Any], setting: Setting) -> DataFlowSpace:
    """The space that a spec describes.

    Raises:
        InvalidInputError: an unknown model, an impossible range or number of hops, or layers that cannot be on a path.
    """
    return DataFlowSpace(paths_of(validate(DataFlowSpec, dict(spec)), setting, ("base", *setting.sources)), setting)


def paths_of(spec: DataFlowSpec, setting: Setting, known: Sequence[str]) -> Paths:
    """The paths that a spec describes.

    Args:
        known: models that a path may name.

    Raises:
        InvalidInputError: as `data_flow_space`.
    """
    models = _models(spec, setting, known)
    num_layers = setting.architecture.num_layers
    try:
        _ = setting.architecture.kind.layer_flow
    except ArchitectureError as error:
        raise InvalidInputError("kind", spec.kind, f"a space without paths: {error}") from error
    if num_layers < 2:
        raise InvalidInputError("host", spec.host, "a model of two layers or more: its first and its last are fixed")
    most = spec.max_hops or min(2 * num_layers, MAX_HOPS)
    if spec.min_hops > min(num_layers, most):
        allowed = f"2 to {min(num_layers, most)}: neither more than max_hops nor than the host's layers"
        raise InvalidInputError("min_hops", spec.min_hops, allowed)
    slots = _slots(spec, models, num_layers)
    paths = Paths(spec.host, models, spec.semantics, num_layers, slots, _scale(spec), spec.min_hops, most)
    if not 1 <= paths.dim <= MAX_GENES:
        raise InvalidInputError("repeats", spec.repeats, f"1 to {MAX_GENES} genes; there are {paths.dim}")
    return paths


def _slots(spec: DataFlowSpec, models: Sequence[str], num_layers: int) -> tuple[Slot, ...]:
    repeats = spec.repeats or REPEATS[spec.encoding]
    if spec.encoding == "blocks":
        return tuple(blocks(models, spec.host, num_layers, repeats, back=spec.back))
    if not spec.back:
        raise InvalidInputError("back", spec.back, "true, or encoding blocks: the other one has no such choice")
    return tuple(indicators(models, spec.host, num_layers, repeats))


def _models(spec: DataFlowSpec, setting: Setting, known: Sequence[str]) -> tuple[str, ...]:
    if MERGED in setting.sources:
        raise InvalidInputError(
            "document", MERGED, f"other names of sources: {MERGED} is what a recipe's `merge` gives"
        )
    for field, name in (("host", spec.host), *((f"models[{n}]", name) for n, name in enumerate(spec.models or ()))):
        if name == MERGED and MERGED not in known:
            raise InvalidInputError(field, name, f"a model that is there before the search: {MERGED} needs kind hybrid")
        if name not in known:
            raise InvalidInputError(field, name, f"one of {', '.join(known)}")
    models = spec.models or (spec.host, *(name for name in setting.sources if name != spec.host))
    if len(set(models)) < len(models):
        raise InvalidInputError("models", list(models), "each model once; `repeats` visits them again")
    if spec.host not in models:
        raise InvalidInputError("models", list(models), f"the host {spec.host} among them: searches begin with it")
    return models


def _scale(spec: DataFlowSpec) -> Scale | None:
    if spec.scales is None:
        return None
    low, high = spec.scales
    if not (-SCALES[1] <= low <= 1 <= high <= SCALES[1] and low < high):
        allowed = f"[low, high] around 1, within {-SCALES[1]:g} to {SCALES[1]:g}"
        raise InvalidInputError("scales", [low, high], allowed)
    return Scale(low, high)


@dataclass(frozen=True, slots=True)
class DataFlowSpace:
    """A `SearchSpace` of paths."""

    paths: Paths
    setting: Setting

    @property
    def dim(self) -> int:
        """Number of genes."""
        return self.paths.dim

    @property
    def names(self) -> tuple[str, ...]:
        """One name a gene."""
        return self.paths.names

    @property
    def domain(self) -> Domain:
        """Choices and, behind them, scales; begins with the host as it is."""
        return self.paths.domain

    def repair(self, genome: Genome) -> Genome:
        """See `Paths.repair`."""
        return self.paths.repair(genome)

    def recipe(self, genome: Genome) -> Recipe:
        """The recipe with the genome's path, and no merge."""
        return with_path(unmerged(self.setting), self.paths.path(genome))

    def encode(self, recipe: Recipe) -> Genome:
        """The genome of a recipe that this space made, or one like it.

        Raises:
            InvalidInputError: the recipe is no path of this space; names the field.
        """
        genome = path_genome(self.paths, recipe)
        check_same(unmerged(self.setting), recipe.parameter_part)
        return genome

    def nearest(self, recipe: Recipe) -> Genome:
        """The genome of the path with most of the recipe's layers; see `SearchSpace.nearest`."""
        check_sources(self.setting, recipe)
        return nearest_path(self.paths, recipe)

    def describe(self) -> dict[str, object]:
        """What the space is and what every gene means, JSON-ready."""
        return {**described(self.paths), "kind": "data_flow", "dim": self.dim, "genes": self.paths.describe()}


def unmerged(setting: Setting) -> Recipe:
    """The models of a search, before a path takes its way through them."""
    return Recipe(
        base=setting.base,
        sources=dict(setting.sources),
        merge=NO_MERGE,
        dtype=setting.dtype,
        seed=setting.seed,
        **setting.shared,
    )


def with_path(recipe: Recipe, path: LayerPath) -> Recipe:
    """A recipe with a path through its models."""
    return Recipe(**{**dict(recipe), "path": path})


def path_genome(paths: Paths, recipe: Recipe) -> Genome:
    """The genes of a recipe's path.

    Raises:
        InvalidInputError: it has none, or one that is not of these.
    """
    if recipe.path is None:
        raise InvalidInputError("recipe.path", None, "a path: this search space has nothing else")
    try:
        return paths.genome(recipe.path)
    except InvalidInputError as error:
        raise InvalidInputError(f"recipe.{error.field}", error.value, error.allowed) from error


def nearest_path(paths: Paths, recipe: Recipe) -> Genome:
    """The genes of the path that is most like a recipe's.

    Raises:
        InvalidInputError: it has none, or one with another host or another meaning of scales.
    """
    if recipe.path is None:
        raise InvalidInputError("recipe.path", None, "a path: nothing in this search space is like a merge alone")
    try:
        return paths.nearest(recipe.path)
    except InvalidInputError as error:
        raise InvalidInputError(f"recipe.{error.field}", error.value, error.allowed) from error


def check_sources(setting: Setting, recipe: Recipe) -> None:
    """Raises InvalidInputError unless a recipe's sources have the names of the search's."""
    if list(recipe.sources) != list(setting.sources):
        allowed = f"the sources {', '.join(setting.sources)}"
        raise InvalidInputError("recipe.sources", list(recipe.sources), allowed)


def check_same(expected: Recipe, found: Recipe) -> None:
    """Raises InvalidInputError unless two recipes without paths are the same.

    What a path does not visit is compared, too: a space makes one recipe of a path, not several of one digest.
    """
    for place, wanted, got in differences(expected.canonical(), found.canonical()):
        raise InvalidInputError(f"recipe.{path_text(place)}", got, f"{wanted!r} in this search space")


def described(paths: Paths) -> dict[str, object]:
    """What a space of paths is, JSON-ready."""
    return {
        "host": paths.host,
        "models": list(paths.models),
        "semantics": paths.semantics,
        "scales": None if paths.scale is None else [paths.scale.low, paths.scale.high],
        "hops": [paths.least, paths.most],
    }
