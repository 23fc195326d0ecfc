"""Losses of one item, of what a model puts out where the item's continuation is predicted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss


@dataclass(frozen=True, slots=True)
class Output:
    """What a model puts out for an item.

    Attributes:
        logits: float32 at least, of the tokens of the continuation; (tokens × vocabulary).
        hidden: states after each layer, where they were asked for; (all tokens × hidden) each.
    """

    logits: Tensor
    hidden: tuple[Tensor, ...] = ()


Loss = Callable[[Output, Output | None, Tensor], Tensor]
"""(merged model's output, the expert's or None, the continuation's tokens) → one number."""


@dataclass(frozen=True, slots=True)
class Objective:
    """A loss, and what it has to be shown.

    Attributes:
        expert: whether the expert's output on the same item.
        hidden: whether hidden states.
    """

    loss: Loss
    expert: bool = False
    hidden: bool = False


def entropy(output: Output, expert: Output | None, labels: Tensor) -> Tensor:
    """Mean over tokens of H(p) = −Σ p log p (AdaMerging, eq. 3)."""
    logs = output.logits.log_softmax(-1)
    return -(logs.exp() * logs).sum(-1).mean()


def likelihood(output: Output, expert: Output | None, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood of the continuation."""
    return cross_entropy(output.logits, labels)


def divergence(temperature: float) -> Loss:
    """T² · mean over tokens of KL(expert ‖ merged) of softmax(logits / T)."""

    def loss(output: Output, expert: Output | None, labels: Tensor) -> Tensor:
        assert expert is not None, "the objective asks for it"
        own = (output.logits / temperature).log_softmax(-1)
        target = (expert.logits / temperature).log_softmax(-1)
        return (target.exp() * (target - own)).sum(-1).mean() * temperature**2

    return loss


def squares(output: Output, expert: Output | None, labels: Tensor) -> Tensor:
    """Mean squared difference of the logits from the expert's."""
    assert expert is not None, "the objective asks for it"
    return mse_loss(output.logits, expert.logits)


def alignment(temperature: float, hidden_weight: float) -> Loss:
    """T² · cross entropy with the expert's softmax(logits / T), plus the mean over layers of the mean squared
    difference of hidden states (Expert Merging)."""

    def loss(output: Output, expert: Output | None, labels: Tensor) -> Tensor:
        assert expert is not None, "the objective asks for it"
        target = (expert.logits / temperature).softmax(-1)
        logits = cross_entropy(output.logits / temperature, target) * temperature**2
        layers = [mse_loss(own, its) for own, its in zip(output.hidden, expert.hidden, strict=True)]
        return logits + hidden_weight * torch.stack(layers).mean()

    return loss


def objective(name: str, temperature: float) -> Objective:
    """`entropy`, `kl`, `squares` or `likelihood`."""
    if name in ("kl", "squares"):
        return Objective(divergence(temperature) if name == "kl" else squares, expert=True)
    return Objective({"entropy": entropy, "likelihood": likelihood}[name])
