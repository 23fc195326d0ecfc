"""A search space as recipes with holes: every gene has its places in a recipe, all else stands still."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from evomerge.candidate import Genome
from evomerge.errors import InvalidInputError
from evomerge.models.architecture import Architecture
from evomerge.optimizers.domain import Domain, GeneKind
from evomerge.recipe.parameters import Scalar
from evomerge.recipe.schema import ParameterValue, Recipe, canonical_json
from evomerge.recipe.text import path_text
from evomerge.recipe.written import Written, encode, written
from search_spaces.groups import Group, Span
from search_spaces.nearest import nearest
from search_spaces.scale import Choices, Scale
from search_spaces.setting import Setting

Place = tuple[str | int, ...]

METHOD = "method"
"""The gene that picks a method."""


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a value holds: for one source (None: for all) in one group of tensors."""

    source: str | None
    group: Group


@dataclass(frozen=True, slots=True)
class Gene:
    """One gene: what it sets and within which range.

    Attributes:
        name: unique in the space, e.g. `weight/math/layers 0-9/attention`.
        spots: where its value holds: more than one where sources or groups are tied, none for the choice of a method.
        knot: number of the knot from the first layer on; None for a value that does not vary with depth.
        knots: how many there are over the depth, 1 for none.
        start: the value at which searches begin, one that the scale has.
        key: whether it is a random key: its value is its rank among the genes that are, smallest first (Bean 1994).
        step: the share of the usual step that suits it.
    """

    name: str
    parameter: str
    spots: tuple[Spot, ...]
    scale: Scale | Choices
    start: Scalar
    knot: int | None = None
    knots: int = 1
    key: bool = False
    step: float = 1.0

    @property
    def kind(self) -> GeneKind:
        """What optimizers may know of it. A key is a real number."""
        sources = {spot.source for spot in self.spots}
        own = next(iter(sources)) if len(sources) == 1 else None
        some: dict[str, Any] = {"step": self.step, "group": self.parameter, "part": self.part, "source": own or ""}
        if isinstance(self.scale, Scale) and not self.scale.log:
            some["span"] = (self.scale.low, self.scale.high)
        if self.key or isinstance(self.scale, Scale):
            return GeneKind(**some)
        return GeneKind(len(self.scale.values), self.scale.ordered, **some)

    @property
    def part(self) -> str:
        """Where its value holds: the labels of its groups, and the knot."""
        labels = " and ".join(dict.fromkeys(spot.group.label for spot in self.spots))
        return "/".join(filter(None, [labels, None if self.knot is None else f"knot {self.knot}"]))

    def describe(self) -> dict[str, object]:
        """JSON-ready."""
        sources = list(dict.fromkeys(spot.source for spot in self.spots if spot.source is not None))
        groups = list(dict.fromkeys(spot.group for spot in self.spots))
        one = groups[0] if len(groups) == 1 else None
        return {
            "name": self.name,
            "parameter": self.parameter,
            "source": sources[0] if len(sources) == 1 else None,
            "sources": sources,
            "layers": list(one.layers) if one and one.layers else None,
            "roles": list(one.roles) if one else [],
            "groups": [group.label for group in groups],
            "knot": self.knot,
            **self.scale.describe(),
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
        self.data |= setting.shared
        if setting.calibration is not None:
            self.data["calibration"] = setting.calibration.model_dump(exclude_none=True)
        self.sources = list(setting.sources)

    def write(
        self,
        layers: Span | None,
        roles: tuple[str, ...],
        source: str | None,
        parameter: str,
        value: ParameterValue | Sequence[float],
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
class Form:
    """A recipe with holes.

    Attributes:
        method: the recipe's.
        data: the recipe's, with the start's values in the holes.
        places: for each gene where its value stands; none where the method has no such parameter.
        text: `data` as JSON.
    """

    method: str
    data: Mapping[str, Any]
    places: tuple[tuple[Place, ...], ...]
    text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", json.dumps(self.data))


@dataclass(frozen=True, slots=True)
class _Pieces:
    """A text with holes.

    Attributes:
        texts: between the holes, before the first and behind the last.
        genes: whose value fills each hole.
    """

    texts: tuple[str, ...]
    genes: tuple[int, ...]

    def filled(self, values: Sequence[str]) -> str:
        """With the genes' values as text."""
        return self.texts[0] + "".join([values[g] + text for g, text in zip(self.genes, self.texts[1:], strict=True)])


@lru_cache(maxsize=64)
def _pieces(text: str, places: tuple[tuple[Place, ...], ...]) -> tuple[_Pieces, _Pieces] | None:
    """A form's recipe as it is stored and its canonical JSON, in pieces; None where some value does not stand there as
    it is."""
    data, marks = json.loads(text), dict[int, float | str]()
    for gene, where in enumerate(places):
        for place in where:
            parent = _parent(data, place)
            # No recipe holds these; a list of knots takes numbers alone.
            marks[gene] = -(2.0**900 + gene * 2.0**870) if isinstance(parent, list) else f"\ue000{gene}\ue001"
            parent[place[-1]] = marks[gene]
    recipe, holes = Recipe.model_validate(data), sum(map(len, places))
    stored = _cut(written(recipe).text, {encode(mark): gene for gene, mark in marks.items()})
    canonical = _cut(canonical_json(recipe.canonical()), {canonical_json(mark): gene for gene, mark in marks.items()})
    return (stored, canonical) if len(stored.genes) == len(canonical.genes) == holes else None


def _cut(text: str, marks: Mapping[str, int]) -> _Pieces:
    parts = re.split("(" + "|".join(map(re.escape, marks)) + ")", text) if marks else [text]
    return _Pieces(tuple(parts[::2]), tuple(marks[mark] for mark in parts[1::2]))


@dataclass(frozen=True, slots=True)
class TemplateSpace:
    """A `SearchSpace` whose genes are values in a recipe.

    A gene that the method at hand does not have changes nothing: it stands at its start.

    Attributes:
        forms: one a method; of several, the first gene picks one.
        genes: in the order of a genome.
        details: what `describe` says beside the genes.
        architecture: of the models, whose parts genes are about.
    """

    forms: tuple[Form, ...]
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
        """Begins at the plain average of the sources, by the first method."""
        kinds = tuple(gene.kind for gene in self.genes)
        return Domain(tuple(gene.scale.gene(gene.start) for gene in self.genes), kinds)

    def values(self, genome: Genome) -> tuple[Scalar, ...]:
        """The parameters' values, one a gene, on their grids; the start's where the method has no such parameter.

        Raises:
            InvalidInputError: the genome has another length or is not finite.
        """
        return self._decoded(genome)[1]

    def repair(self, genome: Genome) -> Genome:
        """The genome of the grid's nearest values: what `encode(recipe(genome))` gives."""
        return tuple(g.scale.gene(value) for g, value in zip(self.genes, self.values(genome), strict=True))

    def recipe(self, genome: Genome) -> Recipe:
        """The recipe with the genome's values in their places."""
        return Recipe.model_validate(self._data(*self._decoded(genome)))

    def made(self, genome: Genome) -> tuple[Written, str]:
        """The recipe as it is stored, and its digest: from the texts of the space's recipes, in which values change
        and nothing else, in a fifth of the time that a recipe needs to be checked and written."""
        form, values = self._decoded(genome)
        known = _pieces(form.text, form.places)
        if known is None:
            recipe = Recipe.model_validate(self._data(form, values))
            return written(recipe), recipe.digest
        stored, canonical = known
        texts = [float.__repr__(v) if isinstance(v, float) else encode(v) for v in values]
        normal = [
            text if isinstance(v, float) and not v.is_integer() else canonical_json(v)
            for text, v in zip(texts, values, strict=True)
        ]
        digest = hashlib.sha256(canonical.filled(normal).encode()).hexdigest()
        return Written(stored.filled(texts)), digest

    def encode(self, recipe: Recipe) -> Genome:
        """The genome of a recipe that this space made, or one like it.

        Raises:
            InvalidInputError: the recipe differs in more than the genes' values, or a value is out of its range.
        """
        form, data = self.form(recipe.merge.method), recipe.canonical()
        genome = tuple(
            gene.scale.gene(_read(data, gene, places[0]) if places else self._unread(gene, form))
            for gene, places in zip(self.genes, form.places, strict=True)
        )
        scales = {place: gene.scale for gene, places in zip(self.genes, form.places, strict=True) for place in places}
        for place, expected, found in differences(self.recipe(genome).canonical(), data):
            if not _close(expected, found, scales.get(place)):
                raise InvalidInputError(f"recipe.{path_text(place)}", found, f"{expected!r} in this search space")
        return genome

    def nearest(self, recipe: Recipe) -> Genome:
        """See `search_spaces.nearest`."""
        return nearest(self, recipe, self.architecture)

    def form(self, method: str) -> Form:
        """The form of a method.

        Raises:
            InvalidInputError: the space does not have it.
        """
        for form in self.forms:
            if form.method == method:
                return form
        names = " or ".join(repr(form.method) for form in self.forms)
        raise InvalidInputError("recipe.merge.method", method, f"{names} in this search space")

    def ranked(self, genome: Genome) -> Genome:
        """The genome with every random key in the middle of its rank's share of the range; ties keep the genes' order.

        Source: Bean 1994, Genetic Algorithms and Random Keys for Sequencing and Optimization.
        """
        keys = [i for i, gene in enumerate(self.genes) if gene.key]
        if not keys:
            return genome
        result = list(genome)
        for rank, i in enumerate(sorted(keys, key=lambda i: genome[i])):
            result[i] = (rank + 0.5) / len(keys)
        return tuple(result)

    def describe(self) -> dict[str, object]:
        """What the space is and what every gene means, JSON-ready."""
        return {**self.details, "dim": self.dim, "genes": [gene.describe() for gene in self.genes]}

    def _decoded(self, genome: Genome) -> tuple[Form, tuple[Scalar, ...]]:
        if len(genome) != self.dim:
            raise InvalidInputError("genome", f"{len(genome)} genes", f"{self.dim} genes")
        for gene, value in zip(self.genes, genome, strict=True) if not all(map(math.isfinite, genome)) else ():
            if not math.isfinite(value):
                raise InvalidInputError(f"genome {gene.name}", value, "a finite number")
        clipped = tuple(min(max(float(value), 0.0), 1.0) for value in genome)
        values = [gene.scale.value(value) for gene, value in zip(self.genes, self.ranked(clipped), strict=True)]
        form = self.form(str(values[0])) if len(self.forms) > 1 else self.forms[0]
        return form, tuple(
            value if places else self._unread(gene, form)
            for gene, value, places in zip(self.genes, values, form.places, strict=True)
        )

    def _data(self, form: Form, values: Sequence[Scalar]) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(form.text)  # a copy, several times as fast as `deepcopy`
        for places, value in zip(form.places, values, strict=True):
            for place in places:
                _parent(data, place)[place[-1]] = value
        return data

    def _unread(self, gene: Gene, form: Form) -> Scalar:
        """The value of a gene that has no place in a form."""
        return gene.start if gene.spots else form.method


def _parent(data: Any, place: Place) -> Any:
    for part in place[:-1]:
        data = data[part]
    return data


def _read(data: Any, gene: Gene, place: Place) -> Scalar:
    """A gene's value in a recipe's data."""
    try:
        value = _parent(data, place)[place[-1]]
    except (KeyError, IndexError, TypeError) as error:
        raise InvalidInputError(f"recipe.{path_text(place)}", None, f"a value for {gene.name!r}") from error
    if isinstance(gene.scale, Choices):
        if not gene.scale.holds(value):
            allowed = f"one of {', '.join(map(str, gene.scale.values))} for {gene.name!r}"
            raise InvalidInputError(f"recipe.{path_text(place)}", value, allowed)
        found: Scalar = value
        return found
    if isinstance(value, bool) or not isinstance(value, float | int) or not gene.scale.holds(value):
        allowed = f"a number from {gene.scale.low:g} to {gene.scale.high:g} for {gene.name!r}"
        raise InvalidInputError(f"recipe.{path_text(place)}", value, allowed)
    return float(value)


def _close(expected: object, found: object, scale: Scale | Choices | None) -> bool:
    """Whether two values are one on the grid."""
    if not (isinstance(scale, Scale) and isinstance(expected, float | int) and isinstance(found, float | int)):
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
