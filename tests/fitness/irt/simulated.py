"""Simulated banks and selections for tests of estimators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import expit

from fitness.irt.contracts import Bank, Selection
from fitness.matrix import Floats, ResponseMatrix, make_matrix


def matrix_of(values: Floats | Sequence[Sequence[float]], weights: Sequence[float] | None = None) -> ResponseMatrix:
    found = np.asarray(values, dtype=np.float64)
    subjects, items = found.shape
    return make_matrix(found, [f"s{m}" for m in range(subjects)], [f"i{i}" for i in range(items)], weights=weights)


def empty_bank(items: int) -> Bank:
    return Bank(matrix_of(np.empty((0, items))))


def answers_of_2pl(subjects: int, items: int, seed: int) -> tuple[Floats, Floats, Floats]:
    """Right and wrong answers of θ ~ N(0, 1), and the items' a and β."""
    random = np.random.Generator(np.random.Philox(seed))
    theta, a = random.standard_normal(subjects), np.exp(random.normal(0.0, 0.4, items))
    beta = random.normal(0.0, 1.0, items)
    return (random.random((subjects, items)) < expit(np.outer(theta, a) - beta)).astype(np.float64), a, beta


def simple(places: Sequence[int], items: int) -> Selection:
    """A simple random sample."""
    zeros = np.zeros(len(places), dtype=np.intp)
    return Selection(np.asarray(places, dtype=np.intp), zeros, {0: items}, np.ones(len(places), dtype=np.bool_))


def hybrid(chosen: Sequence[int], drawn: Sequence[int], items: int) -> Selection:
    """Chosen items, and others drawn from the rest."""
    places = np.asarray([*chosen, *drawn], dtype=np.intp)
    random = np.arange(len(places)) >= len(chosen)
    return Selection(places, np.zeros(len(places), dtype=np.intp), {0: items}, random)


def by_strata(places: Sequence[int], columns: Sequence[int]) -> Selection:
    """Drawn from every stratum."""
    strata, found = np.asarray(columns, dtype=np.intp), np.asarray(places, dtype=np.intp)
    sizes = {int(h): int((strata == h).sum()) for h in np.unique(strata)}
    return Selection(found, strata[found], sizes, np.ones(len(found), dtype=np.bool_), strata)
