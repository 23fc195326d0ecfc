"""Abilities of subjects whose items are known: expected a posteriori, maximum a posteriori, maximum likelihood.

K subjects, n items asked, N items in all, D dimensions, Q nodes.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, softmax

from fitness.irt.contracts import Places
from fitness.irt.two_parameter import LOG_WEIGHTS, NODES, ItemParameters
from fitness.matrix import Floats

MAP_STEPS = 25
STEP_NORM = 2.0


def log_likelihoods(items: ItemParameters, places: Places, answers: Floats) -> Floats:
    """[K, Q] of the answers [K, n] to some items of a one-dimensional model, at the quadrature nodes."""
    z = items.a[places, :1] * NODES - items.beta[places, None]
    return np.asarray(answers @ z - np.logaddexp(0.0, z).sum(axis=0))


def posteriors(items: ItemParameters, places: Places, answers: Floats) -> Floats:
    """[K, Q] of ability at the quadrature nodes, under θ ~ N(0, 1)."""
    return np.asarray(softmax(log_likelihoods(items, places, answers) + LOG_WEIGHTS, axis=1))


def eap(items: ItemParameters, places: Places, answers: Floats) -> tuple[Floats, Floats]:
    """Expected a posteriori abilities [K] and their standard errors [K] (Bock and Mislevy 1982)."""
    posterior = posteriors(items, places, answers)
    theta = posterior @ NODES
    return theta, np.sqrt(np.maximum(posterior @ NODES**2 - theta**2, 0.0))


def map_abilities(items: ItemParameters, places: Places, answers: Floats) -> tuple[Floats, Floats]:
    """Most probable abilities [K, D] under θ ~ N(0, I), and their Laplace covariances [K, D, D], by Newton's method."""
    a, beta = items.a[places], items.beta[places]
    theta, identity = np.zeros((len(answers), a.shape[1])), np.eye(a.shape[1])
    for _ in range(MAP_STEPS):
        p = expit(theta @ a.T - beta)
        gradient = (answers - p) @ a - theta
        curvature = np.einsum("kn,nd,ne->kde", p * (1 - p), a, a, optimize=True) + identity
        step = np.linalg.solve(curvature, gradient[:, :, None])[:, :, 0]
        norm = np.linalg.norm(step, axis=1, keepdims=True)
        theta = theta + step * np.minimum(1.0, STEP_NORM / np.maximum(norm, 1e-300))
        if norm.max(initial=0.0) < 1e-9:
            break
    p = expit(theta @ a.T - beta)
    curvature = np.einsum("kn,nd,ne->kde", p * (1 - p), a, a, optimize=True) + identity
    return theta, np.linalg.inv(curvature)


EPSILON = 1e-10
"""Added inside the logarithms of the unpenalised likelihood, as published; all that ends its ascent when answers can be
separated."""


def ml_abilities(items: ItemParameters, places: Places, answers: Floats) -> Floats:
    """Most likely abilities [K, D] without a prior, by BFGS from 0 as tinyBenchmarks has it (Polo et al. 2024).

    With more dimensions than the answers can tell apart they run away; that belongs to the published estimators.
    """
    a, beta = items.a[places], items.beta[places]

    def likelihood(theta: Floats, y: Floats) -> tuple[float, Floats]:
        p = expit(a @ theta - beta)
        value = -float(y @ np.log(p + EPSILON) + (1 - y) @ np.log(1 - p + EPSILON))
        by_p = (1 - y) / (1 - p + EPSILON) - y / (p + EPSILON)
        return value, np.asarray((by_p * p * (1 - p)) @ a)

    start = np.zeros(a.shape[1])
    found = [minimize(likelihood, start, args=(y,), jac=True, method="BFGS").x for y in answers]
    return np.array(found).reshape(len(answers), a.shape[1])
