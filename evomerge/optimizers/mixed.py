"""The search distribution of CatCMA with margin: the library's object for one generation, and what outlives it.

`cmaes.CatCMAwM` can only be saved as a pickle. Of its attributes the future depends on those in `_FIELDS`; a fresh
object with these set goes on exactly like the old one (tests compare it with an undisturbed one, and look at every
attribute that a tell changes). As in `distribution`, a fresh one is made after every generation. Its own generator is
replaced by numbers that are a function of the trial.

Source: Hamano et al. 2025, CatCMA with Margin, arXiv:2504.07884; the package `cmaes` 0.13.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from cmaes import CatCMAwM
from numpy.typing import NDArray

from evomerge.candidate import Genome
from evomerge.optimizers.distribution import FLAT_GENERATIONS
from evomerge.optimizers.domain import GeneKind
from evomerge.optimizers.evolution import Normal, Numbers
from evomerge.optimizers.ranking import Vector

CONVERGED = 1e-8
"""Standard deviation of real genes below which nothing changes any more; far finer than any grid of merge weights."""

_GAUSSIAN: dict[str, Callable[[Any], Any]] = {
    # The covariance as eigenvectors and scales: of nearly equal scales, decomposing it anew would find other vectors.
    "_mean": np.array, "_sigma": float, "_B": np.array, "_D": np.array, "_p_sigma": np.array,
    "_pc": np.array, "_A": np.array, "_iqhist_values": list,
}  # fmt: skip
_INTEGER: dict[str, Callable[[Any], Any]] = {"_pmut": np.array, "_int_succ": np.array}
_CATEGORICAL: dict[str, Callable[[Any], Any]] = {
    "_q": np.array, "_s": np.array, "_gamma": float, "_Delta": float, "_delta": float, "_eps": float,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class MixedSettings:
    """What stays the same between two restarts.

    Attributes:
        start: every gene in [0, 1], choices at their places.
        kinds: one a gene.
        sigma: initial standard deviation, a share of the range.
        population: λ.
        changes: how many categories a first point changes on average.
        normal: where random numbers come from.
    """

    start: Genome
    kinds: tuple[GeneKind, ...]
    sigma: float
    population: int
    changes: float
    normal: Normal


class _Stream:
    """What the library calls of a generator."""

    def __init__(self, normal: Normal) -> None:
        self._normal = normal

    def randn(self, columns: int) -> Vector:
        return np.asarray(self._normal(1, columns)[0])

    def rand(self, rows: int, columns: int) -> Vector:
        return np.asarray(self._normal.uniform(rows * columns).reshape(rows, columns))


class MixedDistribution:
    """Normal for real genes and ordered choices, categorical for the others; see `SearchDistribution`.

    A point holds the real genes and ordered ones as drawn, neither clipped nor rounded, then numbers of categories.
    Genes with two choices are categories, as the library advises.

    Args:
        settings: of this restart.
        numbers: what `tell` returned, to go on from there; None for the first generation.
    """

    def __init__(self, settings: MixedSettings, numbers: Numbers | None = None) -> None:
        self._settings, self.numbers = settings, numbers
        kinds = list(enumerate(settings.kinds))
        self._reals = [i for i, kind in kinds if kind.choices is None]
        self._integers = [i for i, kind in kinds if kind.ordered and (kind.choices or 0) > 2]
        self._named = [i for i, kind in kinds if (kind.choices or 0) > 1 and i not in self._integers]
        self._counts = np.array([settings.kinds[i].choices for i in self._named], dtype=np.intp)
        self._start = np.array(settings.start)
        self._flat = 0
        self._es = self._fresh()
        self._es._rng = _Stream(settings.normal)
        if numbers is not None:
            self._flat = int(numbers["flat"])
            self._es._g = int(numbers["generation"])
            for name, kind in self._fields.items():
                setattr(self._es, name, kind(numbers[name]))
            if self._numeric:
                self._es._C = _covariance(numbers)

    def _fresh(self) -> Any:
        numeric = self._numeric
        steps = np.array([self._settings.kinds[i].step for i in numeric])
        kinds = self._settings.kinds
        return CatCMAwM(
            x_space=[[0.0, 1.0]] * len(self._reals) or None,
            z_space=[_places(kinds[i].choices or 1).tolist() for i in self._integers] or None,
            c_space=self._counts.tolist() or None,
            population_size=self._settings.population,
            mean=self._start[numeric] if numeric else None,
            sigma=self._settings.sigma,
            cov=np.diag(steps**2) if numeric else None,
            cat_param=self._first_probabilities() if self._named else None,
            seed=0,
        )

    def _first_probabilities(self) -> Vector:
        """Shape [categories, most choices]: the start's choice is likely, the others share the rest."""
        q = np.zeros((len(self._named), int(self._counts.max())))
        chosen = _choices(self._start[self._named], self._counts)
        change = np.minimum(self._settings.changes / len(self._named), 1 - 1 / self._counts)
        for row, (count, choice, p) in enumerate(zip(self._counts, chosen, change, strict=True)):
            q[row, :count] = p / (count - 1)
            q[row, int(choice)] = 1 - p
        return q

    @property
    def _numeric(self) -> list[int]:
        return self._reals + self._integers

    @cached_property
    def _fields(self) -> dict[str, Callable[[Any], Any]]:
        gaussian = _GAUSSIAN if self._numeric else {}
        return gaussian | (_INTEGER if self._integers else {}) | (_CATEGORICAL if self._named else {})

    def sample(self) -> Vector:
        """A new point, shape [real genes + ordered + categories]; a function of the present trial's numbers."""
        drawn = self._es.ask()
        raw = drawn._v_raw if self._numeric else np.empty(0)
        return np.concatenate([raw, drawn.c.argmax(axis=1) if self._named else []])

    def point(self, genome: Genome) -> Vector:
        """The point that stands for a given genome."""
        genes = np.array(genome)
        return np.concatenate([genes[self._numeric], _choices(genes[self._named], self._counts)])

    def genome(self, point: Vector) -> Vector:
        """The genome of a point: clipped, and choices at their places. Gates are the caller's."""
        raw, named = np.split(point, [len(self._numeric)])
        genes = self._start.copy()
        genes[self._reals] = np.clip(raw[: len(self._reals)], 0.0, 1.0)
        genes[self._named] = (named + 0.5) / self._counts
        if self._integers:
            genes[self._integers] = self._es._discretization(raw[len(self._reals) :])
        return genes

    def tell(self, points: Sequence[Vector], costs: Vector, stale: Collection[int]) -> tuple[Numbers, list[str]]:
        """Learn from one generation of exactly λ points; this object is spent afterwards.

        Only the order of the costs counts: the library's penalty for leaving the bounds is measured in ranks, which
        also keeps it from failing where all costs tie.
        """
        order = np.argsort(costs, kind="stable")
        self._flat = self._flat + 1 if costs[order[0]] == costs[order[len(order) // 4]] else 0
        solutions = [(self._solution(points[i], i in stale), float(rank)) for rank, i in enumerate(order)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # divisions by what is about to vanish; `_stop` looks at the results
            self._es.tell(solutions)
        numbers = {name: kind(getattr(self._es, name)) for name, kind in self._fields.items()}
        return numbers | {"generation": self._es._g, "flat": self._flat}, self._stop(numbers)

    def _solution(self, point: Vector, clip: bool) -> Any:
        raw, named = np.split(point, [len(self._numeric)])
        chosen = None
        if self._named:
            chosen = np.zeros(self._es._q.shape, dtype=bool)
            chosen[np.arange(len(named)), named.astype(np.intp)] = True
        return CatCMAwM.Solution(None, None, chosen, self._clipped(raw) if clip and self._numeric else raw)

    def _clipped(self, raw: Vector) -> Vector:
        """A point whose real genes are no farther away than a drawn one may be (Hansen 2011, arXiv:1110.4181)."""
        es = self._es
        basis, scales = es._eigen_decomposition()
        step = (raw - es._mean) / (es._sigma * es._A)
        length = float(np.linalg.norm(basis.T @ step / scales))
        n = len(raw)
        limit = math.sqrt(n) + 2 * n / (n + 2)
        if length <= limit:
            return raw
        result = raw.copy()
        reals = slice(len(self._reals))  # an ordered choice is bounded by its grid and must stay the one evaluated
        result[reals] = es._mean[reals] + (raw - es._mean)[reals] * limit / length
        return result

    def _stop(self, numbers: Numbers) -> list[str]:
        reasons = []
        if not all(np.isfinite(value).all() for value in map(np.asarray, numbers.values())):
            return ["numbers overflowed"]
        if self._flat >= FLAT_GENERATIONS:
            reasons.append("flat fitness")
        if self._reals and self._settled(numbers):
            reasons.append("converged")
        return reasons

    def _settled(self, numbers: Numbers) -> bool:
        count = len(self._reals)
        deviations = numbers["_sigma"] * numbers["_A"] * np.sqrt(np.diag(_covariance(numbers)))
        if deviations[:count].max() > CONVERGED:
            return False
        if not self._named:
            return True
        floor = self._es._qmin * (self._counts - 1)
        return bool(np.all(1 - numbers["_q"].max(axis=1) < 2 * floor))


def _covariance(numbers: Numbers) -> Vector:
    """C as the library makes it from its decomposition, to the last bit."""
    basis, scales = numbers["_B"], numbers["_D"]
    return np.asarray(np.dot(np.dot(basis, np.diag(np.asarray(scales) ** 2)), basis.T))


def _places(choices: int) -> Vector:
    return (np.arange(choices) + 0.5) / choices


def _choices(genes: Vector, counts: NDArray[np.intp]) -> Vector:
    """The numbers of the choices that genes stand nearest to, as floats."""
    return np.clip(np.floor(genes * counts), 0, counts - 1)
