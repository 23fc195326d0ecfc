"""The two-parameter logistic model of items, fitted by marginal maximum likelihood.

P(subject m answers item i right) = sigmoid(a_i θ_m − β_i), θ ~ N(0, 1). Responses in (0, 1) enter by the fractional
Bernoulli likelihood (Papke and Wooldridge 1996). M subjects, N items, Q quadrature nodes.

Sources: Birnbaum 1968 (model); Bock and Aitkin 1981, Psychometrika 46 (EM); Mislevy 1986, Psychometrika 51 (priors).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit, softmax

from evomerge.errors import InvalidInputError
from fitness.matrix import Floats, ResponseMatrix

NODES: Floats = np.linspace(-6.0, 6.0, 121)
"""Abilities at which integrals over θ are taken. Evenly spaced, for the trapezoid rule is all but exact as long as
nodes are no further apart than a posterior is wide; 41 Gauss-Hermite nodes lie a third apart, and a subject that
answered a thousand items has a posterior a fifth as wide: it would fall on one node or another."""

LOG_WEIGHTS: Floats = -(NODES**2) / 2 - np.log(np.exp(-(NODES**2) / 2).sum())
"""Of the nodes under θ ~ N(0, 1)."""

ITERATIONS = 25
SPREAD_LOG_A = 0.5
SPREAD_BETA = 2.0
LOG_A = (-3.0, 2.0)
"""Bounds of log a: a bank of a few subjects says nothing of how steep an item is beyond that."""

PRIOR_SUBJECTS = 10
"""The mean of log a is drawn to 0 as if so many subjects had shown it; without that, few subjects' abilities and the
slopes drive each other apart."""


@dataclass(frozen=True, slots=True)
class ItemParameters:
    """z = a·θ − β, and nothing else: other texts scale or sign β otherwise.

    Attributes:
        a: [N, D] discriminations.
        beta: [N].
    """

    a: Floats
    beta: Floats

    def probabilities(self, theta: Floats) -> Floats:
        """[K, N] of a right answer, or expected responses, at abilities [K, D]."""
        return np.asarray(expit(theta @ self.a.T - self.beta))


def fit_two_parameter(matrix: ResponseMatrix, iterations: int = ITERATIONS) -> ItemParameters:
    """Items of the one-dimensional model by EM under priors log a ~ N(mean, 0.5²), β ~ N(mean, 2²).

    Both means are those of the items. NaN has no weight. Items that everyone answered alike are held by the priors: in
    a bank of four they are every other item, and without slopes they would tell nothing of better subjects.

    Raises:
        InvalidInputError: no subjects, or responses outside of [0, 1].
    """
    y, asked = check_unit(matrix)
    a, beta = _fit(y, asked, iterations)
    return ItemParameters(a[:, None], beta)


def check_unit(matrix: ResponseMatrix) -> tuple[Floats, Floats]:
    """[M, N] responses with 0 for what was not asked, [M, N] 1 where it was.

    Raises:
        InvalidInputError: no subjects, or responses outside of [0, 1].
    """
    values = matrix.values
    if len(values) == 0:
        raise InvalidInputError("bank", "no subjects", "at least one subject that answered the items")
    if np.nanmin(values, initial=0.0) < 0 or np.nanmax(values, initial=1.0) > 1:
        raise InvalidInputError("bank", "responses outside of [0, 1]", "a bounded metric, brought to [0, 1]")
    asked = (~np.isnan(values)).astype(np.float64)
    return np.where(asked > 0, values, 0.0), asked


def _fit(y: Floats, asked: Floats, iterations: int) -> tuple[Floats, Floats]:
    subjects = len(y)
    log_a, beta = np.zeros(y.shape[1]), -logit((y.sum(axis=0) + 0.5) / (asked.sum(axis=0) + 1))
    furthest = np.log(2 * subjects + 1)  # β of an item that all answered alike; where all are such, the mean would run
    for _ in range(iterations):
        z = np.exp(log_a)[:, None] * NODES - beta[:, None]
        posterior = softmax(y @ z - asked @ np.logaddexp(0.0, z) + LOG_WEIGHTS, axis=1)
        right, total = y.T @ posterior, asked.T @ posterior  # [N, Q] expected at each node
        # One Newton step an iteration: more bring the M-step's optimum nearer, and EM's no sooner.
        mean_log_a = log_a.mean() * subjects / (subjects + PRIOR_SUBJECTS)
        log_a, beta = _newton_step(log_a, beta, right, total, (mean_log_a, np.clip(beta.mean(), -furthest, furthest)))
    return np.exp(log_a), beta


def _newton_step(
    log_a: Floats, beta: Floats, right: Floats, total: Floats, means: tuple[float, float]
) -> tuple[Floats, Floats]:
    """One step of Fisher scoring for all items at once; the two unknowns of an item do not touch another's."""
    slope = np.exp(log_a)[:, None] * NODES  # ∂z/∂(log a); ∂z/∂β = −1
    p = expit(slope - beta[:, None])
    residual, information = right - total * p, total * p * (1 - p)
    gradient_a = (residual * slope).sum(axis=1) - (log_a - means[0]) / SPREAD_LOG_A**2
    gradient_b = -residual.sum(axis=1) - (beta - means[1]) / SPREAD_BETA**2
    aa = (information * slope**2).sum(axis=1) + SPREAD_LOG_A**-2
    bb = information.sum(axis=1) + SPREAD_BETA**-2
    ab = -(information * slope).sum(axis=1)
    det = aa * bb - ab**2
    step_a = np.clip((bb * gradient_a - ab * gradient_b) / det, -0.5, 0.5)
    step_b = np.clip((aa * gradient_b - ab * gradient_a) / det, -1.0, 1.0)
    return np.clip(log_a + step_a, *LOG_A), beta + step_b
