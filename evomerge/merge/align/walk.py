"""One map for every group of units, from a pair of models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from evomerge.merge.align.groups import Axis, Group
from evomerge.merge.align.maps import UnitMap, identity
from evomerge.merge.align.matching import Pairs, assign, gain, measure, transport
from evomerge.recipe.align import AlignByActivations, AlignByTransport, MatchedUnits

PASSES = 100
"""Most rounds of coordinate descent; in practice a handful is needed."""
BETTER = 1e-12
"""A map replaces another if it is worth more by this share: rounding alone must not keep the descent going."""

Read = Callable[[str], Tensor]
Activations = Mapping[str, Tensor]
"""Name of the tensor that reads them → activations, (tokens × width)."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A source beside its base.

    Attributes:
        base, source: read a tensor, under the base's name of it.
        groups: the base's, in the order in which they are matched.
        activations: of base and source on the same tokens; empty where none are needed.
    """

    base: Read
    source: Read
    groups: tuple[Group, ...]
    activations: tuple[Activations, Activations] = field(default=({}, {}))


def align(pair: Pair, spec: MatchedUnits) -> dict[str, UnitMap]:
    """The map of every group, by its name.

    Memory: the tensors of one group twice in float64 and what every pair of its units is worth (units²).
    """
    if isinstance(spec, AlignByActivations):
        return _by_activations(pair)
    if isinstance(spec, AlignByTransport):
        return _by_transport(pair, spec)
    return _by_weights(pair)


def moves(groups: tuple[Group, ...], maps: Mapping[str, UnitMap]) -> dict[str, list[tuple[UnitMap, Axis]]]:
    """Tensor name → what moves along which of its axes."""
    found: dict[str, list[tuple[UnitMap, Axis]]] = defaultdict(list)
    for group in groups:
        for axis in group.axes:
            found[axis.tensor].append((maps[group.name], axis))
    return found


def _by_weights(pair: Pair) -> dict[str, UnitMap]:
    """Coordinate descent (Ainsworth et al. 2022, algorithm 1), in a fixed order.

    Without the residual stream no tensor has two groups, and the first round is the optimum.
    """
    maps = {group.name: identity(group.size, group.inner) for group in pair.groups}
    for _ in range(PASSES):
        improved = False
        for group in pair.groups:
            worth = measure("product", group.size, group.inner, _beside(pair, group, group.axes, maps))
            found, known = assign(worth, maximize=True), maps[group.name]
            before, after = gain(worth, known), gain(worth, found)
            if after > before + BETTER * abs(before):
                maps[group.name], improved = found, True
        if not improved or not any(group.kind == "residual" for group in pair.groups):
            break
    return dict(maps)


def _by_activations(pair: Pair) -> dict[str, UnitMap]:
    maps: dict[str, UnitMap] = {}
    for group in pair.groups:
        source, base, axis = _active(pair, group)
        worth = measure("product", group.size, group.inner, [(_standardised(source), _standardised(base), axis)])
        maps[group.name] = assign(worth, maximize=True)
    return maps


def _by_transport(pair: Pair, spec: AlignByTransport) -> dict[str, UnitMap]:
    """Forward through the network: a layer's inputs are moved by the plan that its predecessors gave."""
    maps: dict[str, UnitMap] = {}
    for group in pair.groups:
        if spec.cost == "activations":
            pairs: Pairs = [_active(pair, group)]
        else:
            pairs = _beside(pair, group, tuple(axis for axis in group.axes if axis.produces), maps)
        worth = measure("distance", group.size, group.inner, pairs)
        maps[group.name] = transport(worth, spec.solver, reg=spec.reg, squared=spec.squared)
    return maps


def _beside(
    pair: Pair, group: Group, axes: tuple[Axis, ...], maps: Mapping[str, UnitMap]
) -> Iterator[tuple[Tensor, Tensor, Axis]]:
    """The group's tensors in both models, the source's moved by the maps of all other groups that there are."""
    known = tuple(other for other in pair.groups if other is not group and other.name in maps)
    others = moves(known, maps)
    for axis in axes:
        tensor = pair.source(axis.tensor)
        for map_, along in others.get(axis.tensor, ()):
            tensor = map_.apply(tensor, along)
        yield tensor, pair.base(axis.tensor), axis


def _active(pair: Pair, group: Group) -> tuple[Tensor, Tensor, Axis]:
    assert group.read_by is not None, group.name
    base, source = pair.activations
    reads = next(axis for axis in group.axes if axis.tensor == group.read_by and not axis.produces)
    return source[group.read_by], base[group.read_by], Axis(reads.tensor, 1, reads.entries, produces=False)


def _standardised(active: Tensor) -> Tensor:
    """Columns of mean 0 and length 1, so that products are correlations; a unit that never moves becomes 0."""
    centred = active.double() - active.double().mean(0)
    length = torch.linalg.vector_norm(centred, dim=0)
    return torch.where(length > 0, centred / length.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
