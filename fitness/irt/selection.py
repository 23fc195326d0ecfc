"""Which items a generation is asked, chosen by what a bank of complete answers knows of them.

- `random`: a simple random sample. Nests: a larger n holds a smaller one.
- `stratified`: strata of the parents' pattern and the bank's easiness, in proportion, two items each. Nests.
- `parent_neyman`: strata of the parents' pattern, shares by size times standard deviation (Neyman 1934). Nests for
  equal `deviations`.
- `greedy`: the items that leave the least variance of the full score (best linear prediction), the same for everybody.
  Nests.
- `hybrid`: greedy for 60 % of `base`, all others at random from what is left. Nests.
- `adaptive`: the most informative items (Fisher) at the population's abilities. Nests for equal abilities.

Nesting is by `base`, the smallest n of a family of draws: it settles the strata and how many items are chosen. Only
what is drawn at random has an inclusion probability; estimates from chosen items rest on the model that chose them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import InvalidInputError
from evomerge.seeds import generator
from fitness.irt.contracts import Bank, Places, Rule, Selection
from fitness.irt.information import population_order
from fitness.irt.item_quality import item_quality
from fitness.irt.linear import fit_linear
from fitness.irt.strata import DEVIATIONS, MOST, pattern_strata, quantile_strata
from fitness.irt.two_parameter import ItemParameters
from fitness.matrix import Floats
from fitness.subset import allocate, deck_order, random_order

Policy = Literal["random", "stratified", "parent_neyman", "greedy", "hybrid", "adaptive"]

CHOSEN_SHARE = 0.6
"""Of a hybrid selection; the rest is drawn at random and corrects what the model gets wrong."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Names a draw: equal streams give equal items. `generation` counts from 0."""

    seed: int
    generation: int = 0
    eval_set: str = ""


@dataclass(frozen=True, slots=True)
class Rotation:
    """How soon an item may come again.

    What is drawn at random is dealt from a deck: no item comes again before its stratum is used up. What is chosen
    leaves out the items that were asked too often lately.

    Attributes:
        share: of the latest `window` generations, this one among them, in which an item may be asked if it is to be
            chosen; in (0, 1]. One generation is always allowed.
        window: generations, at least 1.
        recent: what earlier generations asked, oldest first.
    """

    share: float = 1.0
    window: int = 10
    recent: tuple[Selection, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InvalidInputError("rotation.share", self.share, "a number above 0, at most 1")
        if self.window < 1:
            raise InvalidInputError("rotation.window", self.window, "at least 1")

    def allowed(self, num_items: int) -> NDArray[np.bool_]:
        """[num_items] which items may be chosen."""
        counts = np.zeros(num_items, dtype=np.intp)
        for selection in self.recent[max(0, len(self.recent) - self.window + 1) :]:
            counts[selection.places] += 1
        return counts < max(1, int(self.share * self.window + 1e-9))


def select(
    bank: Bank,
    n: int,
    policy: Policy,
    stream: Stream,
    *,
    base: int | None = None,
    rotation: Rotation | None = None,
    deviations: dict[int, float] | None = None,
    curves: ItemParameters | None = None,
    abilities: Floats | None = None,
    asked: Places | None = None,
) -> Selection:
    """Name `n` items of the bank, or all it has; the same arguments give the same items.

    Constant items and those that run against the others are never chosen, only drawn; where too few are left to choose
    from, the rest is drawn.

    Args:
        base: the smallest n of draws that nest; `n` itself by default.
        rotation: None for generations that are independent of each other.
        deviations: of the answers by the parents' pattern, for `parent_neyman`; `strata.observed_deviations` of earlier
            generations, or the usual ones.
        curves: the bank's fitted item curves, for `adaptive`.
        abilities: [K] of the population, for `adaptive`; the prior's quantiles by default.
        asked: items of earlier batches, for `adaptive`: they are among the n, and the others are new.

    Returns:
        Places in ascending order. Where items are chosen there is one stratum.

    Raises:
        InvalidInputError: n < 1, base outside 1 .. n, an unknown policy, or one that needs parents, complete answers or
            curves that are missing.
    """
    _check(bank, n, policy, base, curves)
    num_items = len(bank.matrix.items)
    n, base = min(n, num_items), min(base or n, n, num_items)
    chosen = _chosen(bank, n, base, policy, rotation, curves, abilities, asked)
    strata, shares = _shares(bank, n, base, policy, chosen, deviations)
    first = _shares(bank, base, base, policy, chosen[:base], deviations)[1]
    drawn = _draw(bank, strata, shares, first, stream, rotation)
    places = np.concatenate([chosen, drawn]).astype(np.intp)
    labels = np.concatenate([np.zeros(len(chosen), dtype=np.intp), strata[drawn]])
    order = np.argsort(places)
    columns = np.maximum(strata, 0)
    random = np.arange(len(places)) >= len(chosen)
    rule: Rule = "adaptive" if policy == "adaptive" else "greedy"
    return Selection(places[order], labels[order], _sizes(columns), random[order], columns, rule)


def _check(bank: Bank, n: int, policy: Policy, base: int | None, curves: ItemParameters | None) -> None:
    if n < 1:
        raise InvalidInputError("subset.n", n, "at least one item")
    if base is not None and not 1 <= base <= n:
        raise InvalidInputError("subset.base", base, f"between 1 and n = {n}")
    if policy not in get_args(Policy):
        raise InvalidInputError("subset.policy", policy, " | ".join(get_args(Policy)))
    subjects = len(bank.matrix.subjects)
    if policy in ("greedy", "hybrid") and subjects < 2:
        raise InvalidInputError("subset.policy", policy, f"a bank of at least 2 subjects; this one has {subjects}")
    if policy == "adaptive" and curves is None:
        raise InvalidInputError("subset.policy", policy, "item curves fitted on the bank")


def _chosen(
    bank: Bank,
    n: int,
    base: int,
    policy: Policy,
    rotation: Rotation | None,
    curves: ItemParameters | None,
    abilities: Floats | None,
    asked: Places | None,
) -> Places:
    """The items that the policy picks by what it knows, best first."""
    if policy not in ("greedy", "hybrid", "adaptive"):
        return np.empty(0, dtype=np.intp)
    open_items = item_quality(bank).sound
    if rotation is not None:
        open_items &= rotation.allowed(len(open_items))
    if curves is not None and policy == "adaptive":
        before = np.empty(0, dtype=np.intp) if asked is None else asked[:n]
        open_items[before] = False
        number = min(n - len(before), int(open_items.sum()))
        return np.concatenate([before, population_order(curves, number, open_items, abilities)])
    number = min(round(CHOSEN_SHARE * base) if policy == "hybrid" else n, int(open_items.sum()))
    return fit_linear(bank.matrix).greedy(number, np.flatnonzero(open_items))


def _shares(
    bank: Bank, n: int, base: int, policy: Policy, chosen: Places, deviations: dict[int, float] | None
) -> tuple[Places, dict[int, int]]:
    """[N] strata, −1 for items that are not drawn, and how many are drawn from each."""
    if policy == "stratified":
        strata = quantile_strata(bank, max(1, min(base // 2, MOST)))
    elif policy == "parent_neyman":
        strata = pattern_strata(bank)
        if base < len(np.unique(strata)):
            strata = np.zeros_like(strata)
    else:
        strata = np.zeros(len(bank.matrix.items), dtype=np.intp)
        strata[chosen] = -1
    sizes = _sizes(strata[strata >= 0])
    if policy in ("stratified", "parent_neyman") and len(sizes) > 1:
        weights = None
        if policy == "parent_neyman":
            spread = DEVIATIONS | (deviations or {})
            weights = {kind: size * spread[kind] for kind, size in sizes.items()}
        return strata, allocate(sizes, n, weights=weights, least=2 if base >= 2 * len(sizes) else 1)
    return strata, {kind: min(n - len(chosen), size) for kind, size in sizes.items()}


def _sizes(strata: Places) -> dict[int, int]:
    kinds, counts = np.unique(strata, return_counts=True)
    return dict(zip(kinds.tolist(), counts.tolist(), strict=True))


def _draw(
    bank: Bank,
    strata: Places,
    shares: dict[int, int],
    first: dict[int, int],
    stream: Stream,
    rotation: Rotation | None,
) -> Places:
    """Without replacement within strata; whatever the order of the bank's items."""
    by_name = np.array(sorted(range(len(strata)), key=bank.matrix.items.__getitem__), dtype=np.intp)
    drawn = []
    for stratum, share in shares.items():
        name = str(stratum) if len(shares) > 1 else ""
        if rotation is None:
            pool = by_name[strata[by_name] == stratum]
            random = generator(stream.seed, "subset", stream.eval_set, stream.generation, name)
            drawn.append(pool[random_order(len(pool), random, first=first[stratum])[:share]])
            continue
        # Chosen items stay in the deck and are passed over: what is left of a hand is a simple random sample of the
        # other items whatever was chosen in this generation and in those before.
        pool = by_name[(strata[by_name] == stratum) | (strata[by_name] < 0)]
        shuffle = partial(generator, stream.seed, "deck", stream.eval_set, name)
        order = pool[deck_order(len(pool), max(1, first[stratum]), stream.generation, shuffle)]
        drawn.append(order[strata[order] == stratum][:share])
    return np.concatenate(drawn) if drawn else np.empty(0, dtype=np.intp)
