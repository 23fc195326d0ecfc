"""Which items are kept for the report: a hash of what is asked decides, so that neither order nor chance does.

Questions that are nearly the same lie on one side. Near duplicates are found as Lee et al. 2022 (Deduplicating Training
Data Makes Language Models Better, arXiv:2107.06499) do, by the Jaccard similarity of their word 5-grams, here exactly
instead of by MinHash: eval sets are small. All of a cluster of near duplicates follow the least hash among them, so a
new item changes sides of others only where it ties clusters together.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from evomerge.errors import InvalidInputError
from fitness.items import Item, Split
from fitness.words import shingles, words

NEAR = 0.8
"""Lee et al. 2022, section 4.2."""

SHINGLE = 5
"""Lee et al. 2022, section 4.2; a shorter text is one shingle."""


def split_by_hash(items: Sequence[Item], holdout: float, *, seed: int = 0, near: float = NEAR) -> list[Item]:
    """The same items in the same order with their sides.

    Args:
        holdout: the share expected on the holdout side, in [0, 1).
        seed: another seed, another split.
        near: Jaccard similarity in (0, 1] from which questions stay together; 1 is equality after normalisation.

    Raises:
        InvalidInputError: `holdout` or `near` lies outside, or one cluster is so large that there is no such split.
    """
    if not 0 <= holdout < 1:
        raise InvalidInputError("holdout", holdout, "a share of at least 0 and below 1")
    clusters = near_duplicates(items, near)
    least: dict[int, str] = {}
    for item, cluster in zip(items, clusters, strict=True):
        least[cluster] = min(least.get(cluster, "g"), _hash(seed, item))
    sides: list[Split] = ["holdout" if _share(least[cluster]) < holdout else "search" for cluster in clusters]
    if holdout > 0 and len(set(sides)) < 2:
        largest = Counter(clusters).most_common(1)[0][1] if clusters else 0
        found = f"all {len(items)} items on one side, {largest} of them near duplicates of each other"
        raise InvalidInputError("split", found, "more different items, another seed, or a `near` closer to 1")
    return [replace(item, split=side) for item, side in zip(items, sides, strict=True)]


def near_duplicates(items: Sequence[Item], near: float = NEAR) -> list[int]:
    """For each item the place of the first item of its cluster: those that a chain of similar questions ties together.

    Two sets of at least the similarity t share one of the rarest |s| - ceil(t |s|) + 1 shingles of each (Chaudhuri et
    al. 2006, A Primitive Operator for Similarity Joins in Data Cleaning): only such pairs are compared.

    Raises:
        InvalidInputError: `near` lies outside (0, 1].
    """
    if not 0 < near <= 1:
        raise InvalidInputError("near", near, "a similarity above 0 and at most 1")
    sets = [frozenset(shingles(words("\n".join(item.asked)), SHINGLE)) for item in items]
    times = Counter(shingle for found in sets for shingle in found)
    roots = list(range(len(items)))
    holders: dict[str, list[int]] = {}
    for place, found in enumerate(sets):
        rare = sorted(found, key=lambda s: (times[s], s))[: len(found) - math.ceil(near * len(found)) + 1]
        compared: set[int] = set()
        for shingle in rare:
            for other in holders.setdefault(shingle, []):
                if other not in compared and _root(roots, other) != _root(roots, place):
                    compared.add(other)
                    if len(found & sets[other]) >= near * len(found | sets[other]):
                        _join(roots, other, place)
            holders[shingle].append(place)
    return [_root(roots, place) for place in range(len(items))]


def _root(roots: list[int], place: int) -> int:
    while roots[place] != place:
        roots[place] = roots[roots[place]]
        place = roots[place]
    return place


def _join(roots: list[int], a: int, b: int) -> None:
    first, second = sorted((_root(roots, a), _root(roots, b)))
    roots[second] = first


def _hash(seed: int, item: Item) -> str:
    text = "\x1f".join(" ".join(words(part)) for part in item.asked)
    return hashlib.sha256(f"{seed}\x1f{text}".encode()).hexdigest()


def _share(digest: str) -> float:
    return int(digest[:16], 16) / 16**16
