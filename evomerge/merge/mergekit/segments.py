"""Segments as weights of whole modules, which mergekit has words for; a segment that begins inside one is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from evomerge.archive.flat_order import SortKey, owner, sort_key
from evomerge.errors import InvalidInputError
from evomerge.models.architecture import Part
from evomerge.models.family import LAYER, split_numbers
from evomerge.recipe.schema import Merge, Recipe, Rule
from evomerge.recipe.segments import Chromosome, Segments


def without_segments(recipe: Recipe, num_layers: int, modules: Mapping[str, str]) -> Recipe:
    """The same model as a recipe whose rules give each part of each layer its weights.

    Args:
        num_layers: of the base model.
        modules: template of a module's name → its role.

    Raises:
        InvalidInputError: a segment does not begin with a part of a layer, the recipe has noise, or it is about other
            modules; names the field.
    """
    segments = recipe.segments
    assert segments is not None, "the caller looked"
    if segments.noise:
        raise InvalidInputError("segments.noise", f"{len(segments.noise)} terms", "none: mergekit adds no noise")
    merge = Merge(method="linear", parameters={"normalize": False}, rules=tuple(_rules(segments, num_layers, modules)))
    return recipe.model_copy(update={"segments": None, "merge": merge})


def _rules(segments: Segments, num_layers: int, modules: Mapping[str, str]) -> Iterator[Rule]:
    readings = [_Reading(number, said, modules) for number, said in enumerate(segments.chromosomes)]
    groups = [said.roles for said in segments.chromosomes]
    for module, role in sorted(modules.items(), key=lambda item: item[1]):  # `norm.mlp` before `norm.mlp.post`
        number = owner(role, groups)
        if number is None:
            allowed = f"every role of this model, also {role!r}"
            raise InvalidInputError("segments.chromosomes", [list(group) for group in groups], allowed)
        layers = range(num_layers) if LAYER in module else [None]
        weights = [readings[number].weights(Part(role, layer)) for layer in layers]
        for source in weights[0]:
            for weight, run in groupby(layers, key=lambda layer, source=source: weights[layer or 0][source]):
                first, *rest = run
                span = None if first is None else (first, rest[-1] if rest else first)
                yield Rule(layers=span, roles=(role,), source=source, parameters={"weight": weight})


@dataclass(frozen=True, slots=True)
class _Start:
    """Where a segment begins: with the first tensor of a part."""

    key: SortKey
    segment: int


class _Reading:
    """One chromosome's weights, part by part."""

    def __init__(self, number: int, said: Chromosome, modules: Mapping[str, str]) -> None:
        self._said = said
        where = f"segments.chromosomes[{number}]"
        self._starts = [
            _Start(_key(f"{where}.starts[{n}]", name, entry, modules), n) for n, (name, entry) in enumerate(said.starts)
        ]

    def weights(self, part: Part) -> dict[str, float]:
        """Of each source, in a part of a layer."""
        key = sort_key("", part)
        segment = max((start.segment for start in self._starts if start.key <= key), default=0)
        return {source: weights[segment] for source, weights in self._said.weights.items()}


def _key(field: str, name: str, entry: int, modules: Mapping[str, str]) -> SortKey:
    template, layer, expert = split_numbers(name)
    module, _, kind = template.rpartition(".")
    if module not in modules:
        raise InvalidInputError(field, [name, entry], "a tensor of a module that mergekit would find")
    if entry or kind != "weight" or expert:
        allowed = "the first entry of a module's weight: mergekit has no smaller parts (granularity tensor or layer)"
        raise InvalidInputError(field, [name, entry], allowed)
    return sort_key("", Part(modules[module], layer))
