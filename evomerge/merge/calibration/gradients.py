"""Statistics of gradients: a forward and a backward pass per item.

The loss L of an item is the mean negative log-likelihood of its continuation's tokens. What is summed up may be more
than fits: then the tensors are taken in groups, a pass over the items for each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evomerge.merge.calibration.activations import Done, Named, groups
from evomerge.merge.calibration.items import Sample
from evomerge.merge.calibration.live import Live


@dataclass(frozen=True, slots=True)
class Labels:
    """Which continuation counts: the item's own, or (`sampled`) tokens drawn from the model's own distribution."""

    sampled: bool
    seed: int

    def of(self, number: int, sample: Sample, logits: Tensor) -> Tensor:
        """The tokens whose likelihood is taken, for the item of that number; `logits` predict them."""
        if not self.sampled:
            return torch.tensor(sample.ids[sample.first :], device=logits.device)
        key = int.from_bytes(hashlib.sha256(f"{self.seed}:{number}".encode()).digest()[:7], "big")
        draws = torch.rand(len(logits), 1, dtype=torch.float64, generator=torch.Generator().manual_seed(key))
        below = logits.detach().double().softmax(-1).cumsum(-1).cpu()
        return (
            torch.searchsorted(below, draws * below[:, -1:])
            .squeeze(1)
            .clamp_(max=logits.shape[1] - 1)
            .to(logits.device)
        )


def negative_log_likelihood(live: Live, number: int, sample: Sample, labels: Labels) -> Tensor:
    """Mean over the continuation's tokens, float32 (float64 cannot help what the model rounds)."""
    logits = live.logits(sample)[sample.first - 1 : -1].float()
    return torch.nn.functional.cross_entropy(logits, labels.of(number, sample, logits))


def fisher(live: Live, samples: Sequence[Sample], labels: Labels, memory: int, done: Done) -> Named:
    """Mean over items of (∂ log p(y|x)/∂θ)²: the diagonal of the Fisher information (Matena & Raffel 2021, eq. 4)."""

    def add(total: Tensor, parameter: Tensor, gradient: Tensor) -> None:
        total.addcmul_(gradient.double(), gradient.double())

    yield from _means(live, samples, labels, memory, done, add)


def saliency(live: Live, samples: Sequence[Sample], labels: Labels, memory: int, done: Done) -> Named:
    """Mean over items of |θ·∂L/∂θ|."""

    def add(total: Tensor, parameter: Tensor, gradient: Tensor) -> None:
        total.add_((parameter.detach().double() * gradient.double()).abs_())

    yield from _means(live, samples, labels, memory, done, add)


def votes(live: Live, samples: Sequence[Sample], labels: Labels, memory: int, done: Done) -> Named:
    """θ·∂L/∂θ of the item of rank ⌊n/2⌋ + 1 of n, smallest first.

    Whatever bound b there is: more than half of the items lie at or below b where this does. So one number per entry
    decides every majority vote of the form `θ·∂L/∂θ ≤ b`.
    """
    rank = len(samples) // 2 + 1
    sizes = {name: 4 * len(samples) * parameter.numel() for name, parameter in live.parameters.items()}
    for group in groups(sizes, memory):
        seen: dict[str, list[Tensor]] = {name: [] for name in group}
        for _ in _gradients(live, samples, labels, group, done):
            for name in group:
                parameter = live.parameters[name]
                seen[name].append((parameter.detach().float() * _gradient(parameter).float()).cpu())
        for name in group:
            yield name, torch.stack(seen.pop(name)).kthvalue(rank, dim=0).values


def output_gram(live: Live, samples: Sequence[Sample], labels: Labels, memory: int, done: Done) -> Named:
    """GᵀG/n of the gradients G (n tokens × out) of L by the outputs of every linear map, summed in float64."""
    shapes = {n: live.parameters[n].shape for n in live.linears}
    heights = {n: s[0] if isinstance(live.linears[n], torch.nn.Linear) else s[1] for n, s in shapes.items()}
    for group in groups({name: 8 * height**2 for name, height in heights.items()}, memory):
        sums = {n: torch.zeros(heights[n], heights[n], dtype=torch.float64, device=live.device) for n in group}
        tokens = 0
        with _outputs(live, group) as outputs:
            for sample in _gradients(live, samples, labels, group, done):
                tokens += len(sample.ids)
                for name in group:
                    gradient = _gradient(outputs[name])
                    g = gradient.reshape(-1, gradient.shape[-1]).double()
                    sums[name].addmm_(g.T, g)
        for name in group:
            yield name, (sums.pop(name) / tokens).float().cpu()


Add = Callable[[Tensor, Tensor, Tensor], None]
"""(sum so far, parameter, its gradient): adds an item's part to the sum."""


def _means(live: Live, samples: Sequence[Sample], labels: Labels, memory: int, done: Done, add: Add) -> Named:
    """Means over items, entry by entry, summed in float64."""
    for group in groups({name: 8 * parameter.numel() for name, parameter in live.parameters.items()}, memory):
        sums = {n: torch.zeros_like(live.parameters[n], dtype=torch.float64, requires_grad=False) for n in group}
        for _ in _gradients(live, samples, labels, group, done):
            for name in group:
                add(sums[name], live.parameters[name], _gradient(live.parameters[name]))
        for name in group:
            yield name, (sums.pop(name) / len(samples)).float().cpu()


def _gradients(
    live: Live, samples: Sequence[Sample], labels: Labels, names: Iterable[str], done: Done
) -> Iterator[Sample]:
    """Each item with the gradients of its loss in the parameters of those names, and in no others."""
    chosen = [live.parameters[name] for name in names]
    for parameter in chosen:
        parameter.requires_grad_(True)
    try:
        for number, sample in enumerate(samples):
            negative_log_likelihood(live, number, sample, labels).backward()  # type: ignore[no-untyped-call]
            yield sample
            for parameter in chosen:
                parameter.grad = None
            done()
    finally:
        for parameter in chosen:
            parameter.grad = None
            parameter.requires_grad_(False)


def _gradient(tensor: Tensor) -> Tensor:
    """0 where the loss does not depend on it."""
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


@contextmanager
def _outputs(live: Live, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """The outputs of linear maps in the latest forward pass, with their gradients after the backward pass."""
    seen: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[[Any, Any, Any], None]:
        def keep(module: Any, arguments: Any, output: Tensor) -> None:
            output.retain_grad()
            seen[name] = output

        return keep

    with ExitStack() as stack:
        for name in names:
            stack.callback(live.linears[name].register_forward_hook(hook(name)).remove)
        yield seen
