"""Where the tensors of a merged model come from: layer by layer, or by a recipe's slices. Pure but for `sliced_config`.

A slice may take layers of its models from anywhere, so an output tensor, the base's and each source's may stand in
different layers. Names are the base's own, with the number of the layer in question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.errors import CheckpointError, InvalidInputError
from evomerge.models.architecture import Architecture, Part
from evomerge.models.family import BUFFER
from evomerge.models.inferred import depth_key
from evomerge.recipe.parameters import is_after_layers
from evomerge.recipe.schema import Recipe
from evomerge.recipe.slices import Slice


@dataclass(frozen=True, slots=True)
class Placed:
    """One output tensor and the tensors that it is made of.

    Attributes:
        name: of the output.
        part: of the output; its layer counts in the merged model.
        like: a tensor of the base with the output's shape.
        base: θ0; None where the slice has no base.
        sources: source → its tensor, for those that take part, in the order of their names.
    """

    name: str
    part: Part
    like: str
    base: str | None
    sources: Mapping[str, str]


def num_layers(recipe: Recipe, architecture: Architecture) -> int:
    """Layers of the merged model."""
    return sum(part.num_layers for part in recipe.slices) if recipe.slices else architecture.num_layers


def placed(recipe: Recipe, architecture: Architecture) -> Iterator[Placed]:
    """Every tensor of the merged model; a tied head has none.

    Raises:
        InvalidInputError: a slice names layers that the models do not have.
    """
    names = [name for name in architecture.parts if name not in architecture.tied]
    if recipe.slices is None:
        for name in names:
            yield Placed(name, architecture.parts[name], name, name, dict.fromkeys(recipe.sources, name))
        return
    _check_ranges(recipe.slices, architecture)
    yield from (_outside(name, recipe.slices, architecture) for name in names if architecture.parts[name].layer is None)
    within: dict[int, list[str]] = {}
    for name in names:
        if (layer := architecture.parts[name].layer) is not None:
            within.setdefault(layer, []).append(name)
    number = 0
    for part in recipe.slices:
        for offset in range(part.num_layers):
            for name in within[reference(part, offset)]:
                yield _inside(name, architecture.parts[name].role, number, part, offset)
            number += 1


def reference(part: Slice, offset: int) -> int:
    """The layer of the base that a slice's layer looks like: the base's own, else that of the same number as the first
    source's."""
    first = part.base if part.base is not None else next(iter(part.sources.values()))
    return first[0] + offset


def _outside(name: str, slices: Sequence[Slice], architecture: Architecture) -> Placed:
    part = architecture.parts[name]
    end = slices[-1] if is_after_layers(part.role) else slices[0]
    base = name if end.base is not None or part.role == BUFFER else None
    return Placed(name, part, name, base, dict.fromkeys(end.sources, name))


def _inside(name: str, role: str, number: int, part: Slice, offset: int) -> Placed:
    sources = {source: renumbered(name, first + offset) for source, (first, _) in part.sources.items()}
    base = name if part.base is not None or role == BUFFER else None
    return Placed(renumbered(name, number), Part(role, number), name, base, sources)


def renumbered(name: str, layer: int) -> str:
    """A tensor's name with another layer's number.

    >>> renumbered("model.layers.11.mlp.up_proj.weight", 3)
    'model.layers.3.mlp.up_proj.weight'
    """
    parts = name.split(".")
    at = next(i for i, part in enumerate(parts) if part.isascii() and part.isdigit())
    return ".".join([*parts[:at], str(layer), *parts[at + 1 :]])


def _check_ranges(slices: Sequence[Slice], architecture: Architecture) -> None:
    last = architecture.num_layers - 1
    for number, part in enumerate(slices):
        ranges = {"base": part.base, **{f"sources.{name}": layers for name, layers in part.sources.items()}}
        for model, layers in ranges.items():
            if layers is not None and layers[1] > last:
                raise InvalidInputError(f"slices[{number}].{model}", list(layers), f"layers 0 to {last} of the models")


def sliced_config(config: Mapping[str, Any], slices: Sequence[Slice] | None) -> dict[str, Any]:
    """The merged model's config.json: its number of layers, and every list that has an entry a layer, cut likewise.

    Args:
        config: the base's.
        slices: the recipe's; None changes nothing.

    Raises:
        CheckpointError: transformers cannot read the config.
        ArchitectureError: it does not say how many layers there are, or only in a section.
    """
    if slices is None:
        return dict(config)
    depth = depth_key(config)
    layers = [reference(part, offset) for part in slices for offset in range(part.num_layers)]
    lists = {key: [values[layer] for layer in layers] for key, values in per_layer(config, depth).items()}
    return {**config, **lists, depth: len(layers)}


def per_layer(config: Mapping[str, Any], key: str) -> dict[str, list[Any]]:
    """What the config says layer by layer, written out or implied (Gemma 2's alternating attention).

    Which lists these are the config's class tells: those that it makes as long as there are layers, whatever their
    number. A list that only happens to be as long (token numbers, say) is none.
    """
    from transformers import CONFIG_MAPPING  # takes seconds; only recipes with slices need it

    if config["model_type"] not in CONFIG_MAPPING:
        return {}
    made: Any = CONFIG_MAPPING[config["model_type"]]
    try:
        whole = made.from_dict(dict(config)).to_dict()
    except Exception as error:  # each class has checks, and exceptions, of its own
        raise CheckpointError(f"config.json: transformers cannot read it: {error}") from error
    few, many = (made(**{key: number}).to_dict() for number in (7, 11))
    own = {k for k, v in few.items() if isinstance(v, list) and len(v) == 7 and len(many.get(k) or ()) == 11}
    own |= {k for k, v in config.items() if isinstance(v, list) and k in ("layer_types", "mlp_layer_types")}
    return {k: whole[k] for k in sorted(own) if len(whole.get(k) or ()) == config[key]}
