"""What a bank says about itself: how well its items and methods predict subjects that they were not fitted on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from evomerge.errors import InvalidInputError
from evomerge.seeds import generator
from fitness.irt.accuracy import Accuracy, accuracy
from fitness.irt.contracts import Bank, Selection
from fitness.irt.cross_validation import DETERMINED, Approach, cross_validate, predict
from fitness.irt.curves import Drift, Reliability, drift, reliability
from fitness.irt.estimators import ESTIMATORS
from fitness.irt.fits import Fits
from fitness.irt.gate import LEAST_BLUP, LEAST_EAP, Gate, gate
from fitness.irt.item_quality import item_quality
from fitness.irt.recommendation import OVERHEAD, Recommendation, recommend, variance_from_tau
from fitness.irt.selection import Stream
from fitness.matrix import Floats

SCHEMA = "evomerge.item_report/1"
NUMBERS = (10, 20, 30, 50, 100)
DRAWS = 4
LEAST_SUBJECTS = 3
TOP_SHARE = 0.25
"""Of the bank's subjects, by full score: what models fitted on the others say of them shows how they extrapolate."""

ITERATIONS = 8
"""Of the item fits behind a report."""

_APPROACHES = (
    Approach("random", "mean"),
    Approach("stratified", "stratified"),
    Approach("parent_neyman", "difference"),
    Approach("random", "difference"),
    Approach("random", "greg"),
    Approach("random", "eap"),
    Approach("greedy", "eap"),
    Approach("adaptive", "eap"),
    Approach("hybrid", "eap"),
    Approach("random", "blup"),
    Approach("greedy", "blup"),
    Approach("hybrid", "blup"),
)

_RECENTRED = (
    Approach("random", "recentred_eap"),
    Approach("hybrid", "recentred_eap"),
    Approach("random", "recentred_blup"),
    Approach("hybrid", "recentred_blup"),
)
"""They move a population as a whole: that shows in a quarter that is predicted together, not in folds."""


@dataclass(frozen=True, slots=True)
class MethodReport:
    """One approach at one n.

    Attributes:
        policy, estimator: of the approach.
        n: items asked.
        accuracy: what it was found to be.
    """

    policy: str
    estimator: str
    n: int
    accuracy: Accuracy


@dataclass(frozen=True, slots=True)
class ItemReport:
    """A calibration report of one eval set's bank; `to_dict` is the schema `evomerge.item_report/1`.

    Attributes:
        eval_set: by name, "" if it has none.
        subjects, items: M and N.
        constant: ids of items that all subjects answered alike.
        negative: ids of items that better subjects answer worse.
        mean, spread: of the subjects' full scores, and their standard deviation.
        methods: cross-validated over subjects.
        top_quartile: the best quarter predicted from the others.
        reliability: of the item curves' probabilities; None for metrics outside of [0, 1].
        drift: of generations that were given.
        gates: of hybrid items at each n; whether models may screen.
        recommended: method and n with the highest gain for their cost, among those that the gate allows.
    """

    eval_set: str
    subjects: int
    items: int
    constant: tuple[str, ...]
    negative: tuple[str, ...]
    mean: float
    spread: float
    methods: tuple[MethodReport, ...]
    top_quartile: tuple[MethodReport, ...]
    reliability: Reliability | None
    drift: tuple[Drift, ...]
    gates: tuple[Gate, ...]
    recommended: Recommendation | None

    @property
    def stale(self) -> bool:
        """Whether the latest generation shows that the bank no longer describes the candidates."""
        return bool(self.drift) and self.drift[-1].stale

    def to_dict(self) -> dict[str, Any]:
        """JSON values; null for what is not known."""
        return {"schema": SCHEMA, **_plain(asdict(self)), "stale": self.stale}


def item_report(
    bank: Bank,
    *,
    eval_set: str = "",
    seed: int = 0,
    numbers: Sequence[int] = NUMBERS,
    generations: Sequence[tuple[int, Selection, Floats]] = (),
    spread: float | None = None,
    overhead: float = OVERHEAD,
) -> ItemReport:
    """Report on a bank, by cross-validation over its subjects; a pure function of its arguments.

    Args:
        bank: complete rows.
        numbers: of items asked; those below N count.
        generations: number, selection and answers of a search's candidates, for drift.
        spread: standard deviation of full scores among candidates that will be compared; the bank's by default.
        overhead: what a candidate costs before its first item, in items.

    Raises:
        InvalidInputError: fewer than three subjects beside the parents, or gaps.
    """
    values, truth = bank.matrix.values, bank.matrix.full_scores
    others = np.setdiff1d(np.arange(len(values)), bank.parents)
    if len(others) < LEAST_SUBJECTS:
        raise InvalidInputError("bank", len(others), f"at least {LEAST_SUBJECTS} fully scored subjects beside parents")
    fits, quality = Fits(bank, iterations=ITERATIONS), item_quality(bank)
    asked = [n for n in sorted(set(numbers)) if 0 < n < len(bank.matrix.items)]
    bounded = bool(values.min() >= 0 and values.max() <= 1)
    approaches = _allowed(_APPROACHES, bank, bounded)
    methods = tuple(_cross_validated(fits, approach, n, seed) for approach in approaches for n in asked)
    gates = tuple(gate(fits, n, "hybrid", seed) for n in asked)
    own_spread = float(truth[others].std(ddof=1))
    return ItemReport(
        eval_set, len(values), values.shape[1],
        _ids(bank, quality.constant), _ids(bank, quality.negative), float(truth[others].mean()), own_spread,
        methods, tuple(_top_quartile(bank, approaches + _allowed(_RECENTRED, bank, bounded), asked, seed)),
        reliability(fits, max(asked, default=1), seed) if bounded else None,
        drift(fits, generations) if bounded else (), gates,
        _recommended(methods, gates, own_spread, own_spread if spread is None else spread, overhead),
    )  # fmt: skip


def _ids(bank: Bank, mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> tuple[str, ...]:
    return tuple(bank.matrix.items[place] for place in np.flatnonzero(mask))


def _allowed(approaches: Sequence[Approach], bank: Bank, bounded: bool) -> list[Approach]:
    """Those that the bank allows, small banks without the models that mislead there."""
    subjects = len(bank.matrix.subjects) - len(bank.parents)
    return [
        one
        for one in approaches
        if (bank.parents or (one.policy != "parent_neyman" and not ESTIMATORS[one.estimator].parents))
        and (bounded or not (ESTIMATORS[one.estimator].bounded or one.policy == "adaptive"))
        and subjects >= _least(one)
    ]


def _least(approach: Approach) -> int:
    if approach.estimator.endswith("blup"):
        return LEAST_BLUP
    return LEAST_EAP if approach.estimator.endswith("eap") else 0


def _cross_validated(fits: Fits, approach: Approach, n: int, seed: int) -> MethodReport:
    rows, found = cross_validate(fits, approach, n, draws=DRAWS, seed=seed)
    result = accuracy(fits.matrix.full_scores[rows], found, generator(seed, "report", approach.name, n))
    return MethodReport(approach.policy, approach.estimator, n, result)


def _top_quartile(bank: Bank, approaches: Sequence[Approach], numbers: Sequence[int], seed: int) -> list[MethodReport]:
    """Predict the best quarter (parents stay in the bank) from the rest."""
    truth = bank.matrix.full_scores
    free = np.setdiff1d(np.arange(len(truth)), bank.parents)
    ranked = free[np.argsort(truth[free], kind="stable")]
    top = ranked[len(ranked) - max(2, round(TOP_SHARE * len(ranked))) :]
    kept = np.setdiff1d(np.arange(len(truth)), top)
    inner = Bank(bank.matrix.of(kept), tuple(np.searchsorted(kept, np.array(bank.parents, dtype=np.intp)).tolist()))
    fits, answers, found = Fits(inner, iterations=ITERATIONS), bank.matrix.values[top], []
    for approach in approaches:
        if len(kept) - len(bank.parents) < max(_least(approach), 2):
            continue
        for n in numbers:
            draws = 1 if approach.policy in DETERMINED else DRAWS
            scores = [predict(fits, answers, approach, n, Stream(seed, draw, "top quartile")) for draw in range(draws)]
            result = accuracy(truth[top], scores, generator(seed, "report, top", approach.name, n))
            found.append(MethodReport(approach.policy, approach.estimator, n, result))
    return found


def _recommended(
    methods: Sequence[MethodReport], gates: Sequence[Gate], own_spread: float, spread: float, overhead: float
) -> Recommendation | None:
    """Error variances follow from how well each method ranks the bank; models count where the gate is open."""
    is_open = {one.n: one.open for one in gates}
    variances = [
        (f"{one.estimator}, {one.policy}", one.n, variance_from_tau(one.accuracy.tau, own_spread))
        for one in methods
        if not math.isnan(one.accuracy.tau)
        and (is_open[one.n] or ESTIMATORS[one.estimator].unbiased)
    ]  # fmt: skip
    return recommend(variances, spread, overhead=overhead) if variances and spread > 0 else None


def _plain(value: Any) -> Any:
    """Without NaN and infinity, which JSON has not."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
