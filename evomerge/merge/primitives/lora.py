"""Merging in the space of LoRA factors: means, prunings, rank-one units, shared bases. Pure functions of factors.

The mean of products is not the product of means: what is done to A and to B apart is not done to the task vectors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evomerge.models.factors import Factors, concatenated

# N sources, R rank, K units or components, I inputs, O outputs


def weighted_factors(factors: Mapping[str, Factors], weights: Mapping[str, float]) -> Factors:
    """A = Σ w·A and B = Σ w·B, in float64; all of one rank.

    Source: Caccia et al. 2022, Multi-Head Adapter Routing for Cross-Task Generalization (MHR-μ), arXiv:2211.03831;
    Fu et al. 2024, Disperse-Then-Merge, arXiv:2405.13432: the weighted mean of the adapters' state dicts.
    """
    A = sum((f.A.double() * weights[s] for s, f in factors.items()), torch.zeros(()))
    B = sum((f.B.double() * weights[s] for s, f in factors.items()), torch.zeros(()))
    return Factors(A.float(), B.float())


def keep_largest(factor: Tensor, count: int) -> Tensor:
    """The entries of a matrix whose magnitude is at least the count-th largest, zeros elsewhere; ties are kept."""
    if count >= factor.numel():
        return factor
    if count <= 0:
        return torch.zeros_like(factor)
    magnitude = factor.abs()
    bound = magnitude.reshape(-1).kthvalue(factor.numel() - count + 1).values
    return torch.where(magnitude >= bound, factor, 0.0)


def complementary(factors: Sequence[Factors], keep: float, attenuation: float, coefficient: float) -> Factors:
    """Prune every factor, let B's columns grow by what pruning took from A's rows, add up.

    With Ā, B̄ the pruned factors and s_i[k] = Σ|A_i[k,:]| / Σ|Ā_i[k,:]|, raised to at least its quantile 1 − attenuation
    within each source: A = c·Σ Ā_i, B = c·Σ s_i B̄_i / Σ s_i.

    A row of which nothing is left (the paper's ratio is then 0/0 or infinite) counts with the least ratio that its
    source has elsewhere, 1 where it has none: its products are zero.

    Source: Zeng et al. 2025, RobustMerge: Parameter-Efficient Model Merging for MLLMs with Direction Robustness,
    arXiv:2502.17159 (Complementary Parameter Adaptation), after the authors' code.
    """
    trimmed = [Factors(_pruned(f.A, keep), _pruned(f.B, keep)) for f in factors]
    ratios = torch.stack([_ratio(f.A, t.A, attenuation) for f, t in zip(factors, trimmed, strict=True)])  # NR
    A = coefficient * torch.stack([t.A for t in trimmed]).double().sum(0)
    B = torch.einsum("nr,nor->or", ratios, torch.stack([t.B for t in trimmed]).double())
    return Factors(A.float(), (coefficient * B / ratios.sum(0)).float())


def _pruned(factor: Tensor, keep: float) -> Tensor:
    """Entries from the ⌊n(1 − keep)⌋-th smallest magnitude on."""
    return keep_largest(factor, factor.numel() - max(int(factor.numel() * (1 - keep)), 1) + 1)


def _ratio(A: Tensor, trimmed: Tensor, attenuation: float) -> Tensor:
    whole, left = A.double().abs().sum(1), trimmed.double().abs().sum(1)
    ratio = torch.where(left > 0, whole / left.clamp_min(torch.finfo(torch.float64).tiny), torch.inf)
    finite = ratio[ratio.isfinite()]
    ratio = torch.where(ratio.isfinite(), ratio, finite.min() if len(finite) else 1.0)
    floor = ratio.sort().values[min(int(len(ratio) * (1 - attenuation)), len(ratio) - 1)]
    return ratio.clamp_min(floor)


@dataclass(frozen=True, slots=True)
class Core:
    """A basis in which the deltas of some adapters are small square matrices, without loss.

    Attributes:
        U: out × k, orthonormal columns that span every B.
        V: in × l, orthonormal columns that span every A's rows.
        cores: source → Uᵀ·δ·V, k × l, float32.
    """

    U: Tensor
    V: Tensor
    cores: Mapping[str, Tensor]

    def back(self, core: Tensor) -> Tensor:
        """U·M·Vᵀ in float32."""
        return (self.U @ core.double() @ self.V.t()).float()

    def factors(self, core: Tensor) -> Factors:
        """Those of U·M·Vᵀ."""
        return Factors(self.V.t().float(), (self.U @ core.double()).float())


def core_space(factors: Mapping[str, Factors]) -> Core:
    """Left singular vectors of [B₁ B₂ …], right ones of [A₁; A₂; …], and the deltas between them.

    Source: Panariello et al. 2025, Accurate and Efficient Low-Rank Model Merging in Core Space, arXiv:2509.17786.
    """
    whole = concatenated(list(factors.values()))
    U, V = _left_singular(whole.B.double()), _left_singular(whole.A.double().t())
    cores = {s: ((U.t() @ f.B.double()) @ (f.A.double() @ V)).float() for s, f in factors.items()}
    return Core(U, V, cores)


def _left_singular(matrix: Tensor) -> Tensor:
    """Left singular vectors, the largest entry of each positive, so that a basis is one and not its mirror image."""
    U: Tensor = torch.linalg.svd(matrix, full_matrices=False)[0]
    peak = U.gather(0, U.abs().argmax(0, keepdim=True))
    return U * torch.where(peak < 0, -1.0, 1.0)


def units_of(factors: Sequence[Factors], canonical: bool) -> Tensor:
    """Minimal semantic units: a row [aᵀ bᵀ] for every rank of every adapter (float64).

    Args:
        canonical: choose between (a, b) and (−a, −b), which are the same rank-one matrix: the largest entry of a is
            positive.
    """
    units = torch.cat([torch.cat([f.A, f.B.t()], dim=1) for f in factors]).double()
    if canonical:
        into = factors[0].A.shape[1]
        peak = units[:, :into].gather(1, units[:, :into].abs().argmax(1, keepdim=True))
        units = units * torch.where(peak < 0, -1.0, 1.0)
    return units


def k_means(points: Tensor, count: int, draws: Tensor, iterations: int) -> Tensor:
    """Clusters of points by Lloyd's iterations from seeded k-means++ centres.

    Args:
        points: n × d, float64.
        count: number of clusters; at least n gives every point its own.
        draws: `count` numbers in [0, 1), which choose the first centres.

    Returns:
        the cluster of each point, int64; empty clusters keep their number.

    Source: Arthur and Vassilvitskii 2007, k-means++.
    """
    if count >= len(points):
        return torch.arange(len(points))
    centres = _first_centres(points, count, draws)
    labels = torch.full((len(points),), -1)
    for _ in range(iterations):
        nearest = _distances(points, centres).argmin(1)
        if torch.equal(nearest, labels):
            break
        labels = nearest
        for k in sorted(set(labels.tolist())):
            centres[k] = points[labels == k].mean(0)
    return labels


def _first_centres(points: Tensor, count: int, draws: Tensor) -> Tensor:
    chosen = [min(int(draws[0] * len(points)), len(points) - 1)]
    nearest = _distances(points, points[chosen]).squeeze(1)
    for k in range(1, count):
        cumulated = nearest.cumsum(0)
        at = int(torch.searchsorted(cumulated, draws[k] * cumulated[-1], right=True))
        chosen.append(min(at, len(points) - 1))
        nearest = torch.minimum(nearest, _distances(points, points[chosen[-1:]]).squeeze(1))
    return points[chosen].clone()


def _distances(points: Tensor, centres: Tensor) -> Tensor:
    """Squared, points × centres; differences first, as 1 − 2xy + 1 would lose equal points."""
    return torch.stack([(points - centre).square().sum(1) for centre in centres], dim=1)


def clustered(
    factors: Sequence[Factors], count: int, draws: Tensor, *, iterations: int, canonical: bool, reweight: bool
) -> Factors:
    """Cluster the rank-one units of all adapters; each cluster's mean is one unit of the merged adapter.

    The units are grouped by direction (a and b at unit length each). With `reweight` a mean takes the average
    ∞-norm of its members, and δ is scaled by √(r/k), r the mean rank.

    Source: Zhao et al. 2024, Merging LoRAs like Playing LEGO, arXiv:2409.16167, section 3.
    """
    into = factors[0].A.shape[1]
    units = units_of(factors, canonical)
    units = units[(units[:, :into].abs().amax(1) > 0) & (units[:, into:].abs().amax(1) > 0)]
    if not len(units):
        return factors[0].first(0)
    directions = torch.cat([_unit(units[:, :into]), _unit(units[:, into:])], dim=1)
    labels = k_means(directions, count, draws, iterations)
    merged = torch.stack([_centroid(units[labels == k], reweight) for k in sorted(set(labels.tolist()))])
    rank = sum(f.rank for f in factors) / len(factors)
    found = Factors(merged[:, :into].float(), merged[:, into:].t().contiguous().float())
    return found.scaled(math.sqrt(rank / count)) if reweight else found


def _unit(vectors: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / length


def _centroid(members: Tensor, reweight: bool) -> Tensor:
    mean = members.mean(0)
    peak = mean.abs().max()
    if not reweight or peak == 0:
        return mean
    return mean * (members.abs().amax(1).mean() / peak)
