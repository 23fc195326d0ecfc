"""From derivatives by a live model's weights to derivatives by its sources' coefficients: inner products.

Where θ = θ0 + Σ c_k τ_k, tensor by tensor, dL/dc_k is <dL/dθ, τ_k> (Yang et al. 2023, AdaMerging, arXiv:2310.02575,
learns its coefficients by these derivatives). A gradient lives no longer than until its products are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from evomerge.merge.blocks import Operand
from evomerge.models.architecture import Architecture

BLOCK = 1 << 17
"""Entries multiplied at a time, in float32; blocks are added in float64."""

Products = dict[str, dict[str, float]]
"""Tensor, as the base's checkpoint spells it → source → <dL/dθ, τ of the source>; only for sources that change it."""


class Projection:
    """Takes the gradients of a live model as they come.

    Args:
        model: live; its parameters need no gradient outside of `into`.
        base: the base's tensors by name.
        operands: source → the tensors that it changes.
    """

    def __init__(
        self,
        model: Any,
        architecture: Architecture,
        base: Mapping[str, Tensor],
        operands: Mapping[str, Mapping[str, Operand]],
    ) -> None:
        self._model, self._architecture, self._base, self._operands = model, architecture, base, operands

    @contextmanager
    def into(self, products: Products) -> Iterator[None]:
        """While this is open, every backward pass adds to `products`, and no gradient stays behind.

        A tensor that the model uses twice (a tied head) has one gradient, the sum of both uses'.
        """
        hooks = []
        try:
            for name, parameter in self._model.named_parameters():
                if self._architecture.parts_of(name, parameter.data):
                    parameter.requires_grad_(True)
                    hooks.append(parameter.register_post_accumulate_grad_hook(self._taker(name, products)))
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self._model.requires_grad_(False)
            self._model.zero_grad(set_to_none=True)

    def _taker(self, name: str, products: Products) -> Callable[[Tensor], None]:
        @torch.no_grad()
        def take(parameter: Tensor) -> None:
            assert parameter.grad is not None, "torch calls this when there is one"
            for at, gradient in self._architecture.parts_of(name, parameter.grad).items():
                self._add(at, gradient, products.setdefault(at, {}))
            parameter.grad = None

        return take

    def _add(self, tensor: str, gradient: Tensor, found: dict[str, float]) -> None:
        base, flat = self._base[tensor].reshape(-1), gradient.reshape(-1)
        changing = {source: own[tensor] for source, own in self._operands.items() if tensor in own}
        for begin in range(0, flat.numel() if changing else 0, BLOCK):
            end = min(begin + BLOCK, flat.numel())
            origin, slope = base[begin:end].float(), flat[begin:end].float()
            for source, operand in changing.items():
                product = torch.dot(operand.delta(origin, begin, end), slope)
                found[source] = found.get(source, 0.0) + float(product)
