"""What a recipe says about a lineage: a model whose every entry is a sum of the sources' own, segment by segment.

    merge: {method: linear}
    segments:
      order: layers/1
      chromosomes:
      - starts:
        - [model.embed_tokens.weight, 0]
        - [model.layers.3.mlp.up_proj.weight, 123456]
        weights: {code: [0.25, 0.0], math: [0.75, 1.0]}

From each start to the next (in the order that `order` names; the last to the end) θ[p] = Σ w_k · θ_k[p], the weights
being those of the sources themselves: there is no base in the sum. Every model that descends from sources by crossings
(split points and spherical interpolation) is of this form.

Source: Abrantes et al. 2025, Competition and Attraction Improve Model Fusion (M2N2), arXiv:2508.16204, section 3.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

MAX_SEGMENTS = 50_000
MAX_NOISE = 100_000

Angle = Literal["global", "side", "tensor"]
_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
_Text = Annotated[str, StringConstraints(min_length=1, max_length=512)]
Place = tuple[_Text, Annotated[int, Field(ge=0)]]
"""A tensor and the number of an entry in it, in memory order."""
Wrong = tuple[tuple[str | int, ...], object, str]
"""Path of a field, what it holds, what is allowed."""


def _by_name(weights: dict[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
    return dict(sorted(weights.items()))


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Noise(_Frozen):
    """Normal noise that some ancestor was given: entry i of a tensor is a function of seed, tensor name and i.

    Attributes:
        std: standard deviation.
    """

    seed: int = Field(ge=0, lt=2**63)
    std: float = Field(gt=0)


class Chromosome(_Frozen):
    """Tensors in one flat order, cut into segments.

    Attributes:
        roles: role names or prefixes of its tensors; without any: all tensors that no other chromosome names.
        starts: where each segment begins, in order; the first at the first entry of the first tensor.
        weights: source → its weight in each segment, for every source of the recipe.
        noise: for each noise term of the recipe its coefficient in each segment.
    """

    roles: tuple[str, ...] = ()
    starts: tuple[Place, ...] = Field(min_length=1, max_length=MAX_SEGMENTS)
    weights: Annotated[dict[_Name, tuple[float, ...]], AfterValidator(_by_name)] = Field(min_length=1)
    noise: tuple[tuple[float, ...], ...] = ()


class Segments(_Frozen):
    """A whole model.

    Attributes:
        order: of tensors in a chromosome. `layers/1`: embeddings, then layer by layer, then final norm and head, as
            `evomerge.archive.flat_order` lists them.
        angle: which angles the crossings were computed with, for people: the weights are what came out.
        chromosomes: every tensor lies in one.
        noise: terms that are added.
    """

    order: Literal["layers/1"] = "layers/1"
    angle: Angle | None = None
    chromosomes: tuple[Chromosome, ...] = Field(min_length=1, max_length=64)
    noise: tuple[Noise, ...] = Field(default=(), max_length=MAX_NOISE)

    def wrong(self, sources: Collection[str]) -> Iterator[Wrong]:
        """What cannot be right, whatever the models are."""
        for number, chromosome in enumerate(self.chromosomes):
            for path, value, allowed in _wrong(chromosome, sources, len(self.noise)):
                yield ("segments", "chromosomes", number, *path), value, allowed
        if sum(not chromosome.roles for chromosome in self.chromosomes) > 1:
            number = [n for n, chromosome in enumerate(self.chromosomes) if not chromosome.roles][1]
            yield ("segments", "chromosomes", number, "roles"), [], "roles: one chromosome at most is without"

    def data(self, data: dict[str, Any]) -> dict[str, Any]:
        """A dump of this without fields that are empty."""
        if not self.noise:
            data.pop("noise", None)
        for chromosome in data["chromosomes"]:
            for field in ("roles", "noise"):
                if not chromosome.get(field):
                    chromosome.pop(field, None)
        return data


def _wrong(chromosome: Chromosome, sources: Collection[str], terms: int) -> Iterator[Wrong]:
    number = len(chromosome.starts)
    for name in chromosome.weights:
        if name not in sources:
            yield ("weights", name), name, f"one of the recipe's sources: {', '.join(sources)}"
    for name in sources:
        if name not in chromosome.weights:
            yield ("weights",), sorted(chromosome.weights), f"weights of every source, also of {name!r}"
    for name, weights in chromosome.weights.items():
        if len(weights) != number:
            yield ("weights", name), f"{len(weights)} weights", f"one a segment: {number}"
    if len(chromosome.noise) != terms:
        yield ("noise",), f"{len(chromosome.noise)} rows", f"one a noise term of the recipe: {terms}"
    for term, row in enumerate(chromosome.noise):
        if len(row) != number:
            yield ("noise", term), f"{len(row)} coefficients", f"one a segment: {number}"
