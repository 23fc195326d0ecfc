"""Recipes with segments as a merge method: every entry is a sum of the sources' entries, weighted as its segment says.

Source: Abrantes et al. 2025, Competition and Attraction Improve Model Fusion (M2N2), arXiv:2508.16204, eq. 2, applied
as often as there were crossings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evomerge.archive.flat_order import Chromosome, IntArray, flat_order
from evomerge.archive.lineage import FloatArray, Individual, Noise, Strand
from evomerge.archive.noise import normal
from evomerge.archive.segments import chromosomes_of, individual_of
from evomerge.merge.method import Block, Method
from evomerge.merge.primitives.aggregate import combination
from evomerge.models.architecture import Architecture
from evomerge.models.checkpoint import TensorInfo
from evomerge.recipe.schema import Recipe

TITLE = "M2N2 lineage"
PAPER = "Abrantes et al. 2025, Competition and Attraction Improve Model Fusion, arXiv:2508.16204"


@dataclass(frozen=True, slots=True)
class _Pieces:
    """The segments of one tensor.

    Attributes:
        starts: entries at which they begin, the first 0.
        rows: [segments, sources + noise terms].
    """

    starts: IntArray
    rows: FloatArray


def lineage(recipe: Recipe, architecture: Architecture, tensors: Mapping[str, TensorInfo]) -> Method:
    """The method that a recipe's segments are.

    Args:
        recipe: has segments.
        architecture, tensors: of the base.

    Raises:
        InvalidInputError: the segments do not fit the model; names the field.
    """
    assert recipe.segments is not None, "the caller asked"
    sources = tuple(sorted(recipe.sources))
    parts = chromosomes_of(recipe.segments, flat_order(architecture, tensors))
    individual = individual_of(recipe.segments, parts, sources)
    pieces = _pieces(individual, parts)

    def merge(block: Block) -> Tensor:
        return _merged(block, pieces[block.name], sources, individual.noise)

    return Method(
        name=recipe.merge.method,
        title=TITLE,
        paper=PAPER,
        merge=merge,
        parameters=(),
        domain="weights",
        keeps_base=lambda shared: False,
        baseless=lambda num_sources, shared: True,
    )


def _pieces(individual: Individual, parts: Sequence[Chromosome]) -> dict[str, _Pieces]:
    """Tensor name → its segments."""
    found: dict[str, _Pieces] = {}
    for strand, part in zip(individual.strands, parts, strict=True):
        for number, tensor in enumerate(part.tensors):
            found[tensor.name] = _cut(strand, *map(int, part.starts[number : number + 2]))
    return found


def _cut(strand: Strand, begin: int, end: int) -> _Pieces:
    """The segments between two positions, counted from the first."""
    inside = strand.starts[(strand.starts > begin) & (strand.starts < end)]
    edges = np.concatenate([np.array([begin], np.int64), inside])
    return _Pieces(edges - begin, strand.at(edges))


def _merged(block: Block, pieces: _Pieces, sources: Sequence[str], noise: Sequence[Noise]) -> Tensor:
    length, end = block.base.numel(), block.offset + block.base.numel()
    result = torch.empty_like(block.base)
    first = int(np.searchsorted(pieces.starts, block.offset, side="right")) - 1
    last = int(np.searchsorted(pieces.starts, end, side="left"))
    edges = [*pieces.starts[first:last].tolist(), end]
    for number, row in enumerate(pieces.rows[first:last].tolist()):
        span = slice(max(0, edges[number] - block.offset), min(length, edges[number + 1] - block.offset))
        _merge_span(block, span, dict(zip(sources, row[: len(sources)], strict=True)), result)
        _add_noise(block, span, [*zip(noise, row[len(sources) :], strict=True)], result)
    return result


def _merge_span(block: Block, span: slice, weights: Mapping[str, float], into: Tensor) -> None:
    base = block.base[span]
    models = {source: model[span] if model is not None else base for source, model in _models(block).items()}
    into[span] = combination(models, weights)


def _models(block: Block) -> Mapping[str, Tensor | None]:
    return {source: block.models.get(source) for source in block.per_source}


def _add_noise(block: Block, span: slice, terms: Sequence[tuple[Noise, float]], into: Tensor) -> None:
    begin, length = block.offset + span.start, span.stop - span.start
    total = np.zeros(length)
    for term, coefficient in terms:
        if coefficient:
            total += coefficient * term.std * normal(term.seed, block.name, begin, length)
    if terms:
        into[span] += torch.from_numpy(total.astype(np.float32)).to(into.device)
