"""May a model of the bank screen candidates? Only where the bank itself shows that it ranks no worse than sampling.

Models mislead when few subjects are known, or when candidates are unlike them (Zhang, Dorner and Hardt 2025). Below a
number of subjects no model is asked; above it, models and the unbiased estimator are compared on subjects held out of
the bank, at the same number of items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fitness.irt.accuracy import kendall
from fitness.irt.contracts import Bank, Scores
from fitness.irt.cross_validation import Approach, cross_validate
from fitness.irt.fits import Fits
from fitness.irt.selection import Policy
from fitness.matrix import Floats

LEAST_EAP = 8
"""Subjects below which one-dimensional abilities are not used."""

LEAST_BLUP = 24
"""Subjects below which best linear prediction is not used. On leaderboards it ranks worse than a plain mean with banks
of 4 to 16; with 24 merges of the same sources it ranked others of them far better (experiments/few_items_search)."""

ITERATIONS = 4
"""Of the item fits: enough for full scores, a sixth of the time of a full fit."""

DRAWS = 4
"""Sets of items that a comparison is averaged over."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether a model may screen, and why.

    Attributes:
        open: a model may.
        method: name of the estimator to use: the model that ranks best, or the unbiased one where the gate is closed.
        n: items that it was asked for.
        policy: of the items.
        reasons: in words, for a person; at least one.
        mse_m: mean square error of the best model on subjects held out, NaN where none was tried.
        tau_m: its Kendall τ with full scores there.
        tau_u: the unbiased estimator's, on as many items drawn at random.
    """

    open: bool
    method: str
    n: int
    policy: str
    reasons: tuple[str, ...]
    mse_m: float
    tau_m: float
    tau_u: float


@dataclass(frozen=True, slots=True)
class Offset:
    """How far a generation's unbiased scores lay from the model's, on average, and the standard error of that."""

    mean: float
    error: float
    applied: bool = True


def gate(
    bank: Bank | Fits, n: int, policy: Policy, seed: int, *, offset: Offset | None = None, draws: int = DRAWS
) -> Gate:
    """Ask the bank whether a model may screen candidates that answer `n` items chosen by `policy`.

    A pure function of its arguments. The bank's rows are complete; the parents are no evidence and are not counted. A
    second or two for 60 subjects and 1000 items.

    Args:
        bank: or what was learnt from it already.
        offset: of the latest generation; unless it was applied (scores recentred), one beyond two standard errors
            closes the gate.

    Raises:
        InvalidInputError: n < 1, an unknown policy, or one that the bank does not allow.
    """
    fits = bank if isinstance(bank, Fits) else Fits(bank, iterations=ITERATIONS)
    bank = fits.bank
    subjects = len(bank.matrix.subjects) - len(bank.parents)
    unbiased = "difference" if bank.parents else "greg" if subjects else "stratified"
    nan = float("nan")
    if subjects < LEAST_EAP:
        reason = f"the bank holds {subjects} fully scored subject(s); models need {LEAST_EAP}"
        return Gate(False, unbiased, n, policy, (reason,), nan, nan, nan)
    values = bank.matrix.values
    names = ["eap"] if values.min() >= 0 and values.max() <= 1 else []
    names += ["blup"] if subjects >= LEAST_BLUP else []
    reasons = [] if "blup" in names else [f"blup: needs {LEAST_BLUP} fully scored subjects, the bank holds {subjects}"]
    if "eap" not in names:
        reasons.append("eap: needs answers between 0 and 1")
    if not names:
        return Gate(False, unbiased, n, policy, tuple(reasons), nan, nan, nan)
    return _compare(fits, n, policy, seed, names, unbiased, reasons, offset, draws)


def _compare(
    fits: Fits,
    n: int,
    policy: Policy,
    seed: int,
    names: Sequence[str],
    unbiased: str,
    reasons: list[str],
    offset: Offset | None,
    draws: int,
) -> Gate:
    truth = fits.matrix.full_scores
    drawn: Policy = policy if policy in ("random", "stratified", "parent_neyman") else "random"
    rows, found = cross_validate(fits, Approach(drawn, unbiased), n, draws=draws, seed=seed)
    tau_u = _mean_tau(truth[rows], found)
    tried: list[tuple[float, float, str]] = []
    for name in names:
        rows, found = cross_validate(fits, Approach(policy, name), n, draws=draws, seed=seed)
        tau, mse = _mean_tau(truth[rows], found), float(np.mean([(s.means - truth[rows]) ** 2 for s in found]))
        tried.append((tau, mse, name))
        verdict = "no worse than" if tau >= tau_u else "worse than"
        reasons.append(f"{name}: Kendall's tau {tau:.2f} with {n} items, {verdict} the {tau_u:.2f} of {unbiased}")
    tau_m, mse_m, best = max(tried, key=lambda one: (one[0], -one[1]))
    is_open = tau_m >= tau_u
    if offset is not None and not offset.applied and abs(offset.mean) > 2 * offset.error:
        is_open = False
        reasons.append(f"scores are off by {offset.mean:+.3f} ± {offset.error:.3f}, and were not recentred")
    return Gate(is_open, best if is_open else unbiased, n, policy, tuple(reasons), mse_m, tau_m, tau_u)


def _mean_tau(truth: Floats, found: Sequence[Scores]) -> float:
    """0 where estimates never vary: they rank nothing."""
    return float(np.mean(np.nan_to_num([kendall(scores.means, truth) for scores in found])))
