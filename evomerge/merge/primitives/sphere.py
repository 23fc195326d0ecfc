"""Means on the sphere. All of them lie in the span of the points, so that the inner products (Gram matrix) are all that
is needed of the points: one pass over the tensors, whatever the number of steps.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_PARALLEL = 1e-13
"""sin² of the angle up to which two directions count as one: the inner products are not more exact."""
_CANCELLED = 1e-7
"""Length of a weighted sum of directions, over the sum of the weights' magnitudes, up to which it is rounding alone:
the root of what is left of inner products that cancel."""


def units(gram: Floats, least: float) -> tuple[Floats, Floats]:
    """Norms, and the Gram matrix of the unit vectors; zero for vectors whose norm is not above `least`.

    Args:
        gram: [n, n], inner products of n vectors.
    """
    norms = np.sqrt(np.diag(gram).clip(min=0))
    usable = np.where(norms > least, norms, np.inf)
    cosines = (gram / usable[:, None] / usable[None, :]).clip(-1, 1)
    np.fill_diagonal(cosines, (norms > least).astype(np.float64))
    return norms, cosines


def karcher(gram: Floats, weights: Floats, max_iter: int, tol: float) -> Floats:
    """Coefficients c of the mean Σ c·θ: the point of the sphere whose squared angles to all directions have the least
    weighted sum, times the weighted mean norm.

    Args:
        gram: [n, n], inner products of the points.
        weights: [n], not negative, of sum 1.
        max_iter, tol: steps, and length of a step, after which to stop; vectors shorter than `tol` have no direction.

    Returns:
        [n]; zeros where no point has a direction.

    Source: Karcher 1977, doi:10.1002/cpa.3160300502; the iteration u ← exp_u(Σ w log_u(u_k)).
    """
    norms, cosines = units(gram, tol)
    usable = np.diag(cosines) > 0
    if not (weights * usable).sum() > 0:
        return np.zeros_like(weights)
    share = weights * usable / (weights * usable).sum()
    mean = share.copy()  # in coordinates: Σ mean[k]·u_k
    length = _length(mean, cosines)
    mean = mean / length if length >= max(tol, _CANCELLED) else np.eye(len(share))[int(np.argmax(usable))]
    for _ in range(max_iter):
        step = _tangent(mean, share, cosines, tol)
        length = _length(step, cosines)
        if length < tol or length == 0:
            break
        mean = math.cos(length) * mean + math.sin(length) / length * step
        mean = mean / _length(mean, cosines)
    found: Floats = float(weights @ norms) * mean / np.where(usable, norms, np.inf)
    return found


def _tangent(mean: Floats, share: Floats, cosines: Floats, tol: float) -> Floats:
    """Σ w log_mean(u_k). Directions that equal the mean, or lie opposite, have no logarithm: they add nothing."""
    dots = (cosines @ mean).clip(-1, 1)
    step = np.zeros_like(mean)
    for k, dot in enumerate(dots):
        angle = math.acos(dot)
        if share[k] > 0 and angle >= tol and 1 - dot * dot > _PARALLEL:
            along = -dot * mean
            along[k] += 1
            step += share[k] * angle / math.sin(angle) * along
    return step


def normalised_mean(gram: Floats, weights: Floats, eps: float) -> Floats | None:
    """Coefficients of the direction of Σ w·θ/‖θ‖ times Σ w‖θ‖, or None where the weighted directions cancel.

    This is what barycentric interpolation in the tangent space at the normalised mean comes to: the tangents there add
    up to zero by the very choice of the point.

    Source: Goddard 2025, Multi-SLERP, https://goddard.blog/posts/multislerp-wow-what-a-cool-idea.
    """
    norms, cosines = units(gram, 0.0)
    if not norms.any():
        return np.zeros_like(weights)
    length = _length(weights, cosines)
    if length < max(eps, _CANCELLED * float(np.abs(weights).sum())):
        return None
    return float(weights @ norms) / length * weights / np.where(norms > 0, norms, np.inf)


def _length(coordinates: Floats, cosines: Floats) -> float:
    return math.sqrt(max(float(coordinates @ cosines @ coordinates), 0.0))
