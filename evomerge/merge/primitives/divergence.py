"""The Kullback-Leibler divergence of softmaxes, entry by entry, in float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from evomerge.merge.primitives.elementary import exp, log

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]

EPS = 1e-8
"""Added to every probability, as in mergekit."""


def exponentials(x: Singles) -> Floats:
    """e^(x − the row's largest): [rows, columns]."""
    return exp(x.astype(np.float64) - x.max(axis=-1, keepdims=True, initial=-np.inf).astype(np.float64))


def terms(a: Floats, of_a: Floats, b: Floats, of_b: Floats) -> Floats:
    """p·ln(p / q) with p = a·of_a + ε and q = b·of_b + ε: [rows, columns].

    Args:
        a, b: [rows, columns].
        of_a, of_b: [rows].
    """
    p = a * of_a[:, None] + EPS
    return p * log(p / (b * of_b[:, None] + EPS))
