"""Which items a generation is asked: seeded draws without replacement, simple or stratified by the items' group.

All candidates of a generation answer the same items (their differences are then far less noisy than their means), and
every generation has items of its own: a fixed subset is exploited by the optimizer.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evomerge.errors import InvalidInputError
from evomerge.seeds import generator
from fitness.items import Item

Policy = Literal["random", "stratified"]


@dataclass(frozen=True, slots=True)
class Subset:
    """Items drawn from a population, sorted by id.

    Attributes:
        ids: without repetition.
        strata: the stratum that each was drawn from; all "" for a simple random sample.
    """

    ids: tuple[str, ...]
    strata: tuple[str, ...]


def draw(
    items: Sequence[Item],
    n: int | None,
    *,
    policy: Policy,
    seed: int,
    generation: int,
    eval_set: str = "",
    fidelity: float = 1.0,
) -> Subset:
    """Draw `n` items without replacement; the same arguments give the same subset whatever the order of `items`.

    Args:
        items: the population.
        n: how many; None, or as many as there are or more, takes everything.
        policy: `stratified` shares `n` among the items' groups in proportion to their size, at least one each; with
            fewer items than groups it is a simple random sample.
        seed: the run's seed.
        generation: draws of different generations are independent.
        eval_set: draws of different eval sets are independent.
        fidelity: so many times `n` items, at least 1. A subset of a higher fidelity holds all items of a lower one.

    Raises:
        InvalidInputError: `n` or `fidelity` is below 1, there are no items, or the policy is unknown.
    """
    if policy not in ("random", "stratified"):
        raise InvalidInputError("subset.policy", policy, "'random' or 'stratified'")
    if not items or (n is not None and n < 1):
        raise InvalidInputError("items", n if items else "no items", "at least one item")
    if not 1 <= fidelity < math.inf:
        raise InvalidInputError("fidelity", fidelity, "a number of at least 1")
    population = sorted(items, key=lambda item: item.id)
    size = len(population) if n is None else min(n, len(population))
    larger = min(round(size * fidelity), len(population))
    sizes = Counter(item.group for item in population)
    stratified = policy == "stratified" and size >= len(sizes)
    shares, more = (allocate(sizes, count) if stratified else {"": count} for count in (size, larger))
    chosen: list[tuple[str, str]] = []
    for stratum, share in sorted(shares.items()):
        pool = [item.id for item in population if not stratified or item.group == stratum]
        stream = generator(seed, "subset", eval_set, generation, stratum)
        places = stream.choice(len(pool), size=share, replace=False)
        rest = np.setdiff1d(np.arange(len(pool)), places)
        further = stream.permutation(rest)[: more[stratum] - share]
        chosen += [(pool[i], stratum) for i in (*places, *further)]
    chosen.sort()
    return Subset(tuple(i for i, _ in chosen), tuple(s for _, s in chosen))


def allocate(sizes: dict[str, int] | Counter[str], n: int) -> dict[str, int]:
    """Share `n` among strata in proportion to their sizes: one each, then the highest quotient size / (2 share + 1)
    next (Webster), so that a larger `n` never takes an item away from a stratum. Ties go to the first name.

    Args:
        sizes: stratum → items in it, all positive; `n` between their number and their sum.

    >>> allocate({"a": 6, "b": 3, "c": 1}, 5)
    {'a': 3, 'b': 1, 'c': 1}
    """
    shares = dict.fromkeys(sorted(sizes), 1)
    queue = [(-sizes[s] / 3, s) for s in shares if sizes[s] > 1]
    heapq.heapify(queue)
    for _ in range(n - len(shares)):
        _, stratum = heapq.heappop(queue)
        shares[stratum] += 1
        if shares[stratum] < sizes[stratum]:
            heapq.heappush(queue, (-sizes[stratum] / (2 * shares[stratum] + 1), stratum))
    return shares
