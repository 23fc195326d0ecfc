"""Individuals of a lineage as recipes say them, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evomerge.archive.flat_order import Chromosome, FlatTensor, IntArray, chromosomes
from evomerge.archive.lineage import Individual, Noise, Strand
from evomerge.errors import InvalidInputError
from evomerge.recipe import segments as recipe
from evomerge.recipe.segments import Angle, Segments


def segments_of(
    individual: Individual,
    parts: Sequence[Chromosome],
    groups: Sequence[tuple[str, ...]],
    sources: Sequence[str],
    angle: Angle | None,
) -> Segments:
    """What a recipe says of an individual.

    Args:
        parts, groups: the chromosomes, and of each the roles that it was made of.
        sources: names, in the order of the individual's columns.
    """
    return Segments(
        angle=angle,
        chromosomes=tuple(
            _said(strand, part, roles, sources)
            for strand, part, roles in zip(individual.strands, parts, groups, strict=True)
        ),
        noise=tuple(recipe.Noise(seed=term.seed, std=term.std) for term in individual.noise),
    )


def _said(strand: Strand, part: Chromosome, roles: tuple[str, ...], sources: Sequence[str]) -> recipe.Chromosome:
    columns = [tuple(column) for column in strand.rows.T.tolist()]
    return recipe.Chromosome(
        roles=roles,
        starts=tuple(part.place(position) for position in strand.starts.tolist()),
        weights=dict(zip(sources, columns[: len(sources)], strict=True)),
        noise=tuple(columns[len(sources) :]),
    )


def chromosomes_of(segments: Segments, order: Sequence[FlatTensor]) -> tuple[Chromosome, ...]:
    """A model's tensors in the chromosomes that a recipe speaks of.

    Raises:
        InvalidInputError: they do not fit the model; names the field.
    """
    return chromosomes(order, [part.roles for part in segments.chromosomes], "segments.chromosomes")


def individual_of(segments: Segments, parts: Sequence[Chromosome], sources: Sequence[str]) -> Individual:
    """The individual that a recipe speaks of.

    Args:
        parts: from `chromosomes_of`.
        sources: names, in the order of the columns.

    Raises:
        InvalidInputError: a start is no entry of the model, or not behind the one before it; names the field.
    """
    strands = []
    for number, (said, part) in enumerate(zip(segments.chromosomes, parts, strict=True)):
        columns = [*(said.weights[source] for source in sources), *said.noise]
        strands.append(Strand(_starts(said, part, f"segments.chromosomes[{number}]"), np.array(columns).T.copy()))
    return Individual(tuple(strands), tuple(Noise(term.seed, term.std) for term in segments.noise))


def _starts(said: recipe.Chromosome, part: Chromosome, where: str) -> IntArray:
    positions: list[int] = []
    for number, (name, entry) in enumerate(said.starts):
        field = f"{where}.starts[{number}]"
        position = part.position(name, entry)
        if position is None:
            raise InvalidInputError(field, [name, entry], _allowed(name, part))
        if not positions and position:
            raise InvalidInputError(field, [name, entry], f"the first entry of the first tensor: {list(part.place(0))}")
        if positions and position <= positions[-1]:
            before = list(part.place(positions[-1]))
            raise InvalidInputError(field, [name, entry], f"a place behind {before} in the order layers/1")
        positions.append(position)
    return np.array(positions, np.int64)


def _allowed(name: str, part: Chromosome) -> str:
    number = part.number_of(name)
    if number is None:
        return f"a tensor of this chromosome: {', '.join(t.name for t in part.tensors[:3])}, …"
    return f"an entry from 0 to {part.tensors[number].size - 1} of {name}"
