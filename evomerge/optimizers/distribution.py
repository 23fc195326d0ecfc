"""The search distribution of CMA-ES: pycma's object for one generation, and the numbers that outlive it.

pycma's object can only be saved as a pickle. Of its two hundred attributes the future depends on the 17 in `_FIELDS`;
a fresh object with those set goes on exactly like the old one (tests compare it with an undisturbed pycma over 150
generations and up to its stop, bit for bit). We make such a fresh object after *every* generation, not only on restore:
then nothing hidden can survive in memory that a restored run would lack. It costs 4 ms a generation.

Options that would hide state, read clocks or files, or need all proposals of a generation at once are off; each says
why below. Source: Hansen 2016, The CMA Evolution Strategy: A Tutorial, arXiv:1604.00772; pycma 4.5.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.candidate import Genome
from evomerge.optimizers.unit_box import Strategy, UnitBox

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pycma warns that it can't plot without matplotlib
    from cma.sigma_adaptation import CMAAdaptSigmaCSA

Vector = NDArray[np.float64]

FLAT_GENERATIONS = 20
"""Restart after so many generations in a row whose best quarter ties: accuracy on few items is a step function."""

_FIELDS: dict[str, Callable[[Any], Any]] = {
    # the distribution: mean m, step size σ, coordinate scaling, covariance C (`sm.C`, where it is learnt), the paths
    "mean": np.array,
    "sigma": float,
    "sigma_vec.scaling": np.array,
    "sigma_vec.is_identity": bool,
    "sm.C": np.array,
    "pc": np.array,
    "adapt_sigma.ps": np.array,
    "countiter": int,
    # what the criteria for stopping look back on
    "countevals": int,
    "best.f": float,
    "best.evals": int,
    "fit.histbest": list,
    "fit.histmedian": list,
    "fit.flatfit_iterations": int,
    "_stoptolxstagnation.count": int,
    "_stoptolxstagnation.count_x": int,
    "_stoptolxstagnation.x": np.array,
}


@contextmanager
def _quiet() -> Iterator[None]:
    """pycma warns about conditions that are handled here (stale points, a flat fitness, an extreme scaling)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True, slots=True)
class Settings:
    """What stays the same between two restarts.

    Attributes:
        start: initial mean, shape [genes], at least 2 of them: pycma does not support one dimension.
        sigma: initial step size, a share of the range.
        population: λ, evaluations per generation.
        diagonal: learn variances only (Ros and Hansen 2008), for many genes.
        normal: (rows, columns) → standard normal numbers.
        steps: for each gene the share of `sigma` that suits it; empty: all of it.
        grid: for each gene the distance between neighbouring choices, 0 for real numbers; empty: all are real.
    """

    start: tuple[float, ...]
    sigma: float
    population: int
    diagonal: bool
    normal: Callable[[int, int], Vector]
    steps: tuple[float, ...] = ()
    grid: tuple[float, ...] = ()

    def open(self, numbers: Mapping[str, Any] | None = None) -> Distribution:
        """The first distribution, or the next after one that left `numbers`."""
        return Distribution(self, numbers)

    def widest(self, numbers: Mapping[str, Any]) -> float:
        """The largest standard deviation of a gene."""
        variances = np.diag(numbers["sm.C"]) if "sm.C" in numbers else np.ones(1)
        return float(numbers["sigma"] * np.max(numbers["sigma_vec.scaling"] * np.sqrt(variances)))


class Distribution:
    """Where the next genomes are drawn from.

    A point is a genome before the boundary is folded in: pycma maps the real line to [0, 1] smoothly near the bounds,
    and learns from points.

    Args:
        settings: of this restart.
        numbers: what `tell` returned, to go on from there; None for the first generation.
    """

    def __init__(self, settings: Settings, numbers: Mapping[str, Any] | None = None) -> None:
        self._settings = settings
        with _quiet():
            self._es = Strategy(list(settings.start), settings.sigma, _options(settings))
            if any(settings.grid):
                self._es.opts["minstd"] = self._least_steps()
            # pycma refuses to learn unless it was asked, but here a whole generation may be older proposals.
            self._es.ask(1)
        if numbers is not None:
            self._set(numbers)
        self.numbers = numbers

    def _least_steps(self) -> Vector:
        """Standard deviations below which a gene would stay on one choice for ever: of the distance to the next, the
        share that pycma takes for its `integer_variables` (whose own handling wants whole numbers)."""
        share = min(0.2, 0.7 * self._es.sp.weights.mueff / len(self._settings.grid))
        return np.asarray(share * np.array(self._settings.grid))

    def sample(self) -> Vector:
        """A new point, shape [genes]; takes one row of normal numbers."""
        es = self._es  # what pycma's `ask_geno(1)` comes to without injections: half of its time went into asking
        point: Vector = (es.mean + es.sigma * (es.sigma_vec * np.asarray(es.sm.sample(1))))[0]
        return point

    def point(self, genome: Genome) -> Vector:
        """The point that the boundary folds to a given genome: shape [genes]."""
        padded = np.array([*genome, *self._settings.start[len(genome) :]])
        return np.array(self._es.gp.geno(padded, from_bounds=self._es.boundary_handler.inverse))

    def genome(self, point: Vector) -> Vector:
        """The point with the boundary folded in: shape [genes], in [0, 1]. Depends on the point only."""
        folded = self._es.boundary_handler.repair(point)  # what pycma's `pheno` comes to: nothing else is transformed
        return np.asarray(np.minimum(np.maximum(folded, 0.0), 1.0))

    def tell(self, points: Sequence[Vector], costs: Vector, stale: Collection[int]) -> tuple[dict[str, Any], list[str]]:
        """Learn from one generation; this object is spent afterwards.

        Args:
            points: λ points or a few more.
            costs: one per point, smaller is better.
            stale: indices of points drawn from an earlier distribution; their steps are clipped to a plausible length
                as injected points are (Hansen 2011, arXiv:1110.4181).

        Returns:
            The numbers to go on from, and the criteria that say it is time to restart.
        """
        es = self._es
        genomes = [self.genome(point) for point in points]
        with _quiet():
            for i, (genome, point) in enumerate(zip(genomes, points, strict=True)):
                # Not by pycma's `check_points`: it mixes up points of the same genome, as there are many at a bound.
                kept = es.repair_genotype(np.array(point)) if i in stale else np.array(point)
                es.sent_solutions.insert(genome, geno=kept, iteration=es.countiter)
            es.tell(genomes, costs.tolist())
            stop = list(es.stop())
        return self._get(), stop

    def _names(self) -> list[str]:
        return [name for name in _FIELDS if name != "sm.C" or not self._settings.diagonal]

    def _get(self) -> dict[str, Any]:
        return {name: _FIELDS[name](attrgetter(name)(self._es)) for name in self._names()}

    def _set(self, numbers: Mapping[str, Any]) -> None:
        es = self._es
        for name in self._names():
            owner, _, leaf = name.rpartition(".")
            setattr(attrgetter(owner)(es) if owner else es, leaf, _FIELDS[name](numbers[name]))
        es.mean_old = es.mean.copy()  # pycma keeps it for the record and expects it to exist
        es.sm.update_now(-1)  # eigenvectors and eigenvalues of C, whatever the counters say
        es._updateBDfromSM(es.sm)


def _options(settings: Settings) -> dict[str, Any]:
    return {
        "bounds": [0, 1],
        "BoundaryHandler": UnitBox,
        "popsize": settings.population,
        "CMA_diagonal": settings.diagonal,
        "CMA_stds": list(settings.steps) or 1,
        "randn": settings.normal,
        "seed": np.nan,  # with `randn`: NumPy's global generator is neither read nor seeded
        "verbose": -9,
        "signals_filename": None,  # would read options from a file in the working directory
        "updatecovwait": 0,  # decompose C after each generation: no state in counters, and evaluations cost far more
        "AdaptSigma": CMAAdaptSigmaCSA,  # the default from 300 genes on needs the first two proposals of a generation
        "conditioncov_alleviate": None,  # would change the coordinates, which would be state
        "tolupsigma": np.inf,  # is changed on the way, which would be state
        "CMA_diagonal_decoding": 0,  # these three look back on numbers that would be more state; off by default, too
        "stall_sigma_change_on_divergence_iterations": False,
        "tolfunrel": 0,
        "tolfun": 0,  # these two would stop a run whose best candidates tie, as they do on a step function;
        "tolfunhist": 0,  # the next one waits longer
        "tolflatfitness": FLAT_GENERATIONS,
    }
