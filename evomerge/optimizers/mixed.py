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

LIKELY = 0.75
"""Of even odds, so much of a category's other choices at most: the start's choice stays the likeliest at first."""

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

    def open(self, numbers: Numbers | None = None) -> MixedDistribution:
        """The first distribution, or the next after one that left `numbers`."""
        return MixedDistribution(self, numbers)

    def widest(self, numbers: Numbers) -> float:
        """The largest standard deviation of a gene; not less than the first one while a category is undecided."""
        undecided = self.sigma if "_q" in numbers and not _decided(numbers) else 0.0
        return max(undecided, float(_deviations(numbers).max(initial=0.0)))


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

    In a point, real genes and ordered ones stand as drawn, neither clipped nor rounded, categories as the numbers of
    their choices. Genes with two choices are categories, as the library advises.

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
        change = np.minimum(self._settings.changes / len(self._named), LIKELY * (1 - 1 / self._counts))
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
        """A new point, shape [genes], a function of the present trial's numbers; for trial 0 the mean and the likeliest
        choices."""
        if not self._settings.normal.trial:
            raw = self._es._mean if self._numeric else []
            return self._joined(raw, self._es._q.argmax(axis=1) if self._named else [])
        drawn = self._es.ask()
        return self._joined(drawn._v_raw, drawn.c.argmax(axis=1) if self._named else [])

    def point(self, genome: Genome) -> Vector:
        """The point that stands for a given genome."""
        genes = np.array(genome)
        return self._joined(genes[self._numeric], _choices(genes[self._named], self._counts))

    def genome(self, point: Vector) -> Vector:
        """The genome of a point: clipped, and choices at their places. Gates are the caller's."""
        genes = self._start.copy()
        genes[self._reals] = np.clip(point[self._reals], 0.0, 1.0)
        genes[self._named] = (point[self._named] + 0.5) / self._counts
        if self._integers:
            genes[self._integers] = self._es._discretization(point[self._integers])
        return genes

    def _joined(self, raw: Any, named: Any) -> Vector:
        point = self._start.copy()
        if self._numeric:
            point[self._numeric] = raw
        point[self._named] = named
        return point

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
        raw, chosen = point[self._numeric], None
        if self._named:
            chosen = np.zeros(self._es._q.shape, dtype=bool)
            chosen[np.arange(len(self._named)), point[self._named].astype(np.intp)] = True
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
        widest = _deviations(numbers)[: len(self._reals)].max()
        return bool(widest < CONVERGED and (not self._named or _decided(numbers)))


def _deviations(numbers: Numbers) -> Vector:
    """Standard deviations of real genes and ordered ones; none where there are no such genes."""
    if "_sigma" not in numbers:
        return np.empty(0)
    return np.asarray(numbers["_sigma"] * numbers["_A"] * np.sqrt(np.diag(_covariance(numbers))))


def _decided(numbers: Numbers) -> bool:
    """Whether one choice of every category is about as likely as its margin lets it be."""
    q = numbers["_q"]
    ordered = len(numbers["_pmut"]) if "_pmut" in numbers else 0
    margin = 1 - 0.73 ** (1 / (len(q) + ordered))  # the paper's α, which the library shares among the other choices
    return bool(np.all(1 - q.max(axis=1) < 2 * margin))


def _covariance(numbers: Numbers) -> Vector:
    """C as the library makes it from its decomposition, to the last bit."""
    basis, scales = numbers["_B"], numbers["_D"]
    return np.asarray(np.dot(np.dot(basis, np.diag(np.asarray(scales) ** 2)), basis.T))


def _places(choices: int) -> Vector:
    return (np.arange(choices) + 0.5) / choices


def _choices(genes: Vector, counts: NDArray[np.intp]) -> Vector:
    """The numbers of the choices that genes stand nearest to, as floats."""
    return np.clip(np.floor(genes * counts), 0, counts - 1)
