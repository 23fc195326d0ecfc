"""A search space as a recipe with holes: every gene has its places in the recipe, all else stands still."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.candidate import Genome
from evomerge.errors import InvalidInputError
from evomerge.models.architecture import Architecture
from evomerge.optimizers.domain import Domain
from evomerge.recipe.schema import ParameterValue, Recipe
from evomerge.recipe.text import path_text
from search_spaces.groups import Span
from search_spaces.nearest import nearest
from search_spaces.scale import Scale
from search_spaces.setting import Setting

Place = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Gene:
    """One gene: what it sets and within which range.

    Attributes:
        name: unique in the space, e.g. `weight/math/layers 0-9/attention`.
        source: None for a parameter that all sources share.
        layers: first and last layer; None for all, or for tensors outside the layers.
        roles: empty for all.
        knot: number of the knot from the first layer on; None for a value that does not vary with depth.
        start: the value at which searches begin, on the scale's grid.
        places: where the value stands in a recipe's data.
    """

    name: str
    parameter: str
    source: str | None
    layers: Span | None
    roles: tuple[str, ...]
    knot: int | None
    scale: Scale
    start: float
    places: tuple[Place, ...]

    def describe(self) -> dict[str, object]:
        """JSON-ready."""
        return {
            "name": self.name,
            "parameter": self.parameter,
            "source": self.source,
            "layers": None if self.layers is None else list(self.layers),
            "roles": list(self.roles),
            "knot": self.knot,
            "low": self.scale.low,
            "high": self.scale.high,
            "scale": "log" if self.scale.log else "linear",
            "start": self.start,
        }


class Template:
    """A recipe's data while a space is built: values are written where they hold, and their places noted."""

    def __init__(self, setting: Setting, method: str) -> None:
        self.merge: dict[str, Any] = {"method": method, "parameters": {}, "sources": {}, "rules": []}
        self.data: dict[str, Any] = {
            "schema": "evomerge.recipe/1",
            "base": setting.base.model_dump(),
            "sources": {name: ref.model_dump() for name, ref in setting.sources.items()},
            "merge": self.merge,
            "dtype": setting.dtype,
            "seed": setting.seed,
        }
        if setting.calibration is not None:
            self.data["calibration"] = setting.calibration.model_dump(exclude_none=True)
        self.sources = list(setting.sources)

    def write(
        self,
        layers: Span | None,
        roles: tuple[str, ...],
        source: str | None,
        parameter: str,
        value: ParameterValue | list[float],
    ) -> Place:
        """Set a parameter for some tensors and one source (None: for all); returns where it now stands."""
        if layers is None and not roles:
            place: Place = ("merge", "parameters") if source is None else ("merge", "sources", source)
            target = self.merge["parameters"] if source is None else self.merge["sources"].setdefault(source, {})
        else:
            number = self._rule(layers, roles, source)
            place, target = ("merge", "rules", number, "parameters"), self.merge["rules"][number]["parameters"]
        target[parameter] = value
        return (*place, parameter)

    def _rule(self, layers: Span | None, roles: tuple[str, ...], source: str | None) -> int:
        """Number of the rule for these tensors and this source, a new one if need be."""
        rules = self.merge["rules"]
        for number, rule in enumerate(rules):
            if (rule["layers"], rule["roles"], rule["source"]) == (layers, roles, source):
                return number
        rules.append({"layers": layers, "roles": roles, "source": source, "parameters": {}})
        return len(rules) - 1


@dataclass(frozen=True, slots=True)
class TemplateSpace:
    """A `SearchSpace` whose genes are values in a recipe.

    Attributes:
        template: the recipe's data, with the start's values in the genes' places.
        genes: in the order of a genome.
        details: what `describe` says beside the genes.
        architecture: of the models, whose parts genes are about.
    """

    template: Mapping[str, Any]
    genes: tuple[Gene, ...]
    details: Mapping[str, object]
    architecture: Architecture

    @property
    def dim(self) -> int:
        """Number of genes."""
        return len(self.genes)

    @property
    def names(self) -> tuple[str, ...]:
        """One name a gene."""
        return tuple(gene.name for gene in self.genes)

    @property
    def domain(self) -> Domain:
        """Real genes that begin at the plain average of the sources."""
        return Domain(tuple(gene.scale.gene(gene.start) for gene in self.genes))

    def values(self, genome: Genome) -> tuple[float, ...]:
        """The parameters' values, one a gene, on their grids.

        Raises:
            InvalidInputError: the genome has another length or is not finite.
        """
        if len(genome) != self.dim:
            raise InvalidInputError("genome", f"{len(genome)} genes", f"{self.dim} genes")
        for gene, value in zip(self.genes, genome, strict=True):
            if not math.isfinite(value):
                raise InvalidInputError(f"genome {gene.name}", value, "a finite number")
        return tuple(gene.scale.value(value) for gene, value in zip(self.genes, genome, strict=True))

    def repair(self, genome: Genome) -> Genome:
        """The genome of the grid's nearest values: what `encode(recipe(genome))` gives."""
        return tuple(g.scale.gene(value) for g, value in zip(self.genes, self.values(genome), strict=True))

    def recipe(self, genome: Genome) -> Recipe:
        """The recipe with the genome's values in their places."""
        data = copy.deepcopy(dict(self.template))
        for gene, value in zip(self.genes, self.values(genome), strict=True):
            for place in gene.places:
                _parent(data, place)[place[-1]] = value
        return Recipe.model_validate(data)

    def encode(self, recipe: Recipe) -> Genome:
        """The genome of a recipe that this space made, or one like it.

        Raises:
            InvalidInputError: the recipe differs in more than the genes' values, or a value is out of its range.
        """
        data = recipe.canonical()
        genome = tuple(gene.scale.gene(_read(data, gene)) for gene in self.genes)
        steps = {place: gene.scale for gene in self.genes for place in gene.places}
        for place, expected, found in differences(self.recipe(genome).canonical(), data):
            scale = steps.get(place)
            if scale is None or not _close(expected, found, scale):
                raise InvalidInputError(f"recipe.{path_text(place)}", found, f"{expected!r} in this search space")
        return genome

    def nearest(self, recipe: Recipe) -> Genome:
        """See `search_spaces.nearest`."""
        return nearest(self, recipe, self.architecture)

    def describe(self) -> dict[str, object]:
        """What the space is and what every gene means, JSON-ready."""
        return {**self.details, "dim": self.dim, "genes": [gene.describe() for gene in self.genes]}


def _parent(data: Any, place: Place) -> Any:
    for part in place[:-1]:
        data = data[part]
    return data


def _read(data: Any, gene: Gene) -> float:
    """A gene's value in a recipe's data."""
    place = gene.places[0]
    try:
        value = _parent(data, place)[place[-1]]
    except (KeyError, IndexError, TypeError) as error:
        raise InvalidInputError(f"recipe.{path_text(place)}", None, f"a value for {gene.name!r}") from error
    if isinstance(value, bool) or not isinstance(value, float | int) or not gene.scale.holds(value):
        allowed = f"a number from {gene.scale.low:g} to {gene.scale.high:g} for {gene.name!r}"
        raise InvalidInputError(f"recipe.{path_text(place)}", value, allowed)
    return float(value)


def _close(expected: object, found: object, scale: Scale) -> bool:
    """Whether two values are one on the grid."""
    if not (isinstance(expected, float | int) and isinstance(found, float | int)):
        return False
    return abs(expected - found) <= scale.step(expected)


def differences(expected: Any, found: Any, place: Place = ()) -> Iterator[tuple[Place, Any, Any]]:
    """Where two JSON values differ: place, what was expected, what was found (None: nothing)."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in {**expected, **found}:
            yield from differences(expected.get(key), found.get(key), (*place, key))
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for number, (a, b) in enumerate(zip(expected, found, strict=True)):
            yield from differences(a, b, (*place, number))
    elif expected != found:
        yield place, expected, found
