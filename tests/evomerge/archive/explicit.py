"""Lineages the long way: float64 vectors crossed entry by entry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from evomerge.archive.flat_order import IntArray
from evomerge.archive.lineage import Individual, Noise
from evomerge.archive.noise import normal

Array = npt.NDArray[np.float64]


class Explicit:
    """Sources that are there in full: of each chromosome [sources, entries], with the sizes of its tensors."""

    def __init__(self, sources: Sequence[Array], sizes: Sequence[Sequence[int]]) -> None:
        self.sources = list(sources)
        self.starts: tuple[IntArray, ...] = tuple(np.cumsum([0, *s], dtype=np.int64) for s in sizes)

    def grams(self, chromosome: int, edges: IntArray) -> Array:
        parts = [self.sources[chromosome][:, b:e] for b, e in pairwise(edges)]
        return np.stack([part @ part.T for part in parts])

    def blocks(self, chromosome: int, begin: int, end: int, noise: Sequence[Noise]) -> Iterator[Array]:
        for first in range(begin, end, 7):
            yield self.with_noise(chromosome, noise)[:, first : min(first + 7, end)]

    def with_noise(self, chromosome: int, noise: Sequence[Noise]) -> Array:
        """[sources + terms, entries]."""
        starts = self.starts[chromosome]
        terms = [
            np.concatenate(
                [t.std * normal(t.seed, f"{chromosome}.{i}", 0, int(n)) for i, n in enumerate(np.diff(starts))]
            )
            for t in noise
        ]
        return np.vstack([self.sources[chromosome], *terms])

    def vectors(self, individual: Individual) -> list[Array]:
        """An individual in full, one vector a chromosome."""
        found = []
        for number, strand in enumerate(individual.strands):
            entries = self.with_noise(number, individual.noise)
            rows = strand.at(np.arange(entries.shape[1]))
            found.append((rows.T * entries).sum(0))
        return found

    def cross(self, a: list[Array], b: list[Array], splits: Sequence[int], mix: float, angle: str) -> list[Array]:
        """The child of two models that are there in full."""
        whole = _slerps(np.concatenate(a), np.concatenate(b))
        child = []
        for x, y, split, starts in zip(a, b, splits, self.starts, strict=True):
            if angle == "global":
                child.append(np.concatenate([whole(x[:split], y[:split], mix), whole(x[split:], y[split:], 1 - mix)]))
            elif angle == "side":
                sides = [(x[:split], y[:split], mix), (x[split:], y[split:], 1 - mix)]
                child.append(np.concatenate([_slerps(u, v)(u, v, t) for u, v, t in sides]))
            else:
                parts = []
                for begin, end in pairwise(starts):
                    own, at = _slerps(x[begin:end], y[begin:end]), min(max(split, begin), end)
                    parts += [own(x[begin:at], y[begin:at], mix), own(x[at:end], y[at:end], 1 - mix)]
                child.append(np.concatenate(parts))
        return child


def _slerps(a: Array, b: Array):  # type: ignore[no-untyped-def]
    """Interpolation with the angle between two vectors, for parts of them."""
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    omega = np.arccos(np.clip(a @ b / norms, -1, 1)) if norms > 0 else 0.0

    def at(x: Array, y: Array, t: float) -> Array:
        if np.sin(omega) <= 1e-6:
            return (1 - t) * x + t * y
        found: Array = np.sin((1 - t) * omega) / np.sin(omega) * x + np.sin(t * omega) / np.sin(omega) * y
        return found

    return at
