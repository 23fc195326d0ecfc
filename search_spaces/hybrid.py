"""Both spaces in one genome: what a merge gives is one more model, whose layers a path may visit.

Source: Akiba et al. 2024, arXiv:2403.13187, section 3.3 (merging in both spaces). There the parameter space comes first
and its result is frozen; with a recipe file as a source, a space of kind `data_flow` does the same. Merged models as
further choices: Reinforced Model Merging, 2025, arXiv:2503.21272.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from evomerge.candidate import Genome
from evomerge.errors import InvalidInputError
from evomerge.optimizers.domain import Domain
from evomerge.recipe.path import MERGED
from evomerge.recipe.schema import Recipe
from evomerge.recipe.text import validate
from search_spaces.data_flow import (
    DataFlowSpec,
    check_same,
    check_sources,
    described,
    nearest_path,
    path_genome,
    paths_of,
    unmerged,
    with_path,
)
from search_spaces.parameter import parameter_space
from search_spaces.paths import Paths
from search_spaces.setting import Setting
from search_spaces.space import SearchSpace


class HybridSpec(BaseModel):
    """A run's `space` of kind `hybrid`.

    Attributes:
        merge: a space of kind `parameter`.
        path: a space of kind `data_flow`, with one more model, `merged`; it is the host unless another one is named.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["hybrid"] = "hybrid"
    merge: dict[str, Any] = Field(default_factory=dict)
    path: dict[str, Any] = Field(default_factory=dict)


def hybrid_space(spec: Mapping[str, Any], setting: Setting) -> HybridSpace:
    """The space that a spec describes.

    Raises:
        InvalidInputError: one of both spaces is not valid, or no path can visit what the merge gives.
    """
    wanted = validate(HybridSpec, dict(spec))
    try:
        asked = validate(DataFlowSpec, {"host": MERGED, **wanted.path})
        paths = paths_of(asked, setting, ("base", MERGED, *setting.sources))
    except InvalidInputError as error:
        raise _inside("path", error) from error
    if MERGED not in paths.models:
        raise InvalidInputError("path.models", list(paths.models), f"{MERGED} among them, or a space of kind data_flow")
    try:
        return HybridSpace(parameter_space(wanted.merge, setting), paths, setting)
    except InvalidInputError as error:
        raise _inside("merge", error) from error


def _inside(part: str, error: InvalidInputError) -> InvalidInputError:
    return InvalidInputError(part if error.field == "document" else f"{part}.{error.field}", error.value, error.allowed)


@dataclass(frozen=True, slots=True)
class HybridSpace:
    """A `SearchSpace`: the genes of a merge, then those of a path.

    Of paths that do not visit what the merge gives, recipes have no merge, and its genes stand at their start.
    """

    merge: SearchSpace
    paths: Paths
    setting: Setting

    @property
    def dim(self) -> int:
        """Number of genes."""
        return self.merge.dim + self.paths.dim

    @property
    def names(self) -> tuple[str, ...]:
        """One name a gene."""
        return (*self.merge.names, *self.paths.names)

    @property
    def domain(self) -> Domain:
        """Both domains, one after the other; the seeds of each beside the start of the other."""
        merge, paths = self.merge.domain, self.paths.domain
        moved = (k if k.gate is None else replace(k, gate=k.gate + merge.dim) for k in paths.kinds)
        seeds = (*(seed + paths.start for seed in merge.seeds), *(merge.start + seed for seed in paths.seeds))
        legal = dict.fromkeys(self.repair(seed) for seed in seeds)
        return Domain(merge.start + paths.start, (*merge.kinds, *moved), tuple(legal))

    def repair(self, genome: Genome) -> Genome:
        """The one genome that stands for the same recipe."""
        merge, path = self._parts(genome)
        visited = self.paths.path(path).uses_merged
        return (self.merge.repair(merge) if visited else self.merge.domain.start) + self.paths.repair(path)

    def recipe(self, genome: Genome) -> Recipe:
        """The merge with the path; the path alone where it does not visit what the merge gives."""
        merge, rest = self._parts(genome)
        merged, path = self.merge.recipe(merge), self.paths.path(rest)  # of both, or a gene that is no number slips by
        return with_path(merged if path.uses_merged else unmerged(self.setting), path)

    def encode(self, recipe: Recipe) -> Genome:
        """The genome of a recipe that this space made, or one like it.

        Raises:
            InvalidInputError: the recipe lies outside this space; names the field.
        """
        path = path_genome(self.paths, recipe)
        if self.paths.path(path).uses_merged:
            return self.merge.encode(recipe.parameter_part) + path
        check_same(unmerged(self.setting), recipe.parameter_part)
        return self.merge.domain.start + path

    def nearest(self, recipe: Recipe) -> Genome:
        """The nearest merge, if the recipe has any, with the nearest path, if it has any; see `SearchSpace.nearest`."""
        check_sources(self.setting, recipe)
        merge, path = self.merge.domain.start, self.paths.domain.start
        if recipe.path is not None:
            path = nearest_path(self.paths, recipe)
        if recipe.path is None or recipe.path.uses_merged:
            merge = self.merge.nearest(recipe.parameter_part)
        return self.repair(merge + path)

    def describe(self) -> dict[str, object]:
        """What the space is and what every gene means, JSON-ready."""
        merge = self.merge.describe()
        genes = merge.pop("genes")
        assert isinstance(genes, list)
        return {
            "kind": "hybrid",
            "dim": self.dim,
            "merge": merge,
            "path": described(self.paths),
            "genes": [*genes, *self.paths.describe()],
        }

    def _parts(self, genome: Genome) -> tuple[Genome, Genome]:
        if len(genome) != self.dim:
            raise InvalidInputError("genome", f"{len(genome)} genes", f"{self.dim} genes")
        return genome[: self.merge.dim], genome[self.merge.dim :]
