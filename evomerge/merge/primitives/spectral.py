"""Singular values and vectors by the cheapest exact route, and what the spectral methods do with them.

`svd` takes the eigenvectors of the smaller Gram matrix in float64. That squares the condition number: a singular value
σ comes out with a relative error near ε₆₄ (σ₁/σ)², so what lies under 10⁻⁴ σ₁ is split off and decomposed again on its
own, where it is large. Two rounds reach 10⁻⁸ σ₁: below the rounding of float32 input (6·10⁻⁸), where LAPACK's float32
routine already errs by 10⁻⁷ σ₁ in every singular value. Factors are orthonormal to float32 in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# o rows (outputs), i columns (inputs), k singular triples

_SPLIT = 1e-4
"""Singular values below this share of the largest are computed on their own."""
_ZERO = 1e-8
"""Singular values below this share of the largest count as 0: float32 input is not known that well."""


_AT_A_TIME = 256
"""Columns that are held in float64 at a time."""
_NOISE = 1e-7
"""The same where one round has to do: the root of what rounding leaves of zeros in a float64 Gram matrix is below."""

SpectrumMap = Callable[[Tensor], Tensor]
"""Singular values, falling → what replaces them, of the same length."""


@dataclass(frozen=True, slots=True)
class Svd:
    """A matrix as Σ σ u vᵀ, largest σ first.

    Attributes:
        left: u, orthonormal columns, [o, k], float32.
        values: σ ≥ 0, falling, [k], float64.
        right: v, orthonormal rows, [k, i], float32.
    """

    left: Tensor
    values: Tensor
    right: Tensor

    def with_values(self, values: Tensor) -> Svd:
        """The same directions under other singular values."""
        return Svd(self.left, values, self.right)

    def first(self, count: int) -> Svd:
        """The largest `count` components."""
        return Svd(self.left[:, :count], self.values[:count], self.right[:count])

    @property
    def matrix(self) -> Tensor:
        """Σ σ u vᵀ, [o, i], float32; components with σ = 0 cost nothing."""
        used = int(torch.count_nonzero(self.values))
        if used < len(self.values):
            kept = self.values.nonzero().flatten()
            return Svd(self.left[:, kept], self.values[kept], self.right[kept]).matrix if used else self._zeros
        return (self.left * self.values.to(self.left.dtype)) @ self.right

    @property
    def _zeros(self) -> Tensor:
        return self.left.new_zeros(self.left.shape[0], self.right.shape[1])


def svd(matrix: Tensor, *, count: int | None = None, complete: bool = False) -> Svd:
    """The singular value decomposition of a float32 matrix.

    Args:
        matrix: [o, i].
        count: the largest so many components are enough.
        complete: fill up to min(o, i) components with σ = 0 and some orthonormal directions; otherwise components
            below 10⁻⁸ σ₁ are left out (there may be none at all).

    Returns:
        Singular values to 10⁻⁸ σ₁; signs of the vectors are arbitrary but the same in every run.
    """
    if matrix.shape[0] > matrix.shape[1]:
        turned = svd(matrix.t(), count=count, complete=complete)
        return Svd(turned.right.t(), turned.values, turned.left.t())
    left, values, right = _split(matrix, len(matrix) if count is None else count)
    missing = len(matrix) - len(values)
    if complete and missing:
        left, right = _completed(left.double(), missing).float(), _completed(right.t().double(), missing).t().float()
        values = torch.cat([values, values.new_zeros(missing)])
    return Svd(left, values, right)


def _split(matrix: Tensor, wanted: int) -> tuple[Tensor, Tensor, Tensor]:
    """Left vectors, values and right vectors of a wide matrix, in two rounds; zeros left out.

    Vectors are found in float64 and kept in float32; products go a few columns at a time.
    """
    vectors, rising = gram_eigen([matrix])
    values = rising.flip(0)
    top = float(values[0]) if len(values) else 0.0
    wanted = min(wanted, len(matrix))
    strong = min(wanted, int((values > _SPLIT * top).sum()))
    others, basis = vectors[:, : len(matrix) - strong], vectors[:, len(matrix) - strong :]
    left, right = basis.float().flip(1), matrix.new_empty(strong, matrix.shape[1])
    for columns in _columns(matrix):
        right[:, columns] = (basis.t() @ matrix[:, columns].double()).flip(0).div_(values[:strong, None])
    if strong == wanted or top == 0:
        return left, values[:strong], right
    weak = torch.empty(others.shape[1], matrix.shape[1], dtype=torch.float64, device=matrix.device)
    for columns in _columns(matrix):
        weak[:, columns] = others.t() @ matrix[:, columns].double()
    others = others.float()
    del vectors, basis
    return _joined(left, values[:strong], right, others, weak, wanted - strong, _ZERO * top)


def _joined(
    left: Tensor, values: Tensor, right: Tensor, others: Tensor, weak: Tensor, wanted: int, least: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The strong components and those of what is left without them.

    Args:
        others: left vectors beside `left`, that is, of the weak components and of zeros.
        weak: othersᵀ · matrix, float64; overwritten.
    """
    shares = weak.new_zeros(len(weak), len(right))
    for columns in _columns(weak):
        shares.addmm_(weak[:, columns], right[:, columns].t().double())
    for columns in _columns(weak):  # what rounding has left of the strong directions
        weak[:, columns] -= shares @ right[:, columns].double()
    vectors, rising = gram_eigen([weak])
    small = rising.flip(0)
    count = min(wanted, int((small > least).sum()))
    turn, small = vectors[:, len(small) - count :].flip(1), small[:count]
    whole = right.new_empty(len(right) + count, right.shape[1])
    whole[: len(right)] = right
    for columns in _columns(weak):
        whole[len(right) :, columns] = (turn.t() @ weak[:, columns]).div_(small[:, None])
    turned = left.new_empty(len(left), count)
    for rows in _columns(left.t()):
        turned[rows] = others[rows].double() @ turn
    return torch.cat([left, turned], dim=1), torch.cat([values, small]), whole


def _columns(matrix: Tensor) -> Iterator[slice]:
    """A few columns at a time."""
    return (slice(begin, begin + _AT_A_TIME) for begin in range(0, matrix.shape[1], _AT_A_TIME))


def gram_eigen(matrices: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Eigenvectors of Σ M Mᵀ and the roots of its eigenvalues, in float64, smallest first."""
    vectors, values = eigen_in_place(gram(matrices))
    return vectors, values.clamp_(min=0).sqrt_()


def eigen_in_place(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors (columns) and eigenvalues, rising, of a symmetric matrix, in whose memory the vectors come to lie.

    LAPACK needs two more such matrices while it works; a copy would be a third.
    """
    turned = symmetric.t()  # column by column, as LAPACK has it
    values = symmetric.new_empty(len(symmetric))
    torch.linalg.eigh(turned, out=(values, turned))
    return turned, values


def gram(matrices: Iterable[Tensor]) -> Tensor:
    """Σ M Mᵀ in float64, a few columns at a time."""
    total: Tensor | None = None
    for matrix in matrices:
        if total is None:
            total = torch.zeros(len(matrix), len(matrix), dtype=torch.float64, device=matrix.device)
        for columns in _columns(matrix):
            wide = matrix[:, columns].double()
            total.addmm_(wide, wide.t())
    assert total is not None, "at least one matrix"
    return total


def _completed(columns: Tensor, missing: int) -> Tensor:
    """Orthonormal columns and `missing` more that are orthonormal to them."""
    size, have = columns.shape
    padded = torch.cat([columns, columns.new_zeros(size, missing)], dim=1)
    padded[:missing, have:] = torch.eye(missing, dtype=columns.dtype, device=columns.device)
    return torch.cat([columns, torch.linalg.qr(padded)[0][:, have:]], dim=1)


def remapped(matrix: Tensor, change: SpectrumMap) -> Tensor:
    """U g(σ) Vᵀ for maps g that keep, drop or scale singular values: U (g(σ)/σ) Uᵀ times the matrix, so that V is never
    computed. A map that lifts small ones needs `svd`: g(σ)/σ would amplify rounding.

    Args:
        matrix: [o, i], float32.
        change: g.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return remapped(matrix.t(), change).t()
    vectors, rising = gram_eigen([matrix])
    values = rising.flip(0)
    values = values * (values > _NOISE * values[:1])
    changed = change(values)
    kept = changed.nonzero().flatten()
    if not len(kept):
        return torch.zeros_like(matrix)
    basis = vectors[:, len(values) - 1 - kept].float()
    del vectors
    shares = (changed[kept] / values[kept]).float()
    return basis @ (basis.t() @ matrix).mul_(shares[:, None])


def common_directions(matrices: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Left singular vectors and singular values of matrices side by side, without putting them there.

    Args:
        matrices: [o, any], at least one.

    Returns:
        U, orthonormal columns, [o, k], float32; σ falling, [k], float64; what is below 10⁻⁷ σ₁ is left out.
    """
    vectors, rising = gram_eigen(matrices)
    values = rising.flip(0)
    count = int((values > _NOISE * values[:1]).sum())
    return vectors[:, len(values) - count :].float().flip(1), values[:count]


def common_values(matrices: Sequence[Tensor]) -> Tensor:
    """The singular values alone, [o], float64: those of nothing else than rounding are 0."""
    eigenvalues: Tensor = torch.linalg.eigvalsh(gram(matrices))
    values = eigenvalues.flip(0).clamp_(min=0).sqrt_()
    return values * (values > _NOISE * values[:1])


def singular_values(matrix: Tensor) -> Tensor:
    """σ of a float32 matrix, falling, [min(o, i)], float64, to 10⁻⁷ σ₁; what is not above that is 0.

    A third of the work of `svd`: no vectors, one round.
    """
    return common_values([matrix if matrix.shape[0] <= matrix.shape[1] else matrix.t()])


def numerical_rank(values: Tensor, shape: Sequence[int]) -> int:
    """How many singular values exceed max(o, i) · ε₃₂ · σ₁: the others may be rounding alone.

    Args:
        values: σ, falling.
        shape: of the float32 matrix.
    """
    tolerance = max(shape) * torch.finfo(torch.float32).eps
    return int((values > tolerance * values[:1]).sum())


def polar(matrix: Tensor) -> Tensor:
    """The nearest partial isometry U Vᵀ, by the singular value decomposition; its rank is the numerical one.

    Where the matrix has full rank it is the polar factor: the nearest matrix with orthonormal rows or columns. In the
    null space, where any orthonormal completion would do as well, it is 0.
    """
    parts = svd(matrix)
    parts = parts.first(numerical_rank(parts.values, matrix.shape))
    return parts.left @ parts.right


def newton_schulz(matrix: Tensor, *, tolerance: float = 1e-6, steps: int = 60) -> Tensor:
    """The same partial isometry by matrix products alone: X ← 1.5 X − 0.5 X Xᵀ X, from X = M / ‖M‖.

    A singular value σ needs some log(‖M‖ / σ) / log 1.5 steps to grow to 1: dear for ill-conditioned matrices on a
    CPU, cheap on a GPU. Exact zeros stay zero.

    Args:
        matrix: [o, i], float32.
        tolerance: stop when a step changes the singular values by less, on average.
        steps: stop at the latest then.

    Source: Björck and Bowie 1971, An iterative algorithm for computing the best estimate of an orthogonal matrix,
    doi:10.1137/0708036.
    """
    x = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.t()
    norm = float(torch.linalg.matrix_norm(x))
    if norm == 0:
        return torch.zeros_like(matrix)
    x = x / norm
    for _ in range(steps):
        step = torch.addmm(x, x @ x.t(), x, beta=0.5, alpha=-0.5)  # the change: 0.5 X − 0.5 X Xᵀ X
        x = x + step
        if float(torch.linalg.matrix_norm(step)) <= tolerance * max(1.0, float(torch.linalg.matrix_norm(x))):
            break
    return x if matrix.shape[0] <= matrix.shape[1] else x.t()


def count_for(values: Tensor, share: float, power: int) -> int:
    """The least k with Σ_{j ≤ k} σⱼᵖ ≥ share · Σ σⱼᵖ: the nuclear norm's share for p = 1, the energy's for p = 2."""
    if not len(values):
        return 0
    below = (values**power).cumsum(0)
    return min(len(values), int(torch.searchsorted(below, share * below[-1])) + 1)


def effective_rank(values: Tensor) -> float:
    """exp of the entropy of σ / Σσ: between 1 and the number of singular values; 0 for a matrix of zeros.

    Source: Roy and Vetterli 2007, The effective rank, EUSIPCO.
    """
    total = float(values.sum())
    if total == 0:
        return 0.0
    return float(torch.special.entr(values / total).sum().exp())


def keep_first(values: Tensor, count: int) -> Tensor:
    """Zero all but the largest `count` singular values."""
    return torch.where(torch.arange(len(values), device=values.device) < count, values, 0.0)


def same_nuclear_norm(values: Tensor, as_in: Tensor) -> Tensor:
    """Scale singular values so that they sum to what `as_in` sums to.

    Source: Lee et al. 2025, STAR, arXiv:2502.10339.
    """
    total = values.sum()
    return values * (as_in.sum() / total) if float(total) else values


def flatten(values: Tensor, strength: float = 1.0) -> Tensor:
    """σ^(1 − ρ), scaled to the same sum: ρ = 0 is the identity, ρ = 1 gives every direction the mean.

    Source: Marczak et al. 2025, Iso-C, arXiv:2502.04959: ρ = 1; the strengths between are ours.
    """
    return same_nuclear_norm(values ** (1 - strength), as_in=values)


def lift(values: Tensor, share: float) -> Tensor:
    """max(σ, σ_k), k the first index whose cumulative share of Σσ reaches `share`: 1 is the identity, 0 gives every
    direction σ₁.

    Source: Skorobogat et al. 2025, Subspace Boosting, arXiv:2506.16506.
    """
    return values.clamp(min=float(values[count_for(values, share, 1) - 1])) if len(values) else values


def randomized_svd(matrix: Tensor, count: int, key: int, *, oversample: int = 8, passes: int = 2) -> Svd:
    """About the largest `count` components, from the matrix's action on a few random vectors.

    Args:
        matrix: [o, i], float32.
        count: components wanted, at least 1.
        key: of the test matrix, see `gaussian`.
        oversample: random vectors beyond `count`.
        passes: power iterations; each sharpens the gap between wanted and unwanted directions.

    Source: Halko, Martinsson and Tropp 2011, Finding structure with randomness, arXiv:0909.4061, algorithms 4.4, 5.1.
    """
    width = min(count + oversample, *matrix.shape)
    basis = torch.linalg.qr(matrix @ gaussian(key, matrix.shape[1], width).to(matrix.device))[0]
    for _ in range(passes):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.t() @ basis)[0])[0]
    small = svd(basis.t() @ matrix).first(count)
    return Svd(basis @ small.left, small.values, small.right)


def gaussian(key: int, rows: int, columns: int) -> Tensor:
    """Standard normal numbers that depend on the key and the shape alone: Philox-4x64 and Box–Muller. float32."""
    raw = np.random.Philox(key=key).random_raw(rows * columns).astype("<u8", copy=False).view("<u4").reshape(-1, 2)
    radius = np.sqrt(-2 * np.log((raw[:, 0] + 0.5) / 2**32))
    return torch.from_numpy((radius * np.cos(raw[:, 1] * (2 * np.pi / 2**32))).astype(np.float32)).view(rows, columns)
