"""Items chosen as in earlier work: anchor points and the largest disagreement."""

from __future__ import annotations

import numpy as np

from evomerge.errors import InvalidInputError
from evomerge.seeds import generator
from fitness.irt.contracts import Bank, Places, Selection
from fitness.irt.two_parameter import ItemParameters
from fitness.matrix import Floats

RESTARTS = 5
ROUNDS = 100


def embeddings(bank: Bank, items: ItemParameters | None = None) -> Floats:
    """[N, D + 1] (a, β) of fitted items, or the bank's answers [N, M] where none are given."""
    return bank.matrix.values.T if items is None else np.column_stack([items.a, items.beta])


def anchors(points: Floats, weights: Floats, n: int, seed: int = 0) -> tuple[Places, Floats]:
    """The items next to the n centres of weighted k-means, and the weight of each one's cluster.

    Args:
        points: [N, ·] of `embeddings`.
        weights: [N] of the items in the full score, sum 1.

    Returns:
        [n] places in ascending order and [n] weights, sum 1.

    Raises:
        InvalidInputError: n is not within 1..N.

    Source: Vivek et al. 2024 (anchor points, arXiv:2309.08638); Polo et al. 2024 (tinyBenchmarks, arXiv:2402.14992),
    section 3.2.
    """
    if not 1 <= n <= len(points):
        raise InvalidInputError("subset.n", n, f"1 to {len(points)} anchors")
    runs = [_k_means(points, weights, n, generator(seed, "anchors", n, run)) for run in range(RESTARTS)]
    centres, _ = min(runs, key=lambda run: run[1])
    distances = squared_distances(points, centres)
    places: list[int] = []
    for centre in range(n):  # no item twice, where points coincide
        column = distances[:, centre].copy()
        column[places] = np.inf
        places.append(int(np.argmin(column)))
    totals: Floats = np.bincount(distances.argmin(axis=1), weights, minlength=n).astype(np.float64)
    order = np.argsort(places)
    return np.asarray(places, dtype=np.intp)[order], totals[order]


def chosen(places: Places, num_items: int) -> Selection:
    """A selection of items that nothing but choice picked out."""
    places = np.sort(places)
    zeros = np.zeros(len(places), dtype=np.intp)
    return Selection(places, zeros, {0: num_items}, zeros.astype(np.bool_), np.zeros(num_items, dtype=np.intp))


def top_disagreement(bank: Bank, n: int) -> Places:
    """The n items on which the bank's rows differ most, the first ones on ties; as DISCO chooses (Rubinstein et al.
    2026), which has the disagreement of predicted classes where we have the variance of answers."""
    return np.sort(np.argsort(-bank.matrix.values.var(axis=0), kind="stable")[:n])


def _k_means(points: Floats, weights: Floats, n: int, random: np.random.Generator) -> tuple[Floats, float]:
    """Centres [n, ·] and the weighted squared distances to them: Lloyd's rounds from k-means++."""
    centres = _plus_plus(points, weights, n, random)
    for _ in range(ROUNDS):
        nearest = squared_distances(points, centres).argmin(axis=1)
        totals = np.bincount(nearest, weights, minlength=n)
        member = (nearest[None, :] == np.arange(n)[:, None]) * weights
        moved = np.where(totals[:, None] > 0, member @ points / np.maximum(totals, 1e-300)[:, None], centres)
        if np.allclose(moved, centres, rtol=0, atol=1e-10):
            break
        centres = moved
    return centres, float(squared_distances(points, centres).min(axis=1) @ weights)


def _plus_plus(points: Floats, weights: Floats, n: int, random: np.random.Generator) -> Floats:
    """Arthur and Vassilvitskii 2007: each next centre with probability in proportion to its squared distance."""
    taken = [int(random.choice(len(points), p=weights))]
    nearest = squared_distances(points, points[taken]).min(axis=1)
    while len(taken) < n:
        chance = weights * nearest
        left = np.setdiff1d(np.arange(len(points)), taken)
        total = chance.sum()
        taken.append(int(random.choice(len(points), p=chance / total)) if total > 1e-300 else int(random.choice(left)))
        nearest = np.minimum(nearest, squared_distances(points, points[taken[-1:]])[:, 0])
    return points[taken]


def squared_distances(points: Floats, centres: Floats) -> Floats:
    """[N, n] between points [N, ·] and centres [n, ·]."""
    norms = (points**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1)
    return np.asarray(np.maximum(norms - 2 * points @ centres.T, 0.0))
