"""Which entries of which tensors belong to the same unit, and so must move together for the function to stay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evomerge.errors import ArchitectureError
from evomerge.models.architecture import Architecture, Part
from evomerge.models.family import BUFFER
from evomerge.models.inferred import REASON

# U units, S sub-units of a unit, K entries of a sub-unit

Shapes = Mapping[str, tuple[int, ...]]
OUTER = ("embedding", "position", "head")
"""Roles whose matrices have the residual stream as their columns in every family."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Where a group's units lie along one axis of a tensor.

    Attributes:
        tensor: its name.
        axis: along which.
        entries: indices (units × sub-units × entries) along that axis, for each unit, sub-unit and entry of it.
        produces: the tensor computes the units (they are its outputs), rather than reads them.
    """

    tensor: str
    axis: int
    entries: Tensor
    produces: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Units that may change places with each other.

    Attributes:
        name: `mlp.3`, `attention.0`, `mlp.expert.3.7` or `residual`.
        kind: `mlp`, `attention` or `residual`.
        size: number of units: MLP channels, key-value heads, coordinates.
        inner: sub-units that may change places within a unit: the query heads that share a key-value head.
        axes: all the places that the units have.
        read_by: the tensor whose input is the units' activations; None for the residual stream.
    """

    name: str
    kind: str
    size: int
    inner: int
    axes: tuple[Axis, ...]
    read_by: str | None


def groups_of(
    architecture: Architecture, config: Mapping[str, Any], shapes: Shapes, kinds: tuple[str, ...]
) -> tuple[Group, ...]:
    """The groups of a model, of the wanted kinds: the residual stream first, then layer by layer.

    Experts of a mixture are groups of their own; their order among each other stays.

    Args:
        config: config.json, for the number of heads.
        shapes: of all tensors.

    Raises:
        ArchitectureError: nobody described the family, and which units belong together its tensors' names do not say.
    """
    if architecture.kind.inferred:
        raise ArchitectureError(f"units of {architecture.family} cannot change places: {REASON}")
    found: list[Group] = []
    if "residual" in kinds:
        found.append(_residual(architecture, shapes))
    for reader, part in architecture.parts.items():
        if part.role == "attention.o" and "attention" in kinds and len(shapes[reader]) == 2:
            found.append(_heads(reader, part, architecture, config, shapes))
        if part.role in _PRODUCERS and "mlp" in kinds and len(shapes[reader]) == 2:
            found.append(_channels(reader, part, architecture, shapes))
    return tuple(found)


_PRODUCERS = {
    "mlp.down": ("mlp.gate", "mlp.up", "mlp.gate_up"),
    "mlp.expert.down": ("mlp.expert.gate", "mlp.expert.up"),
    "mlp.shared.down": ("mlp.shared.gate", "mlp.shared.up"),
}


def _channels(reader: str, part: Part, architecture: Architecture, shapes: Shapes) -> Group:
    columns = _input_axis(architecture, part)
    size = shapes[reader][columns]
    axes = [Axis(reader, columns, torch.arange(size).view(size, 1, 1), False)]
    for name, other in _beside(architecture, part):
        if other.role in _PRODUCERS[part.role]:
            rows = _output_axis(architecture, other, shapes[name])
            stacked = shapes[name][rows] // size  # gate and up, one under the other
            entries_USK = torch.arange(size * stacked).view(stacked, 1, size).permute(2, 1, 0)
            axes.append(Axis(name, rows, entries_USK, True))
    at = "" if part.expert is None else f".{part.expert}"
    return Group(f"{part.role.rpartition('.')[0]}.{part.layer}{at}", "mlp", size, 1, tuple(axes), reader)


def _heads(reader: str, part: Part, architecture: Architecture, config: Mapping[str, Any], shapes: Shapes) -> Group:
    columns = _input_axis(architecture, part)
    heads = int(config.get("num_attention_heads") or config["n_head"])
    shared = int(config.get("num_key_value_heads") or heads)
    width, inner = shapes[reader][columns] // heads, heads // shared
    queries_USK = torch.arange(heads * width).view(shared, inner, width)
    keys_USK = torch.arange(shared * width).view(shared, 1, width)
    places = {"attention.q": [queries_USK], "attention.k": [keys_USK], "attention.v": [keys_USK]}
    places["attention.qkv"] = [queries_USK, keys_USK + heads * width, keys_USK + (heads + shared) * width]
    if architecture.family == "gpt_neox":  # query, key and value of a head lie together
        places["attention.qkv"] = [torch.arange(3 * heads * width).view(heads, 1, 3 * width)]
    axes = [Axis(reader, columns, queries_USK, False)]
    for name, other in _beside(architecture, part):
        rows = _output_axis(architecture, other, shapes[name])
        axes += [Axis(name, rows, entries_USK, True) for entries_USK in places.get(other.role, ())]
        for norm, entries_USK in (("norm.q", queries_USK), ("norm.k", keys_USK)):
            if other.role == norm and shapes[name][0] != width:  # one weight for each entry of all heads
                axes.append(Axis(name, 0, entries_USK, True))
    return Group(f"attention.{part.layer}", "attention", shared, inner, tuple(axes), reader)


def _residual(architecture: Architecture, shapes: Shapes) -> Group:
    embedding = next(name for name, part in architecture.parts.items() if part.role == "embedding")
    size = shapes[embedding][1]
    entries_USK = torch.arange(size).view(size, 1, 1)
    axes = [
        Axis(name, axis, entries_USK, part.role in ("embedding", "position"))
        for name, part in architecture.parts.items()
        if part.role != BUFFER
        for axis in _residual_axes(architecture, part, shapes[name], name)
    ]
    return Group("residual", "residual", size, 1, tuple(axes), None)


def _residual_axes(architecture: Architecture, part: Part, shape: tuple[int, ...], name: str) -> Iterator[int]:
    """The axis of a tensor that is the residual stream, if one is."""
    writes = part.role == "attention.o" or part.role.endswith(".down")
    if part.role in OUTER:
        if len(shape) == 2:  # a head's bias is over tokens
            yield 1
    elif part.role.startswith("norm."):
        if part.role not in ("norm.q", "norm.k"):
            yield 0
    elif len(shape) == 1:
        if writes:
            yield 0
    else:
        yield _output_axis(architecture, part, shape) if writes else _input_axis(architecture, part)


def _beside(architecture: Architecture, part: Part) -> Iterator[tuple[str, Part]]:
    """The tensors of the same layer and expert."""
    for name, other in architecture.parts.items():
        if (other.layer, other.expert) == (part.layer, part.expert):
            yield name, other


def _input_axis(architecture: Architecture, part: Part) -> int:
    return 0 if part.role in architecture.transposed else 1


def _output_axis(architecture: Architecture, part: Part, shape: tuple[int, ...]) -> int:
    return 1 if part.role in architecture.transposed and len(shape) == 2 else 0
