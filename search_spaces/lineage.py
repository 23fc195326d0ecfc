"""Lineages: candidates are sources, or descend from two earlier candidates by a crossing (M2N2).

There are no genes. A candidate's recipe holds its coefficients over the sources, segment by segment; the inner products
that spherical interpolation needs come from the sources' Gram matrices, which are read once.

Source: Abrantes et al. 2025, Competition and Attraction Improve Model Fusion (M2N2), arXiv:2508.16204, section 3.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from evomerge.archive.flat_order import Chromosome, Granularity, Units, chromosomes, flat_order
from evomerge.archive.lineage import Individual, Noise, Strand, cross, founder, with_noise
from evomerge.archive.segments import individual_of, segments_of
from evomerge.candidate import Descent, Genome
from evomerge.errors import InvalidInputError
from evomerge.merge.vectors import BlockedVectors, open_vectors
from evomerge.optimizers.domain import Domain, LineageDomain
from evomerge.recipe.schema import Merge, Recipe
from evomerge.recipe.segments import Angle
from evomerge.recipe.text import validate
from evomerge.seeds import derive
from search_spaces.groups import REST
from search_spaces.setting import Setting

Roles = tuple[str, ...]


class LineageSpec(BaseModel):
    """A run's `space` of kind `lineage`.

    Attributes:
        chromosomes: groups of tensor roles or their prefixes, `*` for the rest, that are split each for itself; null is
            the whole model as one.
        granularity: where models may be split: before any entry, row of a matrix, tensor or layer. Recipes of the last
            two can be exported to mergekit.
        angle: of spherical interpolation: between whole models (as the code released with the paper has it), between
            the sides of a split (as the paper has it), or tensor by tensor.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["lineage"] = "lineage"
    chromosomes: tuple[tuple[str, ...], ...] | None = Field(default=None, min_length=1)
    granularity: Granularity = "exact"
    angle: Angle = "global"


def lineage_space(spec: Mapping[str, Any], setting: Setting) -> CrossingSpace:
    """The space that a spec describes.

    Raises:
        InvalidInputError: fewer than two sources, or groups of roles that do not part the model.
    """
    assert setting.tensors, "whoever makes a space of this kind says what the base's tensors are"
    wanted = validate(LineageSpec, dict(spec))
    if len(setting.sources) < 2:
        raise InvalidInputError("document", f"{len(setting.sources)} source", "two sources or more to cross")
    groups = _groups(wanted.chromosomes or ((REST,),))
    return CrossingSpace(
        wanted, setting, groups, chromosomes(flat_order(setting.architecture, setting.tensors), groups)
    )


def _groups(wanted: Sequence[Roles]) -> tuple[Roles, ...]:
    """As recipes have them: no roles for the rest."""
    for number, group in enumerate(wanted):
        if REST in group and len(group) > 1:
            raise InvalidInputError(f"chromosomes[{number}]", list(group), f"{REST!r} alone: it is all that is left")
        if not group:
            raise InvalidInputError(f"chromosomes[{number}]", [], f"at least one role, or {REST!r}")
    if sum(REST in group for group in wanted) > 1:
        raise InvalidInputError("chromosomes", [list(group) for group in wanted], f"{REST!r} at most once")
    return tuple(() if REST in group else group for group in wanted)


class CrossingSpace:
    """A `LineageSpace`. A recipe follows from the descent, the parents' recipes and the sources alone.

    Args:
        groups: the roles of each chromosome; empty for the rest.
        parts: the chromosomes.
    """

    def __init__(
        self, spec: LineageSpec, setting: Setting, groups: Sequence[Roles], parts: Sequence[Chromosome]
    ) -> None:
        self._spec, self._setting, self._groups, self._parts = spec, setting, groups, parts
        self._sources = tuple(setting.sources)
        self._units = tuple(Units(part, spec.granularity) for part in parts)

    @property
    def dim(self) -> int:
        """No genes."""
        return 0

    @property
    def names(self) -> tuple[str, ...]:
        """None."""
        return ()

    @property
    def domain(self) -> Domain:
        """How many sources, and how many places there are to split each chromosome at."""
        return Domain((), lineage=LineageDomain(len(self._sources), tuple(units.number for units in self._units)))

    def repair(self, genome: Genome) -> Genome:
        """The empty genome.

        Raises:
            InvalidInputError: it has genes.
        """
        if genome:
            raise InvalidInputError("genome", f"{len(genome)} genes", "0 genes: a lineage has none")
        return ()

    def recipe(self, genome: Genome) -> Recipe:
        """The empty genome: the plain average of the sources, of which no candidate descends."""
        self.repair(genome)
        number = len(self._sources)
        strand = Strand(np.zeros(1, np.int64), np.full((1, number), 1 / number))
        return self._said(Individual((strand,) * len(self._parts)))

    def encode(self, recipe: Recipe) -> Genome:
        """The empty genome.

        Raises:
            InvalidInputError: the recipe is not one of this space; names the field.
        """
        self._individual(recipe, "recipe")
        return ()

    def nearest(self, recipe: Recipe) -> Genome:
        """Nothing: a lineage grows from its sources.

        Raises:
            InvalidInputError: always.
        """
        raise InvalidInputError("space.kind", "lineage", "a space with genes: a lineage begins with its sources alone")

    def descend(self, descent: Descent, parents: Sequence[Recipe], trial: int) -> Recipe:
        """See `LineageSpace`.

        Raises:
            InvalidInputError: a parent is no recipe of this space.
            CheckpointError, NonFiniteError: the sources cannot be read, which the first crossing does.
        """
        child = self._child(descent, parents)
        if descent.noise:
            seed = derive(self._setting.seed, "noise", trial) >> 1  # 63 bits, which every YAML reader can hold
            child = with_noise(child, Noise(seed, descent.noise))
        return self._said(child)

    def describe(self) -> dict[str, object]:
        """What is crossed, JSON-ready."""
        return {
            **self._spec.model_dump(mode="json", exclude={"chromosomes"}),
            "dim": 0,
            "genes": [],
            "sources": list(self._sources),
            "chromosomes": [
                {
                    "roles": list(roles) or [REST],
                    "tensors": len(part.tensors),
                    "entries": part.length,
                    "places": n.number,
                }
                for roles, part, n in zip(self._groups, self._parts, self._units, strict=True)
            ],
        }

    def _child(self, descent: Descent, parents: Sequence[Recipe]) -> Individual:
        if descent.source is not None:
            return founder(descent.source, len(self._sources), len(self._parts))
        a, b = (self._individual(parent, f"parents[{number}]") for number, parent in enumerate(parents))
        splits = [units.position(split) for units, split in zip(self._units, descent.splits, strict=True)]
        return cross(a, b, splits, descent.mix, self._spec.angle, self._vectors)

    @cached_property
    def _vectors(self) -> BlockedVectors:
        """The sources, opened by the first crossing."""
        frame = self._frame
        if self._setting.cache is not None:
            return open_vectors(frame, self._parts, self._setting.cache)
        with tempfile.TemporaryDirectory(prefix="evomerge-") as scratch:  # what is mapped of it stays
            return open_vectors(frame, self._parts, Path(scratch))

    @cached_property
    def _frame(self) -> Recipe:
        """A recipe of this space without its segments."""
        setting = self._setting
        return Recipe(
            base=setting.base,
            sources=dict(setting.sources),
            merge=Merge(method="linear"),
            dtype=setting.dtype,
            seed=setting.seed,
            **setting.shared,
        )

    def _said(self, individual: Individual) -> Recipe:
        segments = segments_of(individual, self._parts, self._groups, self._sources, self._spec.angle)
        return Recipe(**{**dict(self._frame), "segments": segments})

    def _individual(self, recipe: Recipe, where: str) -> Individual:
        if recipe.segments is None:
            raise InvalidInputError(f"{where}.segments", None, "segments: a recipe of a lineage")
        for field, expected in _meaning(self._frame).items():
            if (found := _meaning(recipe)[field]) != expected:
                raise InvalidInputError(f"{where}.{field}", found, f"{expected} in this search space")
        groups = [part.roles for part in recipe.segments.chromosomes]
        if groups != list(self._groups):
            allowed = f"chromosomes of {[list(group) for group in self._groups]} in this search space"
            raise InvalidInputError(f"{where}.segments.chromosomes", [list(group) for group in groups], allowed)
        try:
            return individual_of(recipe.segments, self._parts, self._sources)
        except InvalidInputError as error:
            raise InvalidInputError(f"{where}.{error.field}", error.value, error.allowed) from error


def _meaning(recipe: Recipe) -> dict[str, object]:
    """What recipes of one space share; models count by their content, wherever they lie."""
    models = {name: ref.sha256 or ref.location for name, ref in {"base": recipe.base, **recipe.sources}.items()}
    return {"sources": models, "dtype": recipe.dtype, "seed": recipe.seed, "align": recipe.canonical().get("align")}
