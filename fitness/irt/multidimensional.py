"""The multidimensional two-parameter model, P = sigmoid(a_i·θ_m − β_i), fitted by maximum a posteriori.

M subjects, N items, D dimensions; priors θ ~ N(0, I), a ~ N(0, I), β ~ N(mean, 2²). Sources: Reckase 2009,
Multidimensional Item Response Theory, ch. 4; Polo et al. 2024 (tinyBenchmarks, arXiv:2402.14992), who fit the same
likelihood by variational inference under a hierarchy of priors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from evomerge.errors import InvalidInputError
from fitness.irt.two_parameter import SPREAD_BETA, ItemParameters, check_unit
from fitness.matrix import Floats, ResponseMatrix

DIMENSIONS = 3
ITERATIONS = 40
LEAST_SUBJECTS = 64
"""Below this, more than one dimension ranks subjects worse than the plain mean of their answers."""


def fit_multidimensional(
    matrix: ResponseMatrix, dimensions: int = DIMENSIONS, *, iterations: int = ITERATIONS, force: bool = False
) -> ItemParameters:
    """Items by L-BFGS over all parameters at once, from a singular value decomposition, with abilities whitened.

    Args:
        force: fit to fewer subjects than `LEAST_SUBJECTS`, for comparisons.

    Raises:
        InvalidInputError: too few subjects, responses outside of [0, 1], or dimensions below 1.
    """
    y, asked = check_unit(matrix)
    if dimensions < 1:
        raise InvalidInputError("dimensions", dimensions, "at least 1")
    if len(y) < LEAST_SUBJECTS and not force:
        raise InvalidInputError("bank", len(y), f"{LEAST_SUBJECTS} subjects or more, for several dimensions")
    return ItemParameters(*_fit(y, asked, dimensions, iterations))


def _fit(y: Floats, asked: Floats, dimensions: int, iterations: int) -> tuple[Floats, Floats]:
    theta, a, beta = _start(y, asked, dimensions)
    parts = (theta.size, theta.size + a.size)

    def unpack(x: Floats) -> tuple[Floats, Floats, Floats]:
        return x[: parts[0]].reshape(theta.shape), x[parts[0] : parts[1]].reshape(a.shape), x[parts[1] :]

    def loss(x: Floats) -> tuple[float, Floats]:
        theta, a, beta = unpack(x)
        z, centred = theta @ a.T - beta, beta - beta.mean()
        value = float((asked * np.logaddexp(0.0, z) - y * z).sum())
        value += float((theta**2).sum() + (a**2).sum() + (centred**2).sum() / SPREAD_BETA**2) / 2
        residual = asked * expit(z) - y
        by_beta = -residual.sum(axis=0) + centred / SPREAD_BETA**2
        by = (residual @ a + theta, residual.T @ theta + a, by_beta)
        return value, np.concatenate([part.ravel() for part in by])

    start = np.concatenate([theta.ravel(), a.ravel(), beta])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": iterations})
    return _whitened(*unpack(found.x))


def _start(y: Floats, asked: Floats, dimensions: int) -> tuple[Floats, Floats, Floats]:
    """(θ, a, β) from the largest singular values of the centred responses; those beyond their rank start at 0."""
    mean = y.sum(axis=0) / np.maximum(asked.sum(axis=0), 1)
    left, values, right = np.linalg.svd(np.where(asked > 0, y - mean, 0.0), full_matrices=False)
    left, right = _signed(left[:, :dimensions], right[:dimensions])
    root = np.sqrt(len(y))
    theta, a = np.zeros((len(y), dimensions)), np.zeros((y.shape[1], dimensions))
    theta[:, : left.shape[1]] = left * root
    a[:, : left.shape[1]] = 4 * (right * values[: len(right), None] / root).T  # ∂z/∂p = 1 / p (1 − p) ≥ 4
    return theta, a, np.asarray(-logit(np.clip(mean, 0.02, 0.98)))


def _signed(left: Floats, right: Floats) -> tuple[Floats, Floats]:
    """Singular vectors of one sign, whatever the library that found them: most items get a positive discrimination."""
    signs = np.where(right.sum(axis=1) < 0, -1.0, 1.0)
    return left * signs, right * signs[:, None]


def _whitened(theta: Floats, a: Floats, beta: Floats) -> tuple[Floats, Floats]:
    """a and β of the same model with abilities of mean 0 and covariance I (directions without any are left)."""
    centre = theta.mean(axis=0)
    spread, axes = np.linalg.eigh(np.atleast_2d(np.cov(theta.T, bias=True)))
    root: NDArray[np.float64] = axes * np.sqrt(np.maximum(spread, 1e-12)) @ axes.T
    return a @ root, beta - a @ centre
