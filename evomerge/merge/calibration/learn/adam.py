"""Adam with decoupled weight decay, and MoFO's filter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Adam:
    """What decides its steps.

    Attributes:
        rate: learning rate.
        decay: decoupled weight decay (AdamW); 0: Adam.
        moving: share of each tensor's entries that a step moves, those with the largest first moments; 1: all.
        clip: largest Euclidean norm of all gradients together; longer ones are shortened to it.

    Source: Kingma & Ba 2015, arXiv:1412.6980; Loshchilov & Hutter 2019, arXiv:1711.05101; Chen et al. 2024, MoFO,
    arXiv:2407.20999.
    """

    rate: float
    decay: float = 0.0
    moving: float = 1.0
    clip: float = math.inf


_BETAS = (0.9, 0.999)
_EPSILON = 1e-8


class Steps:
    """Parameters on their way; their `grad` is read and let go at every step."""

    def __init__(self, adam: Adam, parameters: Sequence[Tensor]) -> None:
        self._adam, self._parameters, self._count = adam, parameters, 0
        self._first = [torch.zeros_like(parameter) for parameter in parameters]
        self._second = [torch.zeros_like(parameter) for parameter in parameters]

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter, in place."""
        self._count += 1
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients))
        shorter = min(1.0, self._adam.clip / norm) if norm > 0 else 1.0
        for parameter, gradient, first, second in zip(
            self._parameters, gradients, self._first, self._second, strict=True
        ):
            gradient = gradient * shorter
            first.lerp_(gradient, 1 - _BETAS[0])
            second.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
            scale = (second / (1 - _BETAS[1] ** self._count)).sqrt_().add_(_EPSILON)
            update = first / (1 - _BETAS[0] ** self._count) / scale
            parameter.mul_(1 - self._adam.rate * self._adam.decay).sub_(
                update.mul_(self._adam.rate).mul_(_moved(first, self._adam.moving))
            )
            parameter.grad = None


def _moved(first: Tensor, share: float) -> Tensor | float:
    """1 where the first moment is among the largest, 0 elsewhere."""
    if share >= 1:
        return 1.0
    kept = max(1, int(first.numel() * share))
    sizes = first.abs()
    return (sizes >= sizes.reshape(-1).topk(kept).values[-1]).to(first.dtype)
