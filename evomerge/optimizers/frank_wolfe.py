"""Frank-Wolfe over the mixtures of a few corners, such as each source alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

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


class FrankWolfe(GradientSearch):
    """Frank-Wolfe merging: mixtures of sources, a step towards the one whose corner the gradient points to most.

    The corners are the domain's seeds (a run that asks for this optimizer adds each source alone), or without two of
    them the start with one gene at 0 or 1. The linear minimisation oracle takes the corner s with the largest <g, s>,
    and x ← x + γ(s - x) with γ = 2/(t + d + 2); so x stays a mixture of start and corners, and needs neither a
    projection nor a learning rate. The soft oracle mixes all corners by the softmax of <g, s>, divided by
    `temperature` and their range; it is ours, and moves less to and fro when gradients are noisy.

    With d = 0 this is the textbook's step, which forgets the start at once. See `GradientSearch` for what it does with
    answers. Corners are whole genomes, so all groups of layers have one mixture.

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
        seeds = self._problem.domain.seeds
        self._corners = np.array(seeds, dtype=np.float64) if len(seeds) > 1 else self._ends()
        self._updates = 0

    def _ends(self) -> NDArray[np.float64]:
        """The start with each gene at 0 and at 1, shape [2 genes, genes]."""
        ends = np.tile(self._start, (2 * len(self._start), 1))
        for gene in range(len(self._start)):
            ends[2 * gene : 2 * gene + 2, gene] = 0.0, 1.0
        return ends

    def _moved(self, place: Vector, gradient: Vector, share: float) -> Vector:
        step = share * 2 / (self._updates + self._given.delay + 2)
        self._updates += 1
        return place + step * (self._target(self._corners @ gradient) - place)

    def _target(self, products: Vector) -> Vector:
        """The oracle's answer, from the corners' inner products [corners]."""
        spread = float(np.ptp(products))
        if self._given.oracle == "hard" or spread == 0:
            return np.asarray(self._corners[int(products.argmax())])
        shares = np.exp((products - products.max()) / (self._given.temperature * spread))
        return np.asarray(shares @ self._corners / shares.sum())

    def _near(self, place: Vector, rng: np.random.Generator) -> Vector:
        mixture = rng.dirichlet(np.ones(len(self._corners))) @ self._corners
        return np.asarray(place + self._spread * (mixture - place))

    def _dump(self) -> tuple[dict[str, Any], dict[str, Vector]]:
        return {"updates": self._updates}, {}

    def _load(self, head: Mapping[str, Any], arrays: Mapping[str, Vector]) -> None:
        self._updates = head["updates"]
