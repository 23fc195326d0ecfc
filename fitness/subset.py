"""Which items a generation is asked: seeded draws without replacement, simple or stratified by the items' group.

All candidates of a generation answer the same items (their differences are then far less noisy than their means), and
every generation has items of its own: a fixed subset is exploited by the optimizer. Generations are independent of each
other, or dealt from a deck: then no item comes again before all have come.

`fitness.irt.selection` chooses items by what a bank of answers knows of them; it draws what it draws by the functions
here.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import InvalidInputError
from evomerge.seeds import generator
from fitness.items import Item

Policy = Literal["random", "stratified"]
Places = NDArray[np.intp]
Key = TypeVar("Key", str, int)


CERTAIN = "\0certain"
"""The stratum of items that were chosen instead of drawn: they stand for themselves."""


@dataclass(frozen=True, slots=True)
class Subset:
    """Items drawn from a population, sorted by id.

    Attributes:
        ids: without repetition.
        strata: the stratum that each was drawn from; all "" for a simple random sample; `CERTAIN` for chosen items.
    """

    ids: tuple[str, ...]
    strata: tuple[str, ...]

    @property
    def certain(self) -> frozenset[str]:
        """The items that were chosen."""
        return frozenset(i for i, stratum in zip(self.ids, self.strata, strict=True) if stratum == CERTAIN)

    def beside(self, chosen: Collection[str]) -> Subset:
        """These items and chosen ones, which none of them is among."""
        both = sorted([*zip(self.ids, self.strata, strict=True), *((i, CERTAIN) for i in chosen)])
        return Subset(tuple(i for i, _ in both), tuple(s for _, s in both))


def draw(
    items: Sequence[Item],
    n: int | None,
    *,
    policy: Policy,
    seed: int,
    generation: int,
    eval_set: str = "",
    fidelity: float = 1.0,
    deck: bool = False,
    deviations: Mapping[str, float] | None = None,
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
        deck: generations share the items among them: none comes again before its stratum is used up (by generations
            numbered 0, 1, 2 ... of the same `n`). Each by itself is a draw like any other.
        deviations: group → standard deviation of what its items are worth, positive. A stratified draw is then shared
            out by size times deviation (Neyman 1934; Cochran 1977, eq. 5.26), two items each where there are so many:
            a variance takes two.

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
    least, weights = 1, None
    if stratified and deviations is not None:
        least = 2 if size >= 2 * len(sizes) else 1
        weights = {stratum: number * deviations[stratum] for stratum, number in sizes.items()}
    shares, more = (
        allocate(sizes, count, weights=weights, least=least) if stratified else {"": count} for count in (size, larger)
    )
    chosen: list[tuple[str, str]] = []
    for stratum, share in sorted(shares.items()):
        pool = [item.id for item in population if not stratified or item.group == stratum]
        if deck:
            order = deck_order(len(pool), share, generation, partial(generator, seed, "deck", eval_set, stratum))
        else:
            order = random_order(len(pool), generator(seed, "subset", eval_set, generation, stratum), first=share)
        chosen += [(pool[i], stratum) for i in order[: more[stratum]]]
    chosen.sort()
    return Subset(tuple(i for i, _ in chosen), tuple(s for _, s in chosen))


def random_order(size: int, stream: np.random.Generator, *, first: int = 0) -> Places:
    """All places 0 .. size − 1; the first k are a simple random sample without replacement, for every k >= `first`."""
    places = stream.choice(size, size=first, replace=False)
    rest = np.setdiff1d(np.arange(size), places)
    return np.concatenate([places, stream.permutation(rest)]).astype(np.intp)


def deck_order(size: int, hand: int, generation: int, stream: Callable[[int], np.random.Generator]) -> Places:
    """All places, in the order in which a generation would take them from a shuffled deck.

    Generation g is dealt `hand` places after those of generation g − 1; a deck that ends within a hand is followed by a
    newly shuffled one, without the places that the hand has. So no place comes a third time before each has come twice,
    and none twice in a hand. All places are treated alike: the first k of a generation are a simple random sample
    without replacement, though those of different generations avoid each other.

    Args:
        size: places in the deck, at least 1.
        hand: places for a generation, at least 1.
        generation: from 0.
        stream: number of the deck → its random numbers.

    Returns:
        [size] places; the first `hand` are the hand, the next what later generations will be dealt.
    """
    hand, number, start = min(hand, size), 0, 0
    deck = stream(0).permutation(size).astype(np.intp)
    while True:
        hands = -((start - size) // hand)  # that begin in this deck
        last = deck[start + (hands - 1) * hand :]
        following = _shuffled_after(last, hand - len(last), stream(number + 1).permutation(size))
        if generation < hands:
            left = deck[start + generation * hand :]
            return np.concatenate([left, following[~np.isin(following, left)]])
        generation -= hands
        deck, number, start = following, number + 1, hand - len(last)


def _shuffled_after(last: Places, missing: int, shuffled: NDArray[np.int64]) -> Places:
    """The next deck: its first `missing` places complete a hand that holds the `last` ones of the deck before."""
    first = shuffled[~np.isin(shuffled, last)][:missing]
    return np.concatenate([first, shuffled[~np.isin(shuffled, first)]]).astype(np.intp)


def allocate(
    sizes: Mapping[Key, int], n: int, *, weights: Mapping[Key, float] | None = None, least: int = 1
) -> dict[Key, int]:
    """Share `n` among strata in proportion to their sizes: `least` each, then the highest quotient
    size / (2 share + 1) next (Webster), so that a larger `n` never takes an item away from a stratum. Ties go to the
    first name.

    Args:
        sizes: stratum → items in it, all positive.
        n: between what `least` needs and the sum of the sizes.
        weights: what shares are proportional to instead of the sizes, all positive (Neyman's: size times deviation).
        least: items for each stratum, or all of it where it has no more.

    >>> allocate({"a": 6, "b": 3, "c": 1}, 5)
    {'a': 3, 'b': 1, 'c': 1}
    """
    shares = {stratum: min(least, sizes[stratum]) for stratum in sorted(sizes)}
    claims = sizes if weights is None else weights
    queue = [(-claims[s] / (2 * shares[s] + 1), s) for s in shares if shares[s] < sizes[s]]
    heapq.heapify(queue)
    for _ in range(n - sum(shares.values())):
        _, stratum = heapq.heappop(queue)
        shares[stratum] += 1
        if shares[stratum] < sizes[stratum]:
            heapq.heappush(queue, (-claims[stratum] / (2 * shares[stratum] + 1), stratum))
    return shares
