"""A quadratic of a few genes behind a link function, fitted by least squares: what an objective might look like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.special import expit, logit

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]

Link = Literal["sigmoid", "identity"]

RIDGE = 1e-5
"""Weight of a coefficient's square beside a squared residual: decides where answers are too few to decide."""

LINEAR_PART = 0.02
"""Shares closer to 0 or 1 are taken as so far off it where the sigmoid is inverted to begin its fit."""


def num_coefficients(genes: int) -> int:
    """(K + 1)(K + 2) / 2 for K genes."""
    return (genes + 1) * (genes + 2) // 2


def _terms(genomes: Matrix) -> Matrix:
    """1, c and the products of c in pairs, with c in [-1, 1]; shape [genomes, coefficients]."""
    c = 2 * genomes - 1
    rows, columns = np.triu_indices(c.shape[1])
    return np.hstack([np.ones((len(c), 1)), c, c[:, rows] * c[:, columns]])


@dataclass(frozen=True, slots=True)
class Quadratic:
    """f(c) = link(e + bᵀc + cᵀAc).

    Attributes:
        coefficients: e, b and the upper triangle of A, for genes scaled to [-1, 1].
        link: sigmoid for shares such as accuracies, identity for anything else.

    Source: Li et al. 2024, MAP: Low-compute Model Merging with Amortized Pareto Fronts via Quadratic Approximation,
    arXiv:2406.07529, section 3.
    """

    coefficients: Vector
    link: Link

    def __call__(self, genomes: Matrix) -> Vector:
        """Predicted values, shape [genomes]."""
        inner = _terms(genomes) @ self.coefficients
        return np.asarray(expit(inner) if self.link == "sigmoid" else inner)

    @classmethod
    def fit(cls, genomes: Matrix, values: Vector, errors: Vector, link: Link) -> Quadratic:
        """The least squares fit, each residual divided by its error.

        Fewer values than coefficients are no mistake: then those of the fits that are flatter win (`RIDGE`).

        Args:
            genomes: shape [answers, genes].
            values: shape [answers]; in [0, 1] for the sigmoid.
            errors: shape [answers], > 0.
        """
        terms, weights = _terms(genomes), 1 / errors
        weights = weights / np.sqrt(np.mean(weights**2))
        if link == "identity":
            middle, spread = float(np.average(values, weights=weights**2)), float(np.ptp(values)) or 1.0
            inner = _ridge(terms, (values - middle) / spread, weights) * spread
            inner[0] += middle
            return cls(inner, link)
        share = np.clip(values, LINEAR_PART, 1 - LINEAR_PART)
        begin = _ridge(terms, logit(share), weights * share * (1 - share))
        damping = np.sqrt(RIDGE) * np.eye(len(begin))[1:]

        def residuals(inner: Vector) -> Vector:
            return np.concatenate([weights * (expit(terms @ inner) - values), damping @ inner])

        def slopes(inner: Vector) -> Matrix:
            share = expit(terms @ inner)
            return np.vstack([(weights * share * (1 - share))[:, None] * terms, damping])

        return cls(np.asarray(least_squares(residuals, begin, jac=slopes, method="trf", max_nfev=50).x), link)


def _ridge(terms: Matrix, values: Vector, weights: Vector) -> Vector:
    """Weighted least squares; the constant is not damped."""
    damping = np.sqrt(RIDGE) * np.eye(terms.shape[1])[1:]
    rows = np.vstack([weights[:, None] * terms, damping])
    return np.asarray(np.linalg.lstsq(rows, np.concatenate([weights * values, np.zeros(len(damping))]), rcond=None)[0])
