"""First steps of weights that follow from how far each source lies from the base.

A step of a source's weight moves the merged model by the source's task vector. Of two sources (or groups of tensors)
the one with the larger task vector is moved further by the same step; but the best weights of both are of the order
of 1. The steps lie half way (in logarithms) between equal steps and equal moves:

    r = ‖δ‖ / ‖θ0‖,  step = (r̄ / r)^½, within [1/4, 4],

where r̄ is the geometric mean of all weight genes' r, and the norms are over all tensors that a gene is about; tensors
between two knots count for both, by how much each knot's value counts there. A source that does not differ from the
base has the largest step, which changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from evomerge.merge.norms import Norms, task_vector_norms
from search_spaces.nearest import influence
from search_spaces.setting import Setting

if TYPE_CHECKING:
    from search_spaces.template import Gene

LEAST, MOST = 0.25, 4.0
_DIGITS = 4
"""Decimals of a step: far finer than any search needs."""


def with_steps(genes: Sequence[Gene], setting: Setting) -> tuple[Gene, ...]:
    """The genes, those of weights with steps.

    Raises:
        CheckpointError, ArchitectureError, NonFiniteError: the models cannot be read, do not fit together or hold NaN.
    """
    norms = task_vector_norms(setting.base, setting.sources, setting.cache, setting.shared)
    sizes = {gene.name: relative_size(gene, norms, setting) for gene in genes if gene.parameter == "weight"}
    logs = [math.log(size) for size in sizes.values() if size]
    mean = math.exp(math.fsum(logs) / len(logs)) if logs else 1.0
    return tuple(replace(g, step=_step(sizes[g.name], mean)) if g.name in sizes else g for g in genes)


def relative_size(gene: Gene, norms: Norms, setting: Setting) -> float:
    """‖δ‖ / ‖θ0‖ of what a gene is about."""
    architecture = setting.architecture
    moved = still = 0.0
    for spot in gene.spots:
        for tensor, (base, deltas) in norms.items():
            weight = influence(gene, spot, architecture.parts[tensor], architecture.num_layers) ** 2
            still += weight * base
            moved += weight * (math.fsum(deltas.values()) if spot.source is None else deltas[spot.source])
    return math.sqrt(moved / still) if still else 0.0


def _step(size: float, mean: float) -> float:
    return round(min(max(math.sqrt(mean / size), LEAST), MOST), _DIGITS) if size else MOST
