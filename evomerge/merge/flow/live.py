"""A recipe's path on a live model: what a worker does with a candidate of a data-flow search."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from evomerge.errors import ArchitectureError, InvalidInputError
from evomerge.merge.flow.visited import differences
from evomerge.merge.slices import per_layer
from evomerge.models.architecture import Architecture
from evomerge.models.dataflow import DataFlow, Stack, Visit, built_on, stack_of
from evomerge.recipe.path import MERGED, LayerPath

Weights = Callable[[str | None, str], Tensor]
"""(a resident source or None for the base, a tensor of the base's) → the source's tensor, as stored or widened."""


class LivePaths:
    """Puts a resident model on paths through its own layers (`merged`), those of the base and those of the sources.

    Layers of base and sources are modules around the tensors that are resident anyway; they are made when a path first
    goes there.

    Args:
        model: the live model.
        configs: of each resident source that is a checkpoint: config.json; of the base under None.
        weights: the resident tensors.
    """

    def __init__(
        self,
        model: Any,
        architecture: Architecture,
        configs: Mapping[str | None, Mapping[str, Any]],
        weights: Weights,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        _ = architecture.kind.layer_flow  # or the family is refused
        self._flow = DataFlow(model)
        self._architecture, self._configs, self._weights = architecture, configs, weights
        self._dtype, self._device = dtype, device
        self._stacks: dict[str | None, Stack] = {}

    def follow(self, path: LayerPath, resident: Mapping[str, str | None]) -> None:
        """Put the model on a path.

        Args:
            resident: source name in the path's recipe → name of the resident source; None: the base.

        Raises:
            InvalidInputError: a layer does not exist, or the host needs a config of its own.
        """
        named: dict[str, str | None] = {"base": None, **resident}
        last = self._architecture.num_layers - 1
        for number, hop in enumerate(path.layers):
            if hop.layer > last:
                allowed = f"layers 0 to {last} of {hop.model}"
                raise InvalidInputError(f"path.layers[{number}].layer", hop.layer, allowed)
        self._check_host(path.host, named)
        stacks = {name: self._stack(name, named) for name in path.models}
        visits = [Visit(stacks[hop.model], hop.layer, hop.scale) for hop in path.layers]
        self._flow.follow(visits, path.semantics, stacks[path.host])

    def leave(self) -> None:
        """The model's own layers again."""
        self._flow.leave()

    def _stack(self, name: str, named: Mapping[str, str | None]) -> Stack:
        if name == MERGED:
            return self._flow.own
        at = named[name]
        if at not in self._stacks:
            self._stacks[at] = stack_of(built_on(self._config(at), self._dtype, lambda n, t: self._filled(at, n, t)))
        return self._stacks[at]

    def _config(self, at: str | None) -> Any:
        """The base's config with the kinds of the source's layers: in a checkpoint, too, there is but one."""
        base = dict(self._configs[None])
        own = per_layer(self._configs.get(at, base), self._architecture.kind.layers)
        return AutoConfig.for_model(**{**base, **own})

    def _filled(self, at: str | None, name: str, empty: Tensor) -> Tensor:
        """A live parameter: a resident tensor itself where it is one, else put together of several."""
        parts = self._architecture.parts_of(name, empty)
        if not parts:
            raise ArchitectureError(f"live tensor {name!r}: the checkpoint has no such tensor")
        tensors = {part: self._weights(at, part).to(device=self._device, dtype=self._dtype) for part in parts}
        (first, *others) = tensors.values()
        if not others and first.shape == empty.shape:
            return first
        whole = torch.empty(empty.shape, dtype=self._dtype, device=self._device)
        for part, view in self._architecture.parts_of(name, whole).items():
            view.copy_(tensors[part])
        return whole

    def _check_host(self, host: str, named: Mapping[str, str | None]) -> None:
        at = None if host == MERGED else named[host]
        for key, expected, got in differences(self._configs[None], self._configs.get(at, self._configs[None])):
            allowed = f"base or merged in a search: {host} has {key} {got}, the live model {expected}"
            raise InvalidInputError("path.host", host, allowed)
