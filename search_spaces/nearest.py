"""The genome nearest to a recipe that another search, a person or another tool made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from evomerge.candidate import Genome
from evomerge.errors import InvalidInputError
from evomerge.merge.methods import METHODS
from evomerge.merge.parameters import resolve
from evomerge.models.architecture import Architecture, Part
from evomerge.recipe.parameters import Scalar, is_after_layers
from evomerge.recipe.schema import Recipe
from search_spaces.scale import Choices

if TYPE_CHECKING:
    from search_spaces.template import Gene, Spot, TemplateSpace

Resolved = Mapping[Part, tuple[Mapping[str, Scalar], Mapping[str, Mapping[str, Scalar]]]]
"""What holds for a part of the model: shared parameters, and those of each source."""


def nearest(space: TemplateSpace, recipe: Recipe, architecture: Architecture) -> Genome:
    """The genome whose genes are the means of what the recipe says of their tensors; of names, the most frequent.

    A gene of a knot takes the mean that is weighted by the knot's influence on each layer. A recipe of the space itself
    gives its own genome.

    Raises:
        InvalidInputError: the space does not have the recipe's method, or has other sources.
    """
    try:
        return space.encode(recipe)
    except InvalidInputError:
        form = space.form(recipe.merge.method)
    sources = list(form.data["sources"])
    if list(recipe.sources) != sources:
        raise InvalidInputError("recipe.sources", list(recipe.sources), f"the sources {', '.join(sources)}")
    method, num_layers = METHODS[recipe.merge.method], architecture.num_layers
    parts = sorted(set(architecture.parts.values()), key=repr)
    found = {part: resolve(method, recipe.merge, tuple(recipe.sources), part, num_layers) for part in parts}
    genes = tuple(_gene(g, found, num_layers) if g.spots else g.scale.gene(form.method) for g in space.genes)
    return space.repair(space.ranked(genes))


def influence(gene: Gene, spot: Spot, part: Part, num_layers: int) -> float:
    """How much a gene's value counts at a tensor, in [0, 1]: between two knots both do."""
    if not spot.group.holds(part):
        return 0.0
    if gene.knot is None:
        return 1.0
    if part.layer is None:
        return float(gene.knot == (gene.knots - 1 if is_after_layers(part.role) else 0))
    position = part.layer / (num_layers - 1) * (gene.knots - 1) if num_layers > 1 else 0.0
    return max(0.0, 1.0 - abs(position - gene.knot))


def _gene(gene: Gene, found: Resolved, num_layers: int) -> float:
    values, weights = list[Scalar](), list[float]()
    for part, (shared, per_source) in found.items():
        for spot in gene.spots:
            stated = shared if spot.source is None else per_source[spot.source]
            weight = influence(gene, spot, part, num_layers)
            if weight and gene.parameter in stated:
                values.append(stated[gene.parameter])
                weights.append(weight)
    if not values:
        return gene.scale.gene(gene.start)
    if isinstance(gene.scale, Choices) and not gene.scale.ordered:
        votes = {value: math.fsum(w for w, v in zip(weights, values, strict=True) if v == value) for value in values}
        return gene.scale.gene(max(votes, key=lambda value: votes[value]))
    mean = math.fsum(w * float(v) for w, v in zip(weights, values, strict=True)) / math.fsum(weights)
    return mean if gene.key else gene.scale.gene(mean)
