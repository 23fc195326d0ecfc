"""The genome nearest to a recipe that another search, a person or another tool made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evomerge.candidate import Genome
from evomerge.errors import InvalidInputError
from evomerge.merge.methods import METHODS
from evomerge.merge.parameters import resolve
from evomerge.models.architecture import Architecture, Part
from evomerge.recipe.parameters import Scalar
from evomerge.recipe.schema import Recipe, role_matches

if TYPE_CHECKING:
    from search_spaces.template import Gene, TemplateSpace

Resolved = Mapping[Part, tuple[Mapping[str, Scalar], Mapping[str, Mapping[str, Scalar]]]]
"""What holds for a part of the model: shared parameters, and those of each source."""


def nearest(space: TemplateSpace, recipe: Recipe, architecture: Architecture) -> Genome:
    """The genome whose genes are the means of what the recipe says of their tensors.

    A gene of a knot takes the mean that is weighted by the knot's influence on each layer. A recipe of the space itself
    gives its own genome.

    Raises:
        InvalidInputError: the recipe has another method, or other sources.
    """
    try:
        return space.encode(recipe)
    except InvalidInputError:
        template = Recipe.model_validate(space.template)
    if recipe.merge.method != template.merge.method:
        allowed = f"{template.merge.method!r}, the method of this search space"
        raise InvalidInputError("recipe.merge.method", recipe.merge.method, allowed)
    if list(recipe.sources) != list(template.sources):
        raise InvalidInputError("recipe.sources", list(recipe.sources), f"the sources {', '.join(template.sources)}")
    method, num_layers = METHODS[recipe.merge.method], architecture.num_layers
    parts = sorted(set(architecture.parts.values()), key=repr)
    found = {part: resolve(method, recipe.merge, tuple(recipe.sources), part, num_layers) for part in parts}
    return space.repair(tuple(_mean(gene, found, _knots(gene, space.genes), num_layers) for gene in space.genes))


def _knots(gene: Gene, genes: Sequence[Gene]) -> int:
    """How many knots the gene's parameter has over the depth; 1 for none."""
    same = (gene.parameter, gene.source, gene.layers, gene.roles)
    return 1 + max(g.knot or 0 for g in genes if (g.parameter, g.source, g.layers, g.roles) == same)


def _mean(gene: Gene, found: Resolved, knots: int, num_layers: int) -> float:
    values, weights = list[float](), list[float]()
    for part, (shared, per_source) in found.items():
        value = shared.get(gene.parameter) if gene.source is None else per_source[gene.source].get(gene.parameter)
        if isinstance(value, int | float) and (weight := _influence(gene, part, knots, num_layers)):
            values.append(float(value))
            weights.append(weight)
    if not values:
        return gene.scale.gene(gene.start)
    return gene.scale.gene(math.fsum(w * v for w, v in zip(weights, values, strict=True)) / math.fsum(weights))


def _influence(gene: Gene, part: Part, knots: int, num_layers: int) -> float:
    if not role_matches(part.role, gene.roles):
        return 0.0
    if part.layer is None:
        return 0.0 if gene.layers is not None or gene.knot is not None else 1.0
    if gene.layers is not None and not gene.layers[0] <= part.layer <= gene.layers[1]:
        return 0.0
    if gene.knot is None:
        return 1.0
    position = part.layer / (num_layers - 1) * (knots - 1) if num_layers > 1 else 0.0
    return max(0.0, 1.0 - abs(position - gene.knot))
