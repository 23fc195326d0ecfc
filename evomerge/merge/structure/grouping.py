"""Which experts of a mixture belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.cluster.hierarchy import cut_tree, linkage
from torch import Tensor

RESTARTS = 10
"""Starts of k-means, of which the best counts."""
STEPS = 300
"""Most steps of one start."""


@dataclass(frozen=True, slots=True)
class Group:
    """Experts that become one.

    Attributes:
        members: their numbers, ascending.
        core: the one whose units and router row the others follow.
        shares: of the members in a mean; they sum to 1.
    """

    members: tuple[int, ...]
    core: int
    shares: tuple[float, ...]


def groups_of(labels: Tensor, routed: Tensor, cores: Mapping[int, int] | None = None) -> tuple[Group, ...]:
    """Groups by label, in the order of their first members.

    Args:
        labels: (experts), a number for each.
        routed: how often each expert is used: shares in proportion; equal ones where none of a group is used.
        cores: label → core; None takes the most used member.
    """
    found = []
    for label in dict.fromkeys(labels.tolist()):
        members = tuple((labels == label).nonzero().reshape(-1).tolist())
        used = routed[list(members)]
        total = float(used.sum())
        shares = (used / total).tolist() if total > 0 else [1.0 / len(members)] * len(members)
        core = members[int(used.argmax())] if cores is None else cores[label]
        found.append(Group(members, core, tuple(shares)))
    return tuple(found)


def hierarchical(features: Tensor, number: int, method: str) -> Tensor:
    """Labels of a hierarchical clustering by Euclidean distance, cut where `number` groups are left.

    Source: Chen et al. 2024, HC-SMoE, arXiv:2410.08589, section 3.2 (features: mean outputs; average linkage).
    """
    tree = linkage(features.double().numpy(), method=method, metric="euclidean")
    return torch.from_numpy(cut_tree(tree, n_clusters=number)[:, 0].astype(np.int64))


def kmeans(distances: Tensor, number: int, seed: int) -> Tensor:
    """Labels of k-means over the rows of a distance matrix, begun by k-means++.

    Source: Li et al. 2025, Sub-MoE, arXiv:2506.23266, section 3.2 (rows of 1 − mean cosine of outputs).
    """
    rows = distances.double().numpy()
    random = np.random.default_rng(seed)
    runs = [_lloyd(rows, _spread(rows, number, random)) for _ in range(RESTARTS)]
    return torch.from_numpy(min(runs, key=lambda run: run[0])[1])


def around_cores(similarity: Tensor, routed: Tensor, number: int) -> tuple[Group, ...]:
    """The most used experts are cores; each of the others goes to the core that it is most similar to.

    Source: Li et al. 2023, Merge then Compress (M-SMoE), arXiv:2310.01334, section 3.1.
    """
    order = torch.argsort(routed, descending=True, stable=True)
    cores = order[:number].sort().values
    labels = cores[similarity[:, cores].argmax(1)]
    labels[cores] = cores
    return groups_of(labels, routed, {core: core for core in cores.tolist()})


def cores_per_layer(routed: Mapping[int, Tensor], number: int) -> dict[int, int]:
    """How many cores each layer gets when the most used experts of the whole model are cores.

    Args:
        routed: layer → how often its experts are used, compared as shares of the layer's.
        number: cores that a layer gets on average; every layer gets one at least.
    """
    shares = {layer: used / used.sum().clamp(min=1.0) for layer, used in routed.items()}
    ranked = [
        (1.0 if e == int(s.argmax()) else float(s[e]), layer, e) for layer, s in shares.items() for e in range(len(s))
    ]
    ranked.sort(key=lambda entry: (-entry[0], entry[1], entry[2]))
    kept = [layer for _, layer, _ in ranked[: number * len(routed)]]
    return {layer: kept.count(layer) for layer in routed}


def _spread(rows: np.ndarray, number: int, random: np.random.Generator) -> np.ndarray:
    """Centres by k-means++: each with a chance in proportion to its squared distance from those there are."""
    chosen = [int(random.integers(len(rows)))]
    while len(chosen) < number:
        squared = ((rows[:, None] - rows[chosen][None]) ** 2).sum(2).min(1)
        squared[chosen] = 0.0
        left = np.setdiff1d(np.arange(len(rows)), chosen)
        total = squared.sum()
        chosen.append(int(random.choice(len(rows), p=squared / total)) if total > 0 else int(left[0]))
    return rows[chosen]


def _lloyd(rows: np.ndarray, centres: np.ndarray) -> tuple[float, np.ndarray]:
    """Sum of squared distances and labels; no group is ever empty."""
    labels = np.full(len(rows), -1)
    for _ in range(STEPS):
        squared = ((rows[:, None] - centres[None]) ** 2).sum(2)
        found = squared.argmin(1)
        for group in range(len(centres)):
            if not (found == group).any():  # takes the row that is furthest from its centre in a larger group
                many = np.bincount(found, minlength=len(centres))[found] > 1
                found[np.where(many, squared[np.arange(len(rows)), found], -1.0).argmax()] = group
        if (found == labels).all():
            break
        labels = found
        centres = np.stack([rows[labels == group].mean(0) for group in range(len(centres))])
    return float(((rows - centres[labels]) ** 2).sum()), labels
