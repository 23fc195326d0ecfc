"""Functional dual anchors: synthetic inputs of a layer's MLP that stand for a task vector, and scales that fit them.

Source: Shi, Wen and Liu 2025, Model Merging with Functional Dual Anchors, arXiv:2510.21223.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, l1_loss, mse_loss

from evomerge.merge.calibration.learn.adam import Adam, Steps
from evomerge.merge.calibration.learn.mlp import Mlp
from evomerge.merge.primitives.sparsify import mask_key
from evomerge.merge.primitives.spectral import gaussian

Weights = Mapping[str, Tensor]
"""The base's name of a tensor of the MLP → the tensor, as stored."""
Done = Callable[[], None]
_DECAY = 0.01
"""Weight decay of the anchors: AdamW's own default, which the authors keep."""


@dataclass(frozen=True, slots=True)
class Search:
    """How anchors are found.

    Attributes:
        number: of them, for each layer and source.
        initial: `weights` (rows of the fine-tuned matrices) or `gaussian`.
        spread: standard deviation of `gaussian`.
        steps, rate: of AdamW.
        seed: of the draw.
    """

    number: int
    initial: str
    spread: float
    steps: int
    rate: float
    seed: int


@dataclass(frozen=True, slots=True)
class Adaptation:
    """How scales are found.

    Attributes:
        match: `cosine`, `squares` or `absolute`: what is made small between outputs.
        epochs: passes over all sources' anchors.
        batch: anchors of a step.
        rate: of Adam.
        seed: of the order.
    """

    match: str
    epochs: int
    batch: int
    rate: float
    seed: int


def moved(base: Weights, own: Weights) -> list[str]:
    """Tensors in which a source differs from the base."""
    return [name for name, tensor in base.items() if not torch.equal(tensor, own[name])]


def initial(mlp: Mlp, own: Weights, how: Search) -> Tensor:
    """Where anchors begin; (number × width).

    `weights`: rows of the source's matrices that are as wide as the inputs, in a drawn order; where there are too few,
    means of drawn pairs of them beside all.
    """
    if how.initial == "gaussian":
        return gaussian(_key(how.seed, mlp, "anchors"), how.number, mlp.width) * how.spread
    matrices = [t.t() if mlp.transposed else t for t in own.values() if t.dim() == 2]
    rows = torch.cat([m for m in matrices if m.shape[1] == mlp.width])
    if len(rows) >= how.number:
        return rows[_order(_key(how.seed, mlp, "anchors"), len(rows))[: how.number]]
    lacking = how.number - len(rows)
    pairs = _raw(_key(how.seed, mlp, "anchors"), 2 * lacking) % np.uint64(len(rows))
    drawn = torch.from_numpy(pairs.astype(np.int64)).view(lacking, 2)
    return torch.cat([rows, rows[drawn].mean(1)])


def misalignment(mlp: Mlp, base: Weights, own: Weights, anchors: Tensor) -> Tensor:
    """Σ over tensors that the source changes of 1 − cos(∇θ0 mean cos(f(θ0, X), f(θ, X)), θ − θ0); keeps the graph."""
    names = moved(base, own)
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in base.items()}
    similarity = cosine_similarity(mlp(leaves, anchors), mlp(own, anchors), dim=1).mean()
    gradients = torch.autograd.grad(similarity, [leaves[name] for name in names], create_graph=True)
    cosines = [
        cosine_similarity(gradient.reshape(-1), (own[name] - base[name]).reshape(-1), dim=0)
        for name, gradient in zip(names, gradients, strict=True)
    ]
    return torch.stack([1 - cosine for cosine in cosines]).sum()


def anchors_of(mlp: Mlp, base: Weights, own: Weights, start: Tensor, how: Search, done: Done) -> Tensor:
    """The best anchors on AdamW's way from `start`; (number × width), none for a source that leaves the MLP alone."""
    if not moved(base, own):
        return start[:0]
    anchors = start.clone().requires_grad_()
    steps, best, least = Steps(Adam(how.rate, decay=_DECAY), [anchors]), start, math.inf
    for _ in range(how.steps):
        loss = misalignment(mlp, base, own, anchors)
        if float(loss.detach()) < least:
            best, least = anchors.detach().clone(), float(loss.detach())
        (anchors.grad,) = torch.autograd.grad(loss, [anchors])
        steps.step()
        done()
    return best


def scales_of(
    mlp: Mlp, base: Weights, merged: Weights, targets: Sequence[tuple[Tensor, Tensor]], how: Adaptation, done: Done
) -> dict[str, Tensor]:
    """α of θ0 + α ⊙ (merged − θ0), elementwise, from 1, so that outputs of the anchors match the sources' own.

    Args:
        merged: the initial merge.
        targets: of each source its anchors and its own outputs of them, (n × width) each.

    Returns:
        Of every tensor that the initial merge changes.
    """
    deltas = {name: merged[name] - tensor for name, tensor in base.items()}
    scales = {name: torch.ones_like(d).requires_grad_() for name, d in deltas.items() if d.any()}
    inputs, outputs = (torch.cat([pair[at] for pair in targets]) for at in (0, 1))
    steps = Steps(Adam(how.rate), list(scales.values()))
    for epoch in range(how.epochs if scales else 0):
        order = _order(_key(how.seed, mlp, f"epoch {epoch}"), len(inputs)).to(inputs.device)
        for chosen in torch.split(order, how.batch):
            weights = {name: tensor + scales.get(name, 1.0) * deltas[name] for name, tensor in base.items()}
            mismatch(how.match, mlp(weights, inputs[chosen]), outputs[chosen]).backward()  # type: ignore[no-untyped-call]
            steps.step()
        done()
    return {name: scale.detach() for name, scale in scales.items()}


def mismatch(match: str, outputs: Tensor, expected: Tensor) -> Tensor:
    """How far outputs are from what they should be, summed over the anchors."""
    if match == "cosine":
        return -cosine_similarity(outputs, expected, dim=1).sum()
    return (mse_loss if match == "squares" else l1_loss)(outputs, expected, reduction="sum")


def _key(seed: int, mlp: Mlp, what: str) -> int:
    """Of random numbers: no source's name is in it, so that what is kept of a model serves it under any name."""
    return mask_key(seed, "", f"layer {mlp.layer} {what}")


def _raw(key: int, number: int) -> npt.NDArray[np.uint64]:
    return np.random.Philox(key=key).random_raw(number).astype(np.uint64, copy=False)


def _order(key: int, number: int) -> Tensor:
    return torch.from_numpy(np.argsort(_raw(key, number), kind="stable"))
