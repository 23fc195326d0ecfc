"""Gaussian processes of what was answered, and the genome that is worth most to evaluate next; needs the extra `bayes`.

Everything here is a function of its arguments: torch's global generator and its number of threads are put back.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.archive import non_dominated
from evomerge.optimizers.surrogate import Answers, below_front

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch.jit.script is deprecated, and the libraries use it at import
    from botorch.acquisition.logei import qLogNoisyExpectedImprovement
    from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
    from botorch.acquisition.multi_objective.objective import IdentityMCMultiOutputObjective
    from botorch.acquisition.objective import GenericMCObjective
    from botorch.exceptions.errors import OptimizationGradientError
    from botorch.generation.gen import gen_candidates_scipy
    from botorch.models import ModelListGP, SingleTaskGP
    from botorch.optim.fit import fit_gpytorch_mll_scipy
    from botorch.sampling import SobolQMCNormalSampler
    from gpytorch.constraints import GreaterThan
    from gpytorch.kernels import RBFKernel
    from gpytorch.mlls import ExactMarginalLogLikelihood
    from gpytorch.priors import LogNormalPrior
    from linear_operator.utils.errors import NanError, NotPSDError

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]

LEAST_LENGTH, LEAST_NOISE = 0.025, 1e-4
"""Bounds that keep matrices invertible: shares of a gene's range, and of an objective's variance."""

FIT_STEPS, SEARCH_STEPS = 80, 50
"""Steps of L-BFGS on hyper-parameters, and on the genome."""

CANDIDATES, RESTARTS = 128, 3
"""Genomes that are tried before L-BFGS, and how many of them it improves."""

SINGULAR = (NanError, NotPSDError, OptimizationGradientError)
"""What is raised where a matrix cannot be inverted even with something added to its diagonal."""

MARGIN = 0.1
"""The reference point lies so many ranges below the front's worst values."""


class Belief:
    """What is believed about every genome after some answers.

    One process an objective, and one of the violation where there was any. Objectives are standardised. A violation is
    divided by the median of those > 0, and feasible answers stand at -1, so that the edge lies between both: told
    violations end at 0 and would put it at the feasible ones.

    Length-scales have Hvarfner's prior, whose median grows with √genes, times each gene's `step`: where small steps do
    much, the objective is expected to change over a short way.

    Args:
        answers: two or more.
        steps: one a gene, > 0.

    Source: Hvarfner et al. 2024, Vanilla Bayesian Optimization Performs Great in High Dimensions, arXiv:2402.02229.
    """

    def __init__(self, answers: Answers, steps: Vector) -> None:
        self._steps, self._num_objectives = steps, answers.values.shape[1]
        self._genomes, self._worth = answers.genomes, _order(answers)
        values = (answers.values - answers.values.mean(axis=0)) / (spread := _spread(answers.values))
        self._reference = _reference(values, answers.violations)
        self._constrained = bool(answers.violations.any())
        outputs = list(zip(values.T, (answers.errors / spread).T, strict=True))
        if self._constrained:
            outputs.append((_signed(answers.violations), np.full(len(values), np.nan)))
        with isolated(0):
            x = torch.tensor(answers.genomes)
            self._model = ModelListGP(*(_fitted(x, torch.tensor(y), errors, steps) for y, errors in outputs))

    def mean(self, genomes: Matrix) -> Matrix:
        """Expected standardised objectives, and the scaled violation where there was any; shape [genomes, outputs]."""
        with isolated(0), torch.no_grad():
            return np.asarray(self._model.posterior(torch.tensor(genomes)).mean.numpy())

    def lengths(self) -> Matrix:
        """Length-scales, shape [outputs, genes]."""
        return np.array([model.covar_module.lengthscale.detach().numpy()[0] for model in self._model.models])

    def next(self, pending: Matrix, samples: int, rng: np.random.Generator) -> Vector:
        """The genome with the largest expected improvement beyond what is known and pending, shape [genes].

        Args:
            pending: genomes whose answers are still to come, shape [genomes, genes]; none is fine.
            samples: of the posterior, in the estimate of the improvement.
            rng: of everything random.
        """
        own, of_samples = int(rng.integers(2**62)), int(rng.integers(2**31))
        candidates = self._candidates(rng)
        with isolated(own):
            try:
                return self._climb(self._gain(pending, samples, of_samples), torch.tensor(candidates[:, None]))
            except SINGULAR:
                return np.asarray(candidates[-1])  # a step from one of the best answers

    def _climb(self, gain: Any, candidates: Tensor) -> Vector:
        with torch.no_grad():
            first = gain(candidates).topk(RESTARTS).indices
        options = {"maxiter": SEARCH_STEPS}
        found, gains = gen_candidates_scipy(candidates[first], gain, 0.0, 1.0, options=options)
        return np.asarray(np.clip(found[gains.argmax(), 0].detach().numpy(), 0.0, 1.0))

    def _gain(self, pending: Matrix, samples: int, seed: int) -> Any:
        """The logarithm of the (hypervolume) improvement to be expected of genomes, shape [genomes, 1, genes]."""
        common: dict[str, Any] = {
            "model": self._model,
            "X_baseline": torch.tensor(self._genomes),
            "X_pending": torch.tensor(pending) if len(pending) else None,
            "sampler": SobolQMCNormalSampler(torch.Size([samples]), seed=seed),
            "constraints": [lambda samples: samples[..., -1]] if self._constrained else None,
            "prune_baseline": True,
        }
        if self._num_objectives == 1:
            objective = GenericMCObjective(lambda samples, X=None: samples[..., 0])
            return qLogNoisyExpectedImprovement(**common, objective=objective)
        outcomes = IdentityMCMultiOutputObjective(outcomes=list(range(self._num_objectives)))
        return qLogNoisyExpectedHypervolumeImprovement(**common, objective=outcomes, ref_point=self._reference.tolist())

    def _candidates(self, rng: np.random.Generator) -> Matrix:
        """Half of them anywhere, half around the best answers, near and far."""
        half, genes = CANDIDATES // 2, len(self._steps)
        best = self._genomes[self._worth[: max(1, min(8, len(self._worth) // 2))]]
        way = 10.0 ** rng.uniform(-2.5, -0.5, size=(half, 1)) * self._steps * rng.standard_normal((half, genes))
        moved = rng.random((half, genes)) < rng.choice([1.0, 0.3], size=(half, 1))
        near = best[rng.integers(len(best), size=half)] + np.where(moved, way, 0.0)
        return np.vstack([rng.random((CANDIDATES - half, genes)), np.clip(near, 0.0, 1.0)])


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """One thread, and torch's generator seeded; both are put back."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about steps that ran out and matrices that needed jitter
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed: that seeds accelerators too
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _fitted(x: Tensor, y: Tensor, errors: Vector, steps: Vector) -> Any:
    """A process at the most probable hyper-parameters, or at the prior's if a matrix cannot be inverted on the way."""
    model = _process(x, y, errors, steps)
    try:
        fit_gpytorch_mll_scipy(ExactMarginalLogLikelihood(model.likelihood, model), options={"maxiter": FIT_STEPS})
    except SINGULAR:
        model = _process(x, y, errors, steps)
    return model.eval()


def _process(x: Tensor, y: Tensor, errors: Vector, steps: Vector) -> Any:
    places = torch.tensor(math.sqrt(2) + 0.5 * math.log(len(steps)) + np.log(steps))
    prior = LogNormalPrior(loc=places, scale=torch.full_like(places, math.sqrt(3)))
    begin = prior.mode.clamp(min=2 * LEAST_LENGTH)
    bound = GreaterThan(LEAST_LENGTH, transform=None, initial_value=begin)
    kernel = RBFKernel(ard_num_dims=len(steps), lengthscale_prior=prior, lengthscale_constraint=bound)
    return SingleTaskGP(x, y[:, None], _noise(errors), covar_module=kernel.to(x), outcome_transform=None)


def _noise(errors: Vector) -> Tensor | None:
    """Variances, shape [answers, 1]: unknown errors are as large as usual; None where none is known: it is fitted."""
    if np.isnan(errors).all():
        return None
    known = np.where(np.isnan(errors), np.nanmedian(errors), errors)
    return torch.tensor(np.maximum(known**2, LEAST_NOISE))[:, None]


def _spread(values: Matrix) -> Vector:
    spread = values.std(axis=0)
    return np.where(spread > 0, spread, 1.0)


def _signed(violations: Vector) -> Vector:
    return np.where(violations > 0, violations / np.median(violations[violations > 0]), -1.0)


def _order(answers: Answers) -> NDArray[np.intp]:
    """Numbers of answers, the best first: by violation, then by depth below the front."""
    return np.lexsort((below_front(answers.values), answers.violations))


def _reference(values: Matrix, violations: Vector) -> Vector:
    """A tenth of the range below the worst member of the front, of feasible answers where there are any."""
    counted = values[violations == 0] if (violations == 0).any() else values
    span = np.ptp(counted, axis=0)
    return np.asarray(counted[non_dominated(counted)].min(axis=0) - MARGIN * np.where(span > 0, span, 1.0))
