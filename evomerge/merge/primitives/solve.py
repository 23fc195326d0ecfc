"""Least squares over Gram matrices: one solver for RegMean, MaTS, WUDI, OptMerge and their kin.

What they have in common: each source i says how much an error matters along each input (a Gram matrix Gᵢ) and, for
some, along each output (Hᵢ), and the merged matrix is the least costly compromise between targets Mᵢ:

    argmin_X Σᵢ tr( Hᵢ (X − Mᵢ) Gᵢ (X − Mᵢ)ᵀ )        ⇔        Σᵢ Hᵢ (X − Mᵢ) Gᵢ = 0

| Mᵢ | Gᵢ (in × in) | Hᵢ (out × out) | gives |
|---|---|---|---|
| Wᵢ | XᵢᵀXᵢ of inputs | - | RegMean |
| Wᵢ | XᵢᵀXᵢ of inputs | Gram matrix of output gradients | MaTS |
| τᵢ | τᵢᵀτᵢ / ‖τᵢ‖² | - | WUDI |
| denoised τᵢ | the same of their main directions | - | OptMerge |

Without H the eigenvectors of Σ Gᵢ solve it in closed form, and a filter says to which degree along each of them: the
directions in which the sources say little would otherwise amplify noise. Along the rest the initial value stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from evomerge.merge.primitives.aggregate import sum_of
from evomerge.merge.primitives.spectral import eigen_in_place

# o rows (outputs), i columns (inputs)

Filter = Callable[[Tensor], Tensor]
"""Eigenvalues l ≥ 0 of Σ Gᵢ, rising, float64, shape [in] → the degree in [0, 1] to which each direction is solved."""


def gram_solve(
    grams: Iterable[Tensor],
    targets: Iterable[Tensor],
    *,
    outs: Sequence[Tensor] | None = None,
    initial: Tensor | None = None,
    degree: Filter | None = None,
    steps: int = 100,
) -> Tensor:
    """argmin_X Σᵢ tr( Hᵢ (X − Mᵢ) Gᵢ (X − Mᵢ)ᵀ ), computed in float64.

    Weights of sources, shrinkage of off-diagonals and the like are the caller's: they belong into Gᵢ.

    Args:
        grams: Gᵢ, symmetric positive semidefinite, [in, in], any float dtype; at least one. Without `outs` they and
            the targets are read once, in step with each other, so a generator need hold one at a time.
        targets: Mᵢ, [out, in], as many.
        outs: Hᵢ, symmetric positive semidefinite, [out, out], as many; None: identities.
        initial: X₀, [out, in]; None: zeros. Kept along directions that nothing determines.
        degree: without `outs`: how far to go from X₀ to the least-squares solution along each eigenvector of Σ Gᵢ;
            None: all the way where the eigenvalue is not numerically zero (the pseudo-inverse).
        steps: with `outs`: conjugate-gradient steps from X₀, at most. Few steps regularise: X stays near X₀.

    Returns:
        X, [out, in], float32, on the targets' device.

    Raises:
        ValueError: shapes that do not fit, or no source at all.

    Source: closed form: Jin et al. 2023, RegMean, arXiv:2212.09849; conjugate gradient: Tam et al. 2023, MaTS,
    arXiv:2312.04339.
    """
    if outs is not None:
        return _conjugate_gradient(list(grams), list(targets), list(outs), initial, steps).float()
    gram, pull, precision = _accumulated(grams, targets)
    # what the start leaves of the gradient
    rest = pull if initial is None else pull.addmm_(initial.double(), gram, alpha=-1)
    vectors, values = eigen_in_place(gram)
    values.clamp_(min=0)
    significant = values > len(values) * precision * values[-1]
    shares = torch.ones_like(values) if degree is None else degree(values)
    inverse = torch.where(significant, shares / values.where(significant, torch.ones_like(values)), 0.0)
    turned = (rest @ vectors).mul_(inverse)
    found = torch.matmul(turned, vectors.t(), out=rest)
    return (found if initial is None else found.add_(initial)).float()


def _accumulated(grams: Iterable[Tensor], targets: Iterable[Tensor]) -> tuple[Tensor, Tensor, float]:
    """Σ Gᵢ, Σ Mᵢ Gᵢ, and the relative precision that the Gram matrices have."""
    total: Tensor | None = None
    pull: Tensor | None = None
    precision = torch.finfo(torch.float64).eps
    given, wanted = iter(grams), iter(targets)
    while (
        gram := next(given, None)
    ) is not None:  # no `for`, no `zip`: they keep the last one until they have the next
        target = next(wanted, None)
        if target is None:
            raise ValueError("fewer targets than Gram matrices: expected as many")
        _check_shapes(gram, target)
        precision = max(precision, torch.finfo(gram.dtype).eps)
        wide = gram.double()
        if total is None or pull is None:
            total, pull = wide.clone() if wide is gram else wide, target.double() @ wide
        else:
            total.add_(wide)
            pull.addmm_(target.double(), wide)
        del gram, wide, target
    if total is None or pull is None:
        raise ValueError("no Gram matrix: expected at least one source")
    if next(wanted, None) is not None:
        raise ValueError("more targets than Gram matrices: expected as many")
    return total, pull, precision


def _check_shapes(gram: Tensor, target: Tensor, out: Tensor | None = None) -> None:
    o, i = target.shape
    if gram.shape != (i, i) or (out is not None and out.shape != (o, o)):
        given = f"G {tuple(gram.shape)}, M {tuple(target.shape)}" + (
            f", H {tuple(out.shape)}" if out is not None else ""
        )
        raise ValueError(f"{given}: expected G [in, in], M [out, in] and H [out, out]")


def _conjugate_gradient(
    grams: Sequence[Tensor], targets: Sequence[Tensor], outs: Sequence[Tensor], initial: Tensor | None, steps: int
) -> Tensor:
    """Σ H X G = Σ H M G for X, from X₀; the operator is never written out."""
    if not grams:
        raise ValueError("no Gram matrix: expected at least one source")
    for gram, target, out in zip(grams, targets, outs, strict=True):
        _check_shapes(gram, target, out)
    pairs = [(out.double(), gram.double()) for out, gram in zip(outs, grams, strict=True)]

    def apply(x: Tensor) -> Tensor:
        result = pairs[0][0] @ x @ pairs[0][1]
        for out, gram in pairs[1:]:
            result.add_(out @ x @ gram)
        return result

    pull = sum_of([out @ m.double() @ gram for (out, gram), m in zip(pairs, targets, strict=True)])
    x = torch.zeros_like(pull) if initial is None else initial.double().clone()
    residual = pull - apply(x)
    direction = residual.clone()
    power = _square(residual)
    enough = (torch.finfo(torch.float64).eps * math.sqrt(_square(pull))) ** 2
    for _ in range(steps):
        if power <= enough:
            break
        applied = apply(direction)
        curvature = float((direction * applied).sum())
        if curvature <= 0:  # a direction that no source cares about: nothing to gain
            break
        x.add_(direction, alpha=power / curvature)
        residual.sub_(applied, alpha=power / curvature)
        before, power = power, _square(residual)
        direction.mul_(power / before).add_(residual)
    return x


def _square(x: Tensor) -> float:
    return float((x * x).sum())


def tikhonov(alpha: float) -> Filter:
    """f = l / (l + α): the minimiser of the objective + α ‖X − X₀‖². α > 0, in the unit of the eigenvalues."""
    return lambda values: values / (values + alpha)


def landweber(rate: float, steps: int) -> Filter:
    """f = 1 − (1 − ηl)ⁿ: n steps of gradient descent from X₀ at rate η; converges where η < 2 / max l."""
    return lambda values: 1 - torch.pow(1 - rate * values, steps)


def exponential(time: float) -> Filter:
    """f = 1 − exp(−l t): gradient descent from X₀ in the limit of small steps, for a time t ≥ 0."""
    return lambda values: -torch.expm1(-values * time)


def largest(share: float, then: Filter | None = None) -> Filter:
    """1 (or another filter) for the largest `share` of the eigenvalues, rounded up, 0 for the rest. share ∈ (0, 1]."""

    def degree(values: Tensor) -> Tensor:
        count = max(1, math.ceil(share * len(values) - 1e-9))
        return _keep_largest(values, count, then)

    return degree


def participating(then: Filter | None = None) -> Filter:
    """1 (or another filter) for the first k eigenvalues, k the participation ratio (Σ√l)² / Σ l of their roots."""

    def degree(values: Tensor) -> Tensor:
        total = float(values.sum())
        count = math.ceil(float(values.sqrt().sum()) ** 2 / total - 1e-9) if total > 0 else 1
        return _keep_largest(values, max(1, count), then)

    return degree


def above_noise(aspect: float, then: Filter | None = None) -> Filter:
    """1 (or another filter) for eigenvalues whose root exceeds Gavish and Donoho's threshold ω(β) · median of the
    roots: singular values of a low-rank matrix in white noise of unknown level. At least one survives.

    Args:
        aspect: β ∈ (0, 1]: short over long side of the matrix whose singular values the roots are.

    Source: Gavish and Donoho 2014, The optimal hard threshold for singular values is 4/√3, arXiv:1305.5870, for
    noise of unknown level. (The code of ASWUDI's authors has another constant in place of √μ_β.)
    """

    def degree(values: Tensor) -> Tensor:
        roots = values.sqrt()
        nonzero = roots[values > len(values) * torch.finfo(values.dtype).eps * values[-1]]
        threshold = noise_factor(aspect) * float(nonzero.quantile(0.5)) if len(nonzero) else 0.0
        return _keep_largest(values, max(1, int((roots > threshold).sum())), then)

    return degree


def noise_factor(aspect: float) -> float:
    """ω(β) = λ*(β) / √μ_β with μ_β the median of the Marčenko–Pastur distribution.

    >>> round(noise_factor(1.0), 3), round(noise_factor(0.5), 3)
    (2.858, 2.171)
    """
    b = aspect
    best = math.sqrt(2 * (b + 1) + 8 * b / (b + 1 + math.sqrt(b * b + 14 * b + 1)))  # λ*(β)
    return best / math.sqrt(_marchenko_pastur_median(b))


def _marchenko_pastur_median(aspect: float) -> float:
    """μ with half of the density √((b − x)(x − a)) / (2π β x) below it, a, b = (1 ∓ √β)²; by the midpoint rule in the
    angle of x = mid − half·cos φ, in which the density has no singular ends."""
    half, mid = 2 * math.sqrt(aspect), 1 + aspect
    angles = (torch.arange(20000, dtype=torch.float64) + 0.5) * (math.pi / 20000)
    masses = (half * angles.sin()) ** 2 / (mid - half * angles.cos())
    below = masses.cumsum(0)
    at = int(torch.searchsorted(below, float(below[-1]) / 2))
    share = (float(below[-1]) / 2 - float(below[at - 1])) / float(masses[at])  # of the cell that holds the median
    return mid - half * math.cos((at + share) * math.pi / len(angles))


def _keep_largest(values: Tensor, count: int, then: Filter | None) -> Tensor:
    degree = torch.ones_like(values) if then is None else then(values)
    degree = degree.clone()
    degree[: max(0, len(values) - count)] = 0
    return degree
