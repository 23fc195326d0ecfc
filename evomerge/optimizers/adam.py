"""Adam on the genes, with gradients that the evaluator gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from evomerge.optimizers.gradient import GradientOptions, GradientSearch, Vector
from evomerge.optimizers.options import Options
from evomerge.seeds import generator


class AdamOptions(GradientOptions):
    """Options of `Adam`."""

    lr: float = Field(default=0.03, gt=0, le=1, description="about how far a gene moves in a step, of its range")
    final: float = Field(default=0.1, gt=0, le=1, description="lr at the end of the budget, of the first one")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="decay of the mean of gradients")
    beta2: float = Field(default=0.99, ge=0, lt=1, description="decay of the mean of their squares")
    restarts: int = Field(default=0, ge=0, description="how many times to begin again, at seeds and then at random")
    patience: int = Field(default=30, ge=1, description="gradients without a better value, after which to begin again")


class Adam(GradientSearch):
    """Coefficient learning by Adam on gradients from autograd, as AdaMerging does; needs an evaluator that gives them.

    m ← β₁m + (1 - β₁)g, v ← β₂v + (1 - β₂)g², x ← clip(x + lr · step · m̂ / (√v̂ + ε)), where m̂ and v̂ are m and v
    without their bias towards 0, and step is the gene kind's. See `GradientSearch` for what it does with answers.

    AdaMerging minimises the entropy of predictions without labels; here the objectives are the run's, on its items.
    Its lr is 0.001 for thousands of steps; the default suits tens to hundreds.

    Args:
        problem: real genes; its start is where it begins, its seeds where it begins again.
        seed: of asks near the point and of random beginnings.
        options: see `AdamOptions`.

    Raises:
        InvalidInputError: an unknown option, a value out of range, genes that are not real, or a lineage.
        ValueError: `start` is empty or leaves [0, 1].

    Source: Kingma and Ba 2015, Adam, arXiv:1412.6980, algorithm 1; Yang et al. 2023, AdaMerging, arXiv:2310.02575.
    """

    Options: ClassVar[type[Options]] = AdamOptions
    NAME: ClassVar[str] = "adam"
    SCHEMA: ClassVar[str] = "evomerge.optimizer.adam/1"
    EPSILON: ClassVar[float] = 1e-8

    _given: AdamOptions

    def _prepare(self) -> None:
        self._forget()
        self._scale = self._given.lr * np.array([kind.step for kind in self._problem.domain.kinds])
        self._reached = -np.inf  # the best value since the last beginning
        self._idle = 0

    def _forget(self) -> None:
        self._mean, self._square = np.zeros_like(self._start), np.zeros_like(self._start)
        self._updates = 0

    def _moved(self, place: Vector, gradient: Vector, share: float) -> Vector:
        return np.clip(place + self._step(gradient, share), 0.0, 1.0)

    def _step(self, gradient: Vector, share: float) -> Vector:
        """What Adam adds for the next gradient, which it remembers, as a share of the usual step."""
        beta1, beta2 = self._given.beta1, self._given.beta2
        self._updates += 1
        self._mean = beta1 * self._mean + (1 - beta1) * gradient
        self._square = beta2 * self._square + (1 - beta2) * gradient**2
        mean, square = self._mean / (1 - beta1**self._updates), self._square / (1 - beta2**self._updates)
        return np.asarray(share * self._rate() * mean / (np.sqrt(square) + self.EPSILON))

    def _rate(self) -> Vector:
        """One a gene; it falls to `final` of the first where the budget is known."""
        spent = min(1.0, self._steps / self._problem.budget) if self._problem.budget else 0.0
        return self._scale * (1 - spent * (1 - self._given.final))

    def _near(self, place: Vector, rng: np.random.Generator) -> Vector:
        moved = place + self._spread * rng.standard_normal(len(place))
        return np.clip(np.where((moved < 0) | (moved > 1), 2 * place - moved, moved), 0.0, 1.0)  # back from a wall

    def _retreat(self) -> None:
        self._forget()
        super()._retreat()

    def _judged(self, value: float) -> None:
        self._idle = 0 if value > self._reached else self._idle + 1
        self._reached = max(self._reached, value)
        if self._idle >= self._given.patience and self._stretch < self._given.restarts:
            self._begin_again()

    def _begin_again(self) -> None:
        seeds = self._problem.domain.seeds
        if self._stretch < len(seeds):
            place = np.array(seeds[self._stretch], dtype=np.float64)
        else:
            place = generator(self._seed, self.NAME, "restart", self._stretch).random(len(self._start))
        self._forget()
        self._stretch, self._reached, self._idle = self._stretch + 1, -np.inf, 0
        self._go(place)

    def _dump(self) -> tuple[dict[str, Any], dict[str, Vector]]:
        arrays = {"mean": self._mean, "square": self._square, "reached": np.array([self._reached])}
        return {"updates": self._updates, "idle": self._idle}, arrays

    def _load(self, head: Mapping[str, Any], arrays: Mapping[str, Vector]) -> None:
        self._updates, self._idle = head["updates"], head["idle"]
        self._mean, self._square = arrays["mean"], arrays["square"]
        self._reached = float(arrays["reached"][0])
