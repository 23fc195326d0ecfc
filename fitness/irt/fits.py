"""What estimators learn from one bank, worked out once for all of them and only when asked for."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import InvalidInputError
from fitness.irt.ability import posteriors
from fitness.irt.contracts import Bank, Places, Selection
from fitness.irt.information import ask_batches, ask_each
from fitness.irt.item_quality import item_quality
from fitness.irt.linear import LinearModel, fit_linear
from fitness.irt.multidimensional import fit_multidimensional
from fitness.irt.two_parameter import ITERATIONS, NODES, ItemParameters, fit_two_parameter
from fitness.matrix import Floats, ResponseMatrix

FOLDS = 5
"""Of cross-validation over the bank's subjects; as many as subjects where there are fewer."""

REMEMBERED = 16
"""Selections whose cross-validation is kept."""

_T = TypeVar("_T")


class Fits:
    """Models of a bank.

    Args:
        iterations: of the EM; after four of them full scores from few items are within 2 % as exact as after 25.

    Raises:
        InvalidInputError: rows of the bank that are not complete.
    """

    def __init__(self, bank: Bank, *, iterations: int = ITERATIONS) -> None:
        if np.isnan(bank.matrix.values).any():
            raise InvalidInputError("bank", "gaps in its rows", "complete rows; `ResponseMatrix.complete` keeps those")
        self.bank = bank
        self.iterations = iterations
        self._remembered: dict[Hashable, Any] = {}

    def remember(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """What `make` gave for this key lately: subjects of a generation are asked the same items."""
        if key not in self._remembered:
            while len(self._remembered) >= REMEMBERED:
                del self._remembered[next(iter(self._remembered))]
            self._remembered[key] = make()
        found: _T = self._remembered[key]
        return found

    @property
    def matrix(self) -> ResponseMatrix:
        """Of the bank."""
        return self.bank.matrix

    @cached_property
    def items(self) -> ItemParameters:
        """Of the one-dimensional two-parameter model."""
        return fit_two_parameter(self.matrix, self.iterations)

    @cached_property
    def probabilities(self) -> Floats:
        """[N, Q] of the items at the quadrature nodes."""
        return self.items.probabilities(NODES[:, None]).T

    @cached_property
    def multidimensional(self) -> ItemParameters:
        """Of the model in several dimensions, for comparison, however small the bank."""
        return fit_multidimensional(self.matrix, force=True)

    @cached_property
    def linear(self) -> LinearModel:
        """Means and covariances of answers."""
        return fit_linear(self.matrix)

    @cached_property
    def folds(self) -> tuple[Places, ...]:
        """Rows that are held out together; none where the bank has fewer than two."""
        subjects = len(self.matrix.subjects)
        if subjects < 2:
            return ()
        return tuple(np.arange(fold, subjects, min(FOLDS, subjects)) for fold in range(min(FOLDS, subjects)))

    def _others(self, held: Places) -> ResponseMatrix:
        return self.matrix.of(np.setdiff1d(np.arange(len(self.matrix.subjects)), held))

    @cached_property
    def crossed_items(self) -> tuple[ItemParameters, ...]:
        """For each fold, items fitted on the other rows."""
        return tuple(fit_two_parameter(self._others(held), self.iterations) for held in self.folds)

    @cached_property
    def crossed_linear(self) -> tuple[LinearModel, ...]:
        """For each fold, the linear model of the other rows."""
        return tuple(fit_linear(self._others(held)) for held in self.folds)

    def eap_residuals(self, selection: Selection) -> Floats:
        """[M] estimates of the bank's full scores by `eap_scores` less the truth, each row by items fitted without it;
        none where the bank has fewer than two rows."""
        return self._crossed("eap", selection, self._eap_fold)[0]

    def eap_misfit(self, selection: Selection) -> float:
        """Variance of those residuals beyond what the one-dimensional model expects of them, at least 0: one dimension
        is not enough, and how much that matters depends on the items asked."""
        residuals, variances = self._crossed("eap", selection, self._eap_fold)
        return max(0.0, float((residuals**2 - variances).mean())) if len(residuals) else 0.0

    def _eap_fold(self, fold: int, places: Places) -> tuple[Floats, Floats]:
        answers = self.matrix.values[self.folds[fold]][:, places]
        return eap_scores(
            self.crossed_items[fold], self._crossed_curves[fold], self.matrix.weights, places, answers
        )  # fmt: skip

    @cached_property
    def _crossed_curves(self) -> tuple[Floats, ...]:
        return tuple(items.probabilities(NODES[:, None]).T for items in self.crossed_items)

    def linear_residuals(self, selection: Selection) -> Floats:
        """[M] the same for the linear model."""
        return self._crossed("linear", selection, self._linear_fold)[0]

    def _linear_fold(self, fold: int, places: Places) -> tuple[Floats, Floats]:
        means, variance = self.crossed_linear[fold].predict(places, self.matrix.values[self.folds[fold]][:, places])
        return means, np.full(len(means), variance)

    def _crossed(
        self, name: str, selection: Selection, estimate: Callable[[int, Places], tuple[Floats, Floats]]
    ) -> tuple[Floats, Floats]:
        """[M] residuals, and variances that the model expects of them.

        Items that were chosen are chosen anew for each fold, as many and by the same rule: a choice by all rows fits
        the row that is held out, too. Adaptive items follow the answers of the rows that are held out, as they followed
        those of the subjects scored; of greedy ones, the same for all, those asked count too, and what errs more is
        taken.
        """
        return self.remember((name, *_key(selection)), lambda: self._worse(selection, estimate))

    def _worse(
        self, selection: Selection, estimate: Callable[[int, Places], tuple[Floats, Floats]]
    ) -> tuple[Floats, Floats]:
        folds, number = range(len(self.folds)), int((~selection.random).sum())
        options = [] if number and selection.rule == "adaptive" else [[selection.places for _ in folds]]
        if number:
            drawn = selection.places[selection.random]
            anew = self.remember((selection.rule, number), lambda: [self._anew(selection, f, number) for f in folds])
            options.append([np.union1d(chosen, drawn) for chosen in anew])
        found = [self._left_out([estimate(fold, places[fold]) for fold in folds]) for places in options]
        return max(found, key=lambda one: float((one[0] ** 2).sum()))

    def _anew(self, selection: Selection, fold: int, number: int) -> Places:
        if selection.rule == "greedy":
            return self.crossed_linear[fold].greedy(number)
        answers = self.matrix.values[self.folds[fold]]
        return ask_batches(self.crossed_items[fold], number, self._crossed_sound[fold], answers)

    @cached_property
    def _crossed_sound(self) -> tuple[NDArray[np.bool_], ...]:
        return tuple(item_quality(Bank(self._others(held))).sound for held in self.folds)

    def each_misfit(self, number: int) -> float:
        """As `eap_misfit`, for `number` items that every subject is asked by itself."""
        return self.remember(("each", number), lambda: self._each_misfit(number))

    def _each_misfit(self, number: int) -> float:
        parts = []
        for fold, held in enumerate(self.folds):
            items, sound, answers = self.crossed_items[fold], self._crossed_sound[fold], self.matrix.values[held]
            asked = ask_each(items, min(number, int(sound.sum())), sound, answers)
            parts.append(each_scores(items, self._crossed_curves[fold], self.matrix.weights, asked, answers))
        residuals, variances = self._left_out(parts)
        return max(0.0, float((residuals**2 - variances).mean())) if len(residuals) else 0.0

    def _left_out(self, parts: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
        residuals, variances = np.empty((2, len(self.matrix.subjects) if parts else 0))
        for held, (means, expected) in zip(self.folds, parts, strict=True):
            residuals[held], variances[held] = means - self.matrix.full_scores[held], expected
        return residuals, variances

    @cached_property
    def left_over(self) -> Floats:
        """[M, N] the bank's answers less what the other rows' mean answers say of them, for two rows or more."""
        values = self.matrix.values
        return np.asarray(values - self.slope * (values.sum(axis=0) - values) / (len(values) - 1))

    def usual_variance(self, selection: Selection) -> float | None:
        """Variance within strata of `left_over`, over items that were not chosen; None for a bank of one row."""
        if len(self.matrix.values) < 2:
            return None
        return self.remember(("usual", *_key(selection)), lambda: self._usual_variance(selection))

    def _usual_variance(self, selection: Selection) -> float:
        strata = np.zeros(len(self.matrix.items)) if selection.columns is None else selection.columns.astype(np.float64)
        strata[selection.places[~selection.random]] = np.nan
        squares, number = 0.0, 0
        for stratum in np.unique(strata[~np.isnan(strata)]):
            inside = self.left_over[:, strata == stratum]
            squares, number = squares + float(inside.var(axis=1).mean()) * inside.shape[1], number + inside.shape[1]
        return squares / max(number, 1)

    @cached_property
    def slope(self) -> float:
        """β of answers on the mean answers of the bank's other rows, pooled over rows, in [0, 1]; 1 for one row."""
        values = self.matrix.values
        if len(values) < 2:
            return 1.0
        others = (values.sum(axis=0) - values) / (len(values) - 1)
        return _slope(values, others)

    @cached_property
    def model_slope(self) -> float:
        """β of answers on what the one-dimensional model predicts for them, in [0, 1]: the power tuning of
        Angelopoulos, Duchi and Zrnic 2023 (PPI++, arXiv:2311.01453), on the bank instead of on the sample."""
        if not self.folds:
            return 1.0
        everything = np.arange(len(self.matrix.items))
        predicted = np.empty_like(self.matrix.values)
        for held, items in zip(self.folds, self.crossed_items, strict=True):
            posterior = posteriors(items, everything, self.matrix.values[held])
            predicted[held] = posterior @ items.probabilities(NODES[:, None])
        return _slope(self.matrix.values, predicted)


def eap_scores(
    items: ItemParameters, curves: Floats, weights: Floats, places: Places, answers: Floats
) -> tuple[Floats, Floats]:
    """Full scores [K] of the one-dimensional model: answers [K, n] as they are, the rest as the posterior of ability
    expects them; and their variances [K], as far as the model knows them.

    Args:
        curves: [N, Q] probabilities at the quadrature nodes.
    """
    rest = weights.copy()
    rest[places] = 0.0
    expected, spread = rest @ curves, rest**2 @ (curves * (1 - curves))  # [Q]
    posterior = posteriors(items, places, answers)
    mean = posterior @ expected
    variances = np.maximum(posterior @ expected**2 - mean**2, 0.0) + posterior @ spread
    return answers @ weights[places] + mean, variances


def each_scores(
    items: ItemParameters, curves: Floats, weights: Floats, asked: Places, answers: Floats
) -> tuple[Floats, Floats]:
    """`eap_scores` of subjects with answers [K, N] that were asked items [K, n] of their own."""
    means, variances = np.empty((2, len(answers)))
    for k, (places, row) in enumerate(zip(asked, answers, strict=True)):
        means[k : k + 1], variances[k : k + 1] = eap_scores(items, curves, weights, places, row[None, places])
    return means, variances


def _key(selection: Selection) -> tuple[bytes, bytes, bytes]:
    return selection.places.tobytes(), selection.random.tobytes(), selection.rule.encode()


def _slope(values: Floats, controls: Floats) -> float:
    """Pooled within rows."""
    x = controls - controls.mean(axis=1, keepdims=True)
    spread = float((x**2).sum())
    return float(np.clip((x * values).sum() / spread, 0.0, 1.0)) if spread > 0 else 1.0
