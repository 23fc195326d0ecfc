"""A path through the layers of two small networks: 24 bits and 24 scales, scored on scikit-learn's digits.

One residual network is trained on all digits for a short time, then copies of it on digits 0 to 4 (A) and 5 to 9 (B). A
genome says for each of 24 slots (A's 6 blocks, B's 6 blocks, both again) whether its block is on the path, and by what
its output is scaled, in [0.5, 1.5]; A's first and last block are always there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from evomerge.candidate import Genome
from evomerge.optimizers.domain import Domain, GeneKind

WIDTH, BLOCKS, SLOTS = 32, 6, 24


class Network(nn.Module):
    """An embedding, residual blocks, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Linear(64, WIDTH), nn.Linear(WIDTH, 10)
        self.blocks = nn.ModuleList(_block() for _ in range(BLOCKS))

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.embedding(images)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        logits: Tensor = self.head(hidden)
        return logits


def _block() -> nn.Module:
    return nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 64), nn.GELU(), nn.Linear(64, WIDTH))


class PathToy:
    """The trained networks and the data; `score` is what a search maximises."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        images, labels = load_digits(return_X_y=True)
        self.images, self.labels = torch.tensor((images / 16).astype("float32")), torch.tensor(labels)
        order = torch.tensor(np.random.default_rng(0).permutation(len(images)))
        self.train, self.test = order[:1200], order[1200:]
        base = Network()
        self._fit(base, self.train, steps=60, rate=2e-3)
        low = self.labels[self.train] < 5
        self.a, self.b = copy.deepcopy(base), copy.deepcopy(base)
        self._fit(self.a, self.train[low], steps=150, rate=1e-3)
        self._fit(self.b, self.train[~low], steps=150, rate=1e-3)

    def _fit(self, network: Network, rows: Tensor, *, steps: int, rate: float) -> None:
        optimizer, stream = torch.optim.Adam(network.parameters(), rate), torch.Generator().manual_seed(1)
        for _ in range(steps):
            batch = rows[torch.randint(len(rows), (64,), generator=stream)]
            loss = nn.functional.cross_entropy(network(self.images[batch]), self.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @property
    def domain(self) -> Domain:
        """Bits, then scales behind them; the start is A itself."""
        kinds = (*[GeneKind(choices=2)] * SLOTS, *(GeneKind(gate=slot) for slot in range(SLOTS)))
        bits = [0.75 if slot < BLOCKS else 0.25 for slot in range(SLOTS)]
        return Domain((*bits, *[0.5] * SLOTS), kinds)

    def path(self, genome: Genome) -> list[tuple[int, float]]:
        """(block, scale): blocks 0 to 5 are A's."""
        on, scales = np.array(genome[:SLOTS]) > 0.5, 0.5 + np.array(genome[SLOTS:])
        hops = [(slot % (2 * BLOCKS), float(scales[slot])) for slot in range(1, SLOTS) if on[slot]]
        hops = [(0, float(scales[0])), *hops]
        return hops if hops[-1][0] == BLOCKS - 1 else [*hops, (BLOCKS - 1, 1.0)]

    @torch.no_grad()
    def score(self, path: list[tuple[int, float]], rows: Tensor) -> float:
        """Accuracy of the network that the path makes."""
        blocks: list[Callable[[Tensor], Tensor]] = [*self.a.blocks, *self.b.blocks]
        hidden = self.a.embedding(self.images[rows])
        for block, scale in path:
            hidden = hidden + scale * blocks[block](hidden)
        return float((self.a.head(hidden).argmax(dim=1) == self.labels[rows]).float().mean())
