"""DAM and Expert Merging as searches: weights that bring a merge close to what each source says on its own items."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
from pydantic import Field
from scipy.special import expit, logit

from evomerge.optimizers.adam import Adam, AdamOptions
from evomerge.optimizers.coefficients import Layout, Penalty, distance, overlap, similarity, sizes
from evomerge.optimizers.gradient import Vector
from evomerge.optimizers.options import Options

EDGE = 1e-4
"""Weights closer to 0 or 1 have hardly a derivative by z."""


class _Aligned(Adam):
    """Adam on the objectives less a penalty of the sources' weights; objectives are reported without it."""

    _layout: Layout
    _from: Vector

    def _prepare(self) -> None:
        super()._prepare()
        self._layout = Layout.of(self._problem.domain)

    @abstractmethod
    def _penalty(self, place: Vector) -> Penalty:
        """Of the weights at a place, and its slopes by them."""

    def _moved(self, place: Vector, gradient: Vector, share: float) -> Vector:
        _, slopes = self._penalty(place)
        return super()._moved(place, gradient - self._layout.by_genes(slopes, len(place)), share)


class DamOptions(AdamOptions):
    """Options of `Dam`."""

    lr: float = Field(default=1e-3, gt=0, le=1, description="about how far a weight moves in a step")
    final: float = Field(default=1.0, gt=0, le=1, description="lr at the end of the budget, of the first one")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="decay of the mean of squared gradients")
    similarity: float = Field(default=0.01, ge=0, description="times the mean cosine of two sources' weights")
    l1: float = Field(default=0.0, ge=0, description="times the sum of the weights' absolute values")
    l2: float = Field(default=0.0, ge=0, description="times the length of each source's vector of weights")
    overlap: float = Field(default=0.0, ge=0, description="times what two sources' weights have in common")


class Dam(_Aligned):
    """DAM: Adam on the weights, towards what each source says on its own items, with weights that differ by source.

    What the paper minimises is Σ over sources of T²·KL(source ‖ merge) at temperature T = 2 on the source's own items,
    which is the metric `expert_kl_2`, one objective a source; plus `similarity` times the mean cosine of two sources'
    coefficients. There these are columns of a matrix's; here they are a source's weights over the groups of the space
    (with one group a cosine is ±1 and has no derivative). The method `dam` learns columns, once, for a recipe.

    The published settings are the defaults: a constant lr of 0.001, which takes thousands of steps; with a few hundred
    candidates 0.01 to 0.03 is what moves. MoFO's filter, weight decay and clipping are left out: there are few genes.

    Args:
        problem: real genes, of which some are sources' weights; its start is where it begins, the plain average.
        seed: of asks near the point and of random beginnings.
        options: see `DamOptions`.

    Raises:
        InvalidInputError: an unknown option, a value out of range, genes that are not real, or a lineage.
        ValueError: `start` is empty or leaves [0, 1].

    Source: Gauthier-Caron et al. 2024, Merging in a Bottle: Differentiable Adaptive Merging (DAM) and the Path from
    Averaging to Automation, arXiv:2410.08371.
    """

    Options: ClassVar[type[Options]] = DamOptions
    NAME: ClassVar[str] = "dam"
    SCHEMA: ClassVar[str] = "evomerge.optimizer.dam/1"

    _given: DamOptions

    def _prepare(self) -> None:
        super()._prepare()
        self._scale[self._layout.genes] /= self._layout.width

    def _penalty(self, place: Vector) -> Penalty:
        c, given = self._layout.coefficients(place), self._given
        total = float(self._weights.sum()) / max(len(c), 1)  # the paper adds up over the sources
        terms = [(given.similarity, similarity(c)), (given.overlap, overlap(c)), (1.0, sizes(c, given.l1, given.l2))]
        slopes = np.sum([factor * slopes for factor, (_, slopes) in terms], axis=0)
        return total * sum(factor * value for factor, (value, _) in terms), total * slopes


class ExpertMergingOptions(AdamOptions):
    """Options of `ExpertMerging`."""

    lr: float = Field(default=0.5, gt=0, le=10, description="about how far z moves in a step; the weight is σ(z)")
    final: float = Field(default=1.0, gt=0, le=1, description="lr at the end of the budget, of the first one")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="decay of the mean of squared gradients")
    regularisation: float = Field(
        default=5.0, ge=0, description="times how far a source's weights are from where they began, on average"
    )


class ExpertMerging(_Aligned):
    """Expert Merging: weights σ(z), moved by Adam on z towards what each source says, and held near their start.

    What the paper minimises is the mean over the sources of the cross entropy with the source's answers on its own
    items (the metric `expert_kl` but for a constant, one objective a source) and of the squared distance of hidden
    states, plus `regularisation` times Σ over the sources of the mean |c − start|. Hidden states are not compared here;
    the method `expert_merging` does so, and learns, once, for a recipe.

    The published settings are the defaults. There weights begin at 0.1 each, here at the plain average; and there is
    one a tensor, here one for each group of the space, whose range should be [0, 1]: that of σ.

    Args:
        problem: real genes, of which some are sources' weights; its start is where it begins, the plain average.
        seed: of asks near the point and of random beginnings.
        options: see `ExpertMergingOptions`.

    Raises:
        InvalidInputError: an unknown option, a value out of range, genes that are not real, or a lineage.
        ValueError: `start` is empty or leaves [0, 1].

    Source: Zhang et al. 2025, Expert Merging: Model Merging with Unsupervised Expert Alignment and Importance-Guided
    Layer Chunking, arXiv:2509.25712.
    """

    Options: ClassVar[type[Options]] = ExpertMergingOptions
    NAME: ClassVar[str] = "expert_merging"
    SCHEMA: ClassVar[str] = "evomerge.optimizer.expert_merging/1"

    _given: ExpertMergingOptions

    def _penalty(self, place: Vector) -> Penalty:
        c, start = self._layout.coefficients(place), self._layout.coefficients(self._start)
        value, slopes = distance(c, start)
        strength = self._given.regularisation * float(self._weights.sum())  # the paper averages over the sources
        return strength * value, strength * slopes

    def _moved(self, place: Vector, gradient: Vector, share: float) -> Vector:
        low, width = np.zeros_like(place), np.ones_like(place)
        low[self._layout.genes], width[self._layout.genes] = self._layout.low, self._layout.width
        c = np.clip(low + width * place, EDGE, 1 - EDGE)
        _, slopes = self._penalty(place)
        by_weights = (gradient - self._layout.by_genes(slopes, len(place))) / width
        step = self._step(by_weights * c * (1 - c), share)  # dσ/dz = c(1 - c)
        return np.asarray(np.clip((expit(logit(c) + step) - low) / width, 0.0, 1.0))
