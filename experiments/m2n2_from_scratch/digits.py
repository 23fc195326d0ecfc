"""The paper's first task: networks of 19,210 weights that read scikit-learn's digits, and crossings of such networks.

As in the authors' program: 8×8 digits, pixels from 0 to 16, the first 80 % to train and the rest to test, unshuffled;
64 inputs, 256 hidden units (ReLU), 10 outputs. All in float32. A network is one flat vector: weights and biases of the
first layer, then of the second.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from evomerge.archive.lineage import slerp
from evomerge.candidate import Descent

Vector = NDArray[np.float32]
"""A network, shape [19,210]."""

INPUTS, HIDDEN, OUTPUTS = 64, 256, 10
WEIGHTS = (INPUTS + 1) * HIDDEN + (HIDDEN + 1) * OUTPUTS


class Digits:
    """Images and labels, and what a network makes of them."""

    def __init__(self) -> None:
        digits = load_digits()
        cut = int(0.8 * len(digits.target))
        self.images = {"train": digits.data[:cut].astype(np.float32), "test": digits.data[cut:].astype(np.float32)}
        self.labels = {"train": digits.target[:cut], "test": digits.target[cut:]}

    def solved(self, network: Vector, split: str = "train") -> NDArray[np.bool_]:
        """Which images are read rightly, shape [images]."""
        first, second = np.split(network, [(INPUTS + 1) * HIDDEN])
        hidden = self.images[split] @ first[: INPUTS * HIDDEN].reshape(INPUTS, HIDDEN)
        hidden += first[INPUTS * HIDDEN :]
        np.maximum(hidden, 0, out=hidden)
        logits = hidden @ second[: HIDDEN * OUTPUTS].reshape(HIDDEN, OUTPUTS) + second[HIDDEN * OUTPUTS :]
        right: NDArray[np.bool_] = logits.argmax(axis=1) == self.labels[split]
        return right

    def accuracy(self, network: Vector, split: str) -> float:
        """In percent."""
        return 100 * float(self.solved(network, split).mean())


def random_network(seed: int, number: int) -> Vector:
    """N(0, 0.01²) in every weight: a source."""
    return np.random.default_rng([seed, number]).normal(0, 0.01, WEIGHTS).astype(np.float32)


def descend(descent: Descent, trial: int, sources: list[Vector], known: Mapping[int, Vector], seed: int) -> Vector:
    """A descendant's weights. One angle for the whole vector, as in the authors' program."""
    if descent.parents is None:
        return sources[descent.source or 0]
    a, b = (known[parent] for parent in descent.parents)
    aa, bb, ab = (float(x @ y) for x, y in ((a, a), (b, b), (a, b)))
    child = np.empty_like(a)
    for side, t in ((np.s_[: descent.splits[0]], descent.mix), (np.s_[descent.splits[0] :], 1 - descent.mix)):
        from_a, from_b = slerp(t, aa, bb, ab)
        child[side] = np.float32(from_a) * a[side] + np.float32(from_b) * b[side]
    if descent.noise:
        rng = np.random.default_rng([seed, 1000, trial])
        child += np.float32(descent.noise) * rng.standard_normal(WEIGHTS, dtype=np.float32)
    return child
