"""Frank-Wolfe over the mixtures of a few corners, such as each source alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from evomerge.optimizers.corners import corners
from evomerge.optimizers.gradient import GradientOptions, GradientSearch, Vector
from evomerge.optimizers.options import Options


class FrankWolfeOptions(GradientOptions):
    """Options of `FrankWolfe`."""

    oracle: Literal["hard", "soft"] = Field(
        default="hard", description="go towards the best corner, or towards a softmax mixture of all"
    )
    temperature: float = Field(
        default=0.2, gt=0, description="of the soft oracle, of the range of the corners' inner products"
    )
    delay: int = Field(default=1, ge=0, description="d of the step 2/(t+d+2); 0 jumps to a corner first")
    length: float = Field(default=1.0, gt=0, le=1, description="of all steps, of the usual one")
    scope: Literal["model", "group"] = Field(
        default="model", description="one mixture for the whole model, or each group of tensors has its own"
    )


class FrankWolfe(GradientSearch):
    """Frank-Wolfe merging: mixtures of sources, a step towards the one whose corner the gradient points to most.

    The corners are the domain's seeds (a run that asks for this optimizer adds each source alone), or without two of
    them the start with one gene at 0 or 1. The linear minimisation oracle takes the corner s with the largest <g, s>,
    and x ← x + γ(s - x) with γ = `length` · 2/(t + d + 2); so x stays a mixture of start and corners, and needs neither
    a projection nor a learning rate. The soft oracle mixes all corners by the softmax of <g, s>, divided by
    `temperature` and their range; it is ours, and moves less to and fro when gradients are noisy.

    With d = 0 this is the textbook's step, which forgets the start at once. See `GradientSearch` for what it does with
    answers.

    With scope `model` corners are whole genomes, and all groups of layers have one mixture. With `group` every group
    (`GeneKind.part`) asks the oracle for a corner of its own, by its own genes' share of <g, s>, as FW-Merging does for
    every layer: the feasible set is then the product of the groups' mixtures, of which this is the exact oracle. The
    published settings are delay 0, length 0.1, and the cosine of g and the whole weights in place of <g, s>, which is
    not that oracle; a merge by the method `frank_wolfe` has it.

    Args:
        problem: real genes; its start is where it begins, its seeds are the corners.
        seed: of asks near the point.
        options: see `FrankWolfeOptions`.

    Raises:
        InvalidInputError: an unknown option, a value out of range, genes that are not real, or a lineage.
        ValueError: `start` is empty or leaves [0, 1].

    Source: Chen et al. 2025, FW-Merging: Scaling Model Merging with Frank-Wolfe Optimization, arXiv:2503.12649; Jaggi
    2013, Revisiting Frank-Wolfe: Projection-Free Sparse Convex Optimization, algorithm 1.
    """

    Options: ClassVar[type[Options]] = FrankWolfeOptions
    NAME: ClassVar[str] = "frank_wolfe"
    SCHEMA: ClassVar[str] = "evomerge.optimizer.frank_wolfe/1"

    _given: FrankWolfeOptions

    def _prepare(self) -> None:
        domain = self._problem.domain
        self._corners = corners(domain)
        labels = [kind.part if self._given.scope == "group" else "" for kind in domain.kinds]
        self._parts = [np.flatnonzero([own == label for own in labels]) for label in dict.fromkeys(labels)]
        self._updates = 0

    def _moved(self, place: Vector, gradient: Vector, share: float) -> Vector:
        step = share * self._given.length * 2 / (self._updates + self._given.delay + 2)
        self._updates += 1
        shares = [self._oracle(self._corners[:, part] @ gradient[part]) for part in self._parts]
        return np.asarray(place + step * (self._mixed(shares) - place))

    def _oracle(self, products: Vector) -> Vector:
        """How much of each corner to go to, from their inner products [corners] with the gradient."""
        spread = float(np.ptp(products))
        if self._given.oracle == "hard" or spread == 0:
            return np.asarray(np.arange(len(products)) == products.argmax(), dtype=np.float64)
        shares = np.exp((products - products.max()) / (self._given.temperature * spread))
        return np.asarray(shares / shares.sum())

    def _mixed(self, shares: Sequence[Vector]) -> Vector:
        """The genome in which every part has its own shares [corners] of the corners."""
        mixture = np.empty_like(self._start)
        for part, own in zip(self._parts, shares, strict=True):
            mixture[part] = own @ self._corners[:, part]
        return mixture

    def _near(self, place: Vector, rng: np.random.Generator) -> Vector:
        mixture = self._mixed(list(rng.dirichlet(np.ones(len(self._corners)), size=len(self._parts))))
        return np.asarray(place + self._spread * (mixture - place))

    def _dump(self) -> tuple[dict[str, Any], dict[str, Vector]]:
        return {"updates": self._updates}, {}

    def _load(self, head: Mapping[str, Any], arrays: Mapping[str, Vector]) -> None:
        self._updates = head["updates"]
