"""Spaces of merges that are linear in the sources, so that derivatives by the weights of a model become those by genes.

θ = θ0 + Σ c_k τ_k in every tensor, with c_k = λ·w_k, or λ·w_k/Σw where weights are normalised. With s_k = <dL/dθ, τ_k>

    dL/dw_k = λ·s_k,   or   λ·(s_k - Σ_j w_j s_j / Σw) / Σw,         dL/dλ = Σ_k c_k s_k / λ,

and a gene's derivative is the sum over the tensors and sources where it holds, times how much the weight there changes
with the gene: the width of its range, and for a knot its share at the tensor's depth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from evomerge.candidate import Genome
from evomerge.errors import InvalidInputError
from evomerge.merge.method import Values
from evomerge.merge.methods import METHODS
from evomerge.merge.parameters import resolve
from evomerge.models.architecture import Part
from evomerge.models.family import BUFFER
from evomerge.recipe.parameters import at_depth
from search_spaces.scale import Scale
from search_spaces.space import SearchSpace
from search_spaces.template import Gene, TemplateSpace

LINEAR_METHODS = ("linear", "task_arithmetic")
"""`linear` only with normalised weights: without, θ0 has no part in it."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A gene has a say in one source's weight (None: in λ), with a share; of a knot less than 1."""

    gene: int
    source: str | None
    share: float


@dataclass(frozen=True, slots=True)
class LinearMap:
    """From genes to the sources' coefficients in every tensor; made by `linear_map`."""

    space: TemplateSpace
    _holds: dict[Part, tuple[Hold, ...]] = field(default_factory=dict, repr=False)

    def derivatives(self, genome: Genome, products: Mapping[str, Mapping[str, float]]) -> tuple[float, ...]:
        """Derivatives by the genes.

        Args:
            genome: where they were taken.
            products: tensor → source → <dL/dθ, τ of the source>; a source that leaves a tensor alone may be missing.

        Returns:
            One a gene.
        """
        merge, architecture = self.space.recipe(genome).merge, self.space.architecture
        method, slopes = METHODS[merge.method], self._slopes(genome)
        sources = tuple(self.space.forms[0].data["sources"])
        found = [0.0] * self.space.dim
        for part, some in _by_part(products, architecture.parts).items():
            shared, per_source = resolve(method, merge, sources, part, architecture.num_layers)
            by_value = _by_values(shared, per_source, some)
            for hold in self._holds_of(part):
                found[hold.gene] += by_value[hold.source] * hold.share * slopes[hold.gene]
        return tuple(found)

    def sources_alone(self) -> tuple[Genome, ...]:
        """For each source the genome in which its weights are 1 and the others' 0, or what is nearest in their ranges.

        Everything else is as at the start.
        """
        start = self.space.domain.start

        def alone(source: str) -> Genome:
            return tuple(
                gene.scale.gene(float(any(spot.source == source for spot in gene.spots)))
                if gene.parameter == "weight"
                else value
                for gene, value in zip(self.space.genes, start, strict=True)
            )

        return tuple(dict.fromkeys(alone(source) for source in self.space.forms[0].data["sources"]))

    def _slopes(self, genome: Genome) -> list[float]:
        """d value / d gene, one a gene."""
        values = self.space.values(genome)
        return [_slope(gene.scale, float(value)) for gene, value in zip(self.space.genes, values, strict=True)]

    def _holds_of(self, part: Part) -> tuple[Hold, ...]:
        if part not in self._holds:
            self._holds[part] = tuple(
                Hold(number, spot.source, share)
                for number, gene in enumerate(self.space.genes)
                for spot in gene.spots
                if spot.group.holds(part) and (share := self._share(gene, part))
            )
        return self._holds[part]

    def _share(self, gene: Gene, part: Part) -> float:
        if gene.knot is None:
            return 1.0
        knots = tuple(float(knot == gene.knot) for knot in range(gene.knots))
        return float(at_depth(knots, part.role, part.layer, self.space.architecture.num_layers))


def linear_map(space: SearchSpace, optimizer: str) -> LinearMap:
    """How the merges of a space depend on its genes.

    Args:
        optimizer: the name of what asks for it, for errors.

    Raises:
        InvalidInputError: they are not linear in the sources; names the field of the run.
    """
    wanted = f"{' or '.join(LINEAR_METHODS)}: {optimizer} needs merges that are linear in the sources"
    if not isinstance(space, TemplateSpace):
        raise InvalidInputError("space.kind", space.describe().get("kind"), f"parameter, of method {wanted}")
    if len(space.forms) > 1:
        raise InvalidInputError("space.methods", [form.method for form in space.forms], f"one method, {wanted}")
    (form,) = space.forms
    if form.method not in LINEAR_METHODS:
        raise InvalidInputError("space.method", form.method, wanted)
    if form.method == "linear" and form.data["merge"]["parameters"].get("normalize") is False:
        allowed = f"true: {optimizer} needs a merge that the base is a part of; or the method task_arithmetic"
        raise InvalidInputError("space.fixed.normalize", False, allowed)
    return LinearMap(space)


def _slope(scale: object, value: float) -> float:
    assert isinstance(scale, Scale), "optimizers that follow gradients refuse genes with choices"
    return value * math.log(scale.high / scale.low) if scale.log else scale.high - scale.low


def _by_part(products: Mapping[str, Mapping[str, float]], parts: Mapping[str, Part]) -> dict[Part, dict[str, float]]:
    """The same, of all tensors with one part together: they have the same weights."""
    found: dict[Part, dict[str, float]] = {}
    for tensor, some in products.items():
        if parts[tensor].role != BUFFER:
            own = found.setdefault(parts[tensor], {})
            for source, product in some.items():
                own[source] = own.get(source, 0.0) + product
    return found


def _by_values(
    shared: Values, per_source: Mapping[str, Values], products: Mapping[str, float]
) -> dict[str | None, float]:
    """dL/dw of each source, and under None dL/dλ."""
    weights = {source: float(values["weight"]) for source, values in per_source.items()}
    scale = float(shared.get("lambda", 1.0))
    total = sum(weights.values()) if shared["normalize"] else 1.0
    mean = math.fsum(weights[source] * product for source, product in products.items()) / total
    taken = mean if shared["normalize"] else 0.0
    found: dict[str | None, float] = {s: scale * (products.get(s, 0.0) - taken) / total for s in weights}
    return found | {None: mean}
