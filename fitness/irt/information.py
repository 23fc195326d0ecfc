"""Adaptive testing: the items that tell most about abilities, asked in batches or one subject at a time.

K subjects, N items of a one-dimensional two-parameter model. Source: Lord 1980, Applications of Item Response Theory,
chapter 10.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fitness.irt.ability import eap
from fitness.irt.contracts import Places
from fitness.irt.two_parameter import LOG_WEIGHTS, NODES, ItemParameters
from fitness.matrix import Floats

BATCH = 12
"""Items asked between two looks at the population's abilities: enough for a worker's batch, few enough to adapt."""


def information(items: ItemParameters, abilities: Floats) -> Floats:
    """[K, N] Fisher information of an answer about abilities [K]: a² p (1 − p)."""
    p = items.probabilities(np.asarray(abilities, dtype=np.float64)[:, None])
    return np.asarray(items.a[:, 0] ** 2 * p * (1 - p))


def population_order(
    items: ItemParameters,
    number: int,
    open_items: NDArray[np.bool_],
    abilities: Floats | None = None,
    *,
    batch: int = BATCH,
) -> Places:
    """Items for a whole population, a batch spread over its abilities.

    Each item of a batch is the most informative one that is left at one of `batch` quantiles of ability. With abilities
    from the answers so far, the next batch asks what its population needs; without any, the prior's quantiles stand for
    them.

    Args:
        number: how many; no more than are open.
        open_items: [N] which may be asked.
        abilities: [K] at least one, or None for the standard normal distribution.
        batch: quantiles, at least 1.

    Returns:
        [number] places, without repetition; the first k are the choice of k items.
    """
    levels = (_spread_out(batch) + 0.5) / batch
    marks = stats.norm.ppf(levels) if abilities is None else np.quantile(abilities, levels)
    tables = np.where(open_items, information(items, marks), -1.0)
    order: list[int] = []
    for turn in range(number):
        best = int(np.argmax(tables[turn % batch]))
        tables[:, best] = -1.0
        order.append(best)
    return np.array(order, dtype=np.intp)


def _spread_out(number: int) -> Floats:
    """0 .. number − 1 by bit-reversed counting, so that every prefix is spread over the whole (van der Corput)."""
    bits = max(1, (number - 1).bit_length())
    counts = [int(f"{i:0{bits}b}"[::-1], 2) for i in range(2**bits)]
    return np.array([count for count in counts if count < number], dtype=np.float64)


def ask_batches(items: ItemParameters, number: int, open_items: NDArray[np.bool_], answers: Floats) -> Places:
    """[number] items for a whole population by its answers [K, N]: a batch by the prior, the next ones by abilities
    from the answers so far (expected a posteriori); fewer where fewer are open."""
    number = min(number, int(open_items.sum()))
    found = population_order(items, min(number, BATCH), open_items)
    while len(found) < number:
        left = open_items.copy()
        left[found] = False
        abilities = eap(items, found, answers[:, found])[0]
        found = np.concatenate([found, population_order(items, min(number - len(found), BATCH), left, abilities)])
    return found


def ask_each(items: ItemParameters, number: int, open_items: NDArray[np.bool_], answers: Floats) -> Places:
    """[K, number] the items that K subjects are asked one by one, each the most informative at its ability so far.

    Abilities are expected a posteriori, after every answer (Bock and Mislevy 1982).

    Args:
        number: of items for each; no more than are open.
        open_items: [N] which may be asked.
        answers: [K, N], of which those asked are read.
    """
    rows = np.arange(len(answers))
    left = np.tile(open_items, (len(answers), 1))
    logs = np.tile(LOG_WEIGHTS, (len(answers), 1))
    z = items.a[:, :1] * NODES - items.beta[:, None]
    softplus = np.logaddexp(0.0, z)
    asked = np.empty((len(answers), number), dtype=np.intp)
    for turn in range(number):
        posterior = np.exp(logs - logs.max(axis=1, keepdims=True))
        theta = posterior @ NODES / posterior.sum(axis=1)
        best = np.argmax(np.where(left, information(items, theta), -1.0), axis=1)
        left[rows, best] = False
        logs += answers[rows, best][:, None] * z[best] - softplus[best]
        asked[:, turn] = best
    return asked
