"""Which units of two models become one: pairs across the models, or clusters within and across them.

Units of the first model have the numbers 0 to U − 1, those of the second U to 2U − 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

Clusters = tuple[tuple[int, ...], ...]
"""Units that become one, cluster by cluster; every unit is in one."""


def pairs(worth_UU: Tensor, apart: int) -> Clusters:
    """The best pairs of an optimal assignment are merged; the units of the other pairs stay side by side.

    Args:
        worth_UU: of units of the first model (rows) and of the second.
        apart: how many pairs are left apart: those that are worth least.

    Returns:
        The pairs in the first model's order, then its own units, then the second's.

    Source: Nasery et al. 2024, PLeaS, arXiv:2407.02447, section 3.1 (the worst-matched units are kept separate).

    >>> pairs(Tensor([[0.1, 0.9], [0.2, 0.1]]), apart=1)
    ((0, 3), (1,), (2,))
    """
    first, second = linear_sum_assignment(worth_UU.double().numpy(), maximize=True)
    size = len(first)
    matched = worth_UU.double().numpy()[first, second]
    left = set(np.argsort(matched, kind="stable")[:apart].tolist())
    merged = [(int(i), size + int(j)) for n, (i, j) in enumerate(zip(first, second, strict=True)) if n not in left]
    alone = [int(first[n]) for n in sorted(left)], [size + int(second[n]) for n in sorted(left)]
    return (*merged, *((unit,) for units in alone for unit in sorted(units)))


def zipped(similarity_NN: Tensor, number: int, *, alpha: float, beta: float) -> Clusters:
    """The two most similar of all units, of either model, are joined until `number` clusters are left.

    Args:
        similarity_NN: symmetric, of all 2U units.
        number: of clusters.
        alpha: a cluster is as similar to others as the least similar of its two parts, times this; 0: never joined
            with another of the models that its parts come from.
        beta: share of the joins of a model that may be within it.

    Returns:
        Clusters in the order of their first units.

    Source: Stoica et al. 2023, ZipIt!, arXiv:2305.03053, sections 4.1 to 4.3, as in the public code.
    """
    sims = similarity_NN.double().numpy().copy()
    np.fill_diagonal(sims, -np.inf)
    size = len(sims)
    model = np.repeat([0, 1], size // 2)
    members = {unit: [unit] for unit in range(size)}
    budget = [int((size - number) // 2 * beta + 1e-4)] * 2
    best = sims.argmax(axis=1)
    for _ in range(size - number):
        row = int(sims[np.arange(size), best].argmax())
        into, gone = sorted((row, int(best[row])))
        members[into] += members.pop(gone)
        joined = np.minimum(sims[into], sims[gone])
        if alpha > 0:
            joined = joined * alpha
        else:
            joined[np.isin(model, [model[into], model[gone]])] = -np.inf
        sims[into] = sims[:, into] = joined
        sims[gone] = sims[:, gone] = sims[into, into] = -np.inf
        if model[into] == model[gone]:
            budget[model[into]] -= 1
            if budget[model[into]] <= 0:
                own = model == model[into]
                sims[np.ix_(own, own)] = -np.inf
        _follow(sims, best, into, gone)
    return tuple(tuple(sorted(found)) for _, found in sorted(members.items()))


def _follow(sims: NDArray[np.float64], best: NDArray[np.intp], into: int, gone: int) -> None:
    """Every row's largest entry after rows `into` and `gone` have changed; the first of equal ones."""
    rows = np.arange(len(best))
    now = sims[rows, best]
    stale = (best == into) | (best == gone) | (rows == into) | np.isneginf(now)
    better = ~stale & ((sims[:, into] > now) | ((sims[:, into] == now) & (into < best)))
    best[better] = into
    best[stale] = sims[stale].argmax(axis=1)
