"""A live model whose layers are visits to layers of several models: parameters are shared, places in the cache are not.

A layer that is visited twice is one set of parameters but two modules: each visit writes keys and values of its own, at
the index of its hop. The same module in two hops would write both to one place.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from evomerge.errors import ArchitectureError

Semantics = Literal["stream", "delta"]
"""What a visit's scale multiplies: all of the layer's input, or what the MLP before it added to that."""


@dataclass(frozen=True, slots=True)
class Stack:
    """The parts of a model that paths are put together from.

    Attributes:
        layers: in order.
        kinds: of attention, one a layer (`full_attention`, …); None where the family knows but one.
        embedding, norm, head: what stands before and after the layers.
    """

    layers: tuple[nn.Module, ...]
    kinds: tuple[str, ...] | None
    embedding: nn.Module
    norm: nn.Module
    head: nn.Module


@dataclass(frozen=True, slots=True)
class Visit:
    """One hop: a layer of a model, and the scale of its input."""

    stack: Stack
    layer: int
    scale: float = 1.0


def stack_of(model: Any) -> Stack:
    """The parts of transformers' causal language model as they are now.

    Raises:
        ArchitectureError: it is not built of decoder layers with an MLP each, an embedding and a final norm.
    """
    inner, head = model.base_model, model.get_output_embeddings()
    layers = getattr(inner, "layers", None)
    if layers is None or head is None or not all(hasattr(inner, part) for part in ("embed_tokens", "norm")):
        raise ArchitectureError(f"{type(model).__name__} has no layers that could be put on a path")
    if not all(hasattr(layer, "mlp") for layer in layers):
        raise ArchitectureError(f"layers of {type(model).__name__} have no MLP of their own")
    kinds = getattr(model.config, "layer_types", None)
    return Stack(tuple(layers), None if kinds is None else tuple(kinds), inner.embed_tokens, inner.norm, head)


def built_on(config: PretrainedConfig, dtype: torch.dtype, fill: Callable[[str, Tensor], Tensor]) -> Any:
    """transformers' causal language model around tensors that are there already; nothing is copied or drawn.

    Its layers, embedding, norm and head can be used; buffers outside of them are without data.

    Args:
        fill: (a live parameter's name, a tensor without data of its shape) → the tensor that it is to be.
    """
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    for name, empty in list(model.named_parameters(remove_duplicate=False)):
        module, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(module), leaf, nn.Parameter(fill(name, empty), requires_grad=False))
    model.train(False)
    return model


class DataFlow:
    """Puts a live model on one path after the other.

    Args:
        model: transformers' causal language model; its layer list and config are changed in place.

    Attributes:
        own: the parts that the model had.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.own = stack_of(model)
        self._copies: dict[nn.Module, list[_Copy]] = {}

    def follow(self, visits: Sequence[Visit], semantics: Semantics, host: Stack | None = None) -> None:
        """Visit these layers from now on.

        Args:
            host: whose embedding, final norm and head are used; None: the model's own.
        """
        host = host or self.own
        used: dict[nn.Module, int] = {}
        copies = []
        for visit in visits:
            layer = visit.stack.layers[visit.layer]
            copies.append(self._copy(layer, used.setdefault(layer, 0)))
            used[layer] += 1
        for number, (visit, visited) in enumerate(zip(visits, copies, strict=True)):
            following = visits[number + 1].scale if number + 1 < len(visits) else 1.0
            visited.take_place(
                number,
                entering=visit.scale if semantics == "stream" or number == 0 else 1.0,
                added=following if semantics == "delta" else 1.0,
            )
        kinds = [visit.stack.kinds[visit.layer] for visit in visits if visit.stack.kinds is not None]
        self._set([visited.module for visited in copies], kinds or None, host)

    def leave(self) -> None:
        """The model as it was."""
        self._set(self.own.layers, self.own.kinds, self.own)

    def _copy(self, layer: nn.Module, number: int) -> _Copy:
        """The copy of a layer for its visit of this number; made once."""
        made = self._copies.setdefault(layer, [])
        if number == len(made):
            made.append(_Copy(layer))
        return made[number]

    def _set(self, layers: Sequence[nn.Module], kinds: Sequence[str] | None, host: Stack) -> None:
        inner, config = self._model.base_model, self._model.config
        inner.layers = nn.ModuleList(layers)
        inner.embed_tokens, inner.norm = host.embedding, host.norm
        self._model.set_output_embeddings(host.head)
        config.num_hidden_layers = len(layers)
        if kinds is not None:
            config.layer_types = list(kinds)
            if hasattr(inner, "has_sliding_layers"):  # Qwen looks at its kinds once, when it is built
                inner.has_sliding_layers = "sliding_attention" in kinds


class _Copy:
    """A layer's parameters under a module of their own, with scales on the way in and on what the MLP adds."""

    def __init__(self, layer: nn.Module) -> None:
        self.module = _sharing(layer)
        self._entering = self._added = 1.0
        self.module.register_forward_pre_hook(self._enter, with_kwargs=True)
        mlp = self.module.mlp
        assert isinstance(mlp, nn.Module), "stack_of has seen one"
        mlp.register_forward_hook(self._add)

    def take_place(self, number: int, *, entering: float, added: float) -> None:
        """Be hop `number`: its keys and values lie there in the cache."""
        self._entering, self._added = entering, added
        for module in self.module.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = number  # type: ignore[assignment]  # attention modules keep a plain number there

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._entering == 1:
            return None
        if args:
            return (args[0] * self._entering, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"] * self._entering}

    def _add(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if self._added == 1:
            return None
        return (output[0] * self._added, *output[1:]) if isinstance(output, tuple) else output * self._added


def _sharing(layer: nn.Module) -> nn.Module:
    """A copy of a layer's modules, not of its tensors, nor of its config."""
    shared: list[object] = [*layer.parameters(), *layer.buffers()]
    shared += [module.config for module in layer.modules() if hasattr(module, "config")]
    return copy.deepcopy(layer, {id(one): one for one in shared})
