"""Further experts, bred from those that there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge.primitives.sparsify import bernoulli, mask_key, resolved

Deltas = Mapping[str, Tensor]
"""Expert → δ of one tensor, float32."""


@dataclass(frozen=True, slots=True)
class Child:
    """An expert made of two others: θ0 + Σ share · DARE(δ of a parent).

    Attributes:
        shares: of the parents, in (0, 1); their sum is 1.
    """

    name: str
    parents: tuple[str, str]
    shares: tuple[float, float]


def child_name(number: int) -> str:
    """Of a bred expert, from 0."""
    return f"expand-{number + 1}"


def with_children(
    deltas: Deltas, children: Sequence[Child], tensor: str, density: float, seed: int
) -> dict[str, Tensor]:
    """The task vectors of all experts in one tensor; a child may be a parent of later ones.

    Args:
        density: the share of a parent's entries that DARE keeps, in (0, 1]; they are divided by it.
    """
    found = dict(deltas)
    for child in children:
        parts = [
            share * _dare(found[parent], mask_key(seed, f"{child.name}:{parent}", tensor), density)
            for parent, share in zip(child.parents, child.shares, strict=True)
        ]
        found[child.name] = parts[0] + parts[1]
    return found


def _dare(delta: Tensor, key: int, density: float) -> Tensor:
    kept = bernoulli(key, density, 0, delta.numel()).view(delta.shape)
    return delta * kept / resolved(density)


def expand(
    names: Sequence[str],
    number: int,
    read: Callable[[], Iterable[tuple[str, Deltas]]],
    density: float,
    seed: int,
) -> tuple[Child, ...]:
    """Breed experts, one after the other: each of the two least similar of all that there are by then.

    Similarity is the cosine between whole task vectors (all tensors of all layers); an expert that is the base itself
    has similarity 0 to every other. The first parent's share is drawn evenly from (0, 1).

    Args:
        names: of the experts that there are.
        number: how many are wanted.
        read: begins anew at every call and gives the name and the task vectors of each tensor; read once an expert.

    Raises:
        InvalidInputError: there are fewer than two experts to begin with.

    Source: Hui et al. 2024, Upcycling Instruction Tuning from Dense to Mixture-of-Experts via Parameter Merging,
    arXiv:2410.01610, expert expansion: E = DARE(α E_j, β E_k) with random α + β = 1.
    """
    if number and len(names) < 2:
        raise InvalidInputError("expand", number, f"0: {len(names)} expert(s) cannot have children, two or more can")
    children: list[Child] = []
    for at in range(number):
        cosines = _cosines([*names, *(child.name for child in children)], children, read, density, seed)
        name = child_name(at)
        share = ((mask_key(seed, name, "share") >> 96) + 0.5) / 2**32  # a hash is as even as any draw
        children.append(Child(name, min(cosines, key=lambda pair: cosines[pair]), (share, 1.0 - share)))
    return tuple(children)


def _cosines(
    names: Sequence[str],
    children: Sequence[Child],
    read: Callable[[], Iterable[tuple[str, Deltas]]],
    density: float,
    seed: int,
) -> dict[tuple[str, str], float]:
    """Of every two experts, in their order."""
    gram = torch.zeros(len(names), len(names), dtype=torch.float64)
    for tensor, originals in read():
        deltas = with_children(originals, children, tensor, density, seed)
        flat = [deltas[name].reshape(-1).double() for name in names]
        for i, left in enumerate(flat):
            for j in range(i, len(flat)):
                gram[i, j] += torch.dot(left, flat[j])
    length = gram.diagonal().sqrt().clamp(min=torch.finfo(torch.float64).tiny).tolist()
    return {
        (names[i], names[j]): float(gram[i, j]) / length[i] / length[j]
        for i in range(len(names))
        for j in range(i + 1, len(names))
    }
