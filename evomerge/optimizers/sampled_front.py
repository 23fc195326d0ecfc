"""What a genome would add to a front in one world: hypervolume along random directions.

The hypervolume between a reference r and points Y is, up to a constant, the mean over directions λ, uniform on the
positive part of the sphere, of max over y in Y of s_λ(y), where

    s_λ(y) = min over k of max(0, (y_k − r_k) / λ_k)^M,

so what a further point adds to it is the mean of what it has beyond the best of Y, and that takes no geometry.

Source: Zhang and Golovin 2020, Random hypervolume scalarizations, arXiv:2006.04655, lemma 5.

Legend: M objectives, T points, R known ones, L directions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DIRECTIONS = 128
"""Directions in which points are compared."""
TINY = 1e-12
"""The least width of an objective in which all known points are equal."""


def gains(points: Floats, known: Floats, rng: np.random.Generator) -> Floats:
    """[T] what each point adds to the front of known ones; where it adds nothing, how far it stays behind, below 0.

    Args:
        points: [T, M], larger is better.
        known: [R, M], at least one. The worst of them in each objective is the reference: where it stood nearer to the
            front, the front's ends counted for little and were missed.
    """
    corner = known.min(axis=0)
    width = np.maximum(known.max(axis=0) - corner, TINY)
    directions = np.abs(rng.standard_normal((DIRECTIONS, known.shape[1]))) + 1e-9
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    beyond = _heights((points - corner) / width, directions)
    best = _heights((known - corner) / width, directions).max(axis=1, initial=0.0)
    power = known.shape[1]
    added = np.maximum(np.maximum(beyond, 0) ** power - best[:, None] ** power, 0.0).mean(axis=0)
    behind = (beyond - best[:, None]).max(axis=0)
    return np.asarray(np.where(added > 0, added, np.minimum(behind, 0.0)))


def _heights(points: Floats, directions: Floats) -> Floats:
    """[L, T] how far each direction reaches below a point."""
    return np.asarray((points[None] / directions[:, None]).min(axis=2))
