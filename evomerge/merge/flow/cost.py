"""What the model of a recipe costs to run and to keep. Pure: counted from a config, nothing is read or run.

A search may have fewer layers or FLOPs as an objective, or as a constraint; neither needs items.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import nn

from evomerge.errors import ArchitectureError
from evomerge.merge.flow.fold import fold
from evomerge.merge.slices import per_layer
from evomerge.models.family import families, split_numbers
from evomerge.recipe.schema import Recipe

CONTEXT = 1024
"""Tokens that a token attends to, where nothing else is asked for."""

ALL_SLIDING = ("mistral", "mixtral", "phi3")
"""Families whose layers all see no more than `sliding_window` tokens, where their config gives one."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Costs of one model.

    Attributes:
        layers: that a token goes through: the hops of a path.
        unique_layers: different ones among them; a layer that is visited again is kept once.
        parameters: numbers in the exported checkpoint, where a layer that is visited twice lies twice.
        unique_parameters: numbers that a live model holds, which shares layers.
        flops_per_token: floating-point operations of a forward pass for one token, a multiplication and an addition
            counted as two; matrices and attention, neither norms nor activations.
    """

    layers: int
    unique_layers: int
    parameters: int
    unique_parameters: int
    flops_per_token: int


@dataclass(frozen=True, slots=True)
class _Shape:
    """Counts for one config: of a layer (all are taken to be like the first), and of what stands outside.

    Attributes:
        kinds: of attention, layer by layer.
        attended: floating-point operations in one layer for every token that is attended to.
        head: parameters of the head, a tied one's too.
    """

    kinds: tuple[str, ...]
    layer_parameters: int
    layer_flops: int
    attended: int
    outside_parameters: int
    head: int
    tied: bool


def cost_of(recipe: Recipe, config: Mapping[str, Any], *, context: int = CONTEXT) -> Cost:
    """The cost of a recipe's model.

    Args:
        config: config.json of the base; of a path's host, where that has another vocabulary.
        context: tokens that a token attends to; layers with a sliding window see no more than that.

    Raises:
        ArchitectureError: the family is not known, or transformers cannot build a model of the config.
    """
    shape = _shape(json.dumps(config, sort_keys=True))
    layers = _layers(recipe, len(shape.kinds))
    unique = len({visited for visited, _ in layers})
    seen = sum(_seen(shape.kinds[min(at, len(shape.kinds) - 1)], config, context) for _, at in layers)
    head = 0 if shape.tied and not _unties(recipe, config) else shape.head
    return Cost(
        layers=len(layers),
        unique_layers=unique,
        parameters=shape.outside_parameters + head + len(layers) * shape.layer_parameters,
        unique_parameters=shape.outside_parameters
        + (0 if shape.tied else shape.head)
        + unique * shape.layer_parameters,
        flops_per_token=len(layers) * shape.layer_flops + seen * shape.attended + 2 * shape.head,
    )


def _layers(recipe: Recipe, num_layers: int) -> list[tuple[object, int]]:
    """Every layer that a token goes through: what it is, and the number of the layer that it looks like."""
    if recipe.path is not None:
        return [((hop.model, hop.layer), hop.layer) for hop in recipe.path.layers]
    if recipe.slices is None:
        return [(number, number) for number in range(num_layers)]
    total = sum(part.num_layers for part in recipe.slices)
    return [(number, min(number, num_layers - 1)) for number in range(total)]  # each is merged apart


def _unties(recipe: Recipe, config: Mapping[str, Any]) -> bool:
    return recipe.path is not None and fold(recipe.path, families()[config["model_type"]].layer_flow).unties


def _seen(kind: str, config: Mapping[str, Any], context: int) -> int:
    """How many of the tokens before it a token attends to."""
    window = config.get("sliding_window")
    return min(context, window) if kind == "sliding_attention" and isinstance(window, int) else context


@lru_cache(maxsize=64)
def _shape(text: str) -> _Shape:
    """Counted on a model of one layer without data, as transformers builds it."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM  # takes seconds, and a search may have no such metric

    given: dict[str, Any] = json.loads(text)
    family = families().get(str(given.get("model_type")))
    if family is None:
        raise ArchitectureError(f"config.json: model_type {given.get('model_type')!r} is not a known family")
    lists = per_layer(given, family.layers)
    one_kind = "sliding_attention" if family.name in ALL_SLIDING else "full_attention"
    small = {k: v for k, v in given.items() if k not in lists} | {family.layers: 1}
    try:
        config: Any = CONFIG_MAPPING[family.name].from_dict(small)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    except Exception as error:  # each class has checks, and exceptions, of its own
        raise ArchitectureError(f"config.json: transformers cannot build this model: {error}") from error
    head = model.get_output_embeddings().weight
    own = dict(model.named_parameters(remove_duplicate=False))
    inside = {name: p for name, p in own.items() if split_numbers(name)[1] is not None}
    outside = {id(p): p.numel() for name, p in own.items() if name not in inside and p is not head}
    embedding = model.get_input_embeddings().weight
    tied = head is embedding or bool(config.tie_word_embeddings)
    outside |= {id(embedding): embedding.numel()}
    experts = family.num_experts(given)
    used = float(given.get("num_experts_per_tok", 1)) / experts if experts else 1.0
    heads = int(config.num_attention_heads)
    width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    return _Shape(
        kinds=tuple(lists.get("layer_types") or [one_kind] * int(given[family.layers])),
        layer_parameters=sum(p.numel() for p in inside.values()),
        layer_flops=round(sum(_flops(name, p, model, used) for name, p in inside.items())),
        attended=4 * heads * width,  # q·k and p·v, each a multiplication and an addition
        outside_parameters=sum(outside.values()),
        head=head.numel(),
        tied=tied,
    )


def _flops(name: str, parameter: nn.Parameter, model: nn.Module, used: float) -> float:
    """For one token; of stacked experts (three dimensions) a token visits some."""
    if isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Embedding) or parameter.dim() < 2:
        return 0.0
    return 2.0 * prod(parameter.shape) * (used if parameter.dim() == 3 else 1.0)
