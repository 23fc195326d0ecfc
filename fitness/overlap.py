"""Contamination: which items the sets that experts trained on hold, and which items of both splits are nearly the same.

As GPT-3's authors did (Brown et al. 2020, Language Models are Few-Shot Learners, arXiv:2005.14165, appendix C) and the
LM Evaluation Harness does, an item is suspect when a run of 13 of its words occurs in a training text. A shorter
question is looked for together with its right answer (`2 + 2 =` alone says little): inside of texts where both have
eight words or more, their least length, and else as a line, or two or three lines, of a text.

Runs that more than `COMMON` items share are the template of the questions, not their content, and do not count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.errors import InvalidInputError
from fitness.items import Item
from fitness.split import NEAR, near_duplicates
from fitness.words import shingles, words

GRAM = 13
"""Brown et al. 2020, appendix C: the longest run that they look for."""

LEAST = 8
"""Brown et al. 2020, appendix C: no shorter run is looked for inside of a text."""

COMMON = 10
"""More items than these share no content of their own; the number is ours."""

LINES = 3
"""A question and its answer may stand on so many lines of a text."""


@dataclass(frozen=True, slots=True)
class Hit:
    """An item that training texts hold.

    Attributes:
        item: its id.
        source: the training set, by the name that it was given under.
        text: number of the training text, from 1.
        found: the words that are in both.
    """

    item: str
    source: str
    text: int
    found: str


@dataclass(frozen=True, slots=True)
class Overlap:
    """What of an eval set was found in training sets.

    Attributes:
        sizes: split → number of items.
        hits: split → the first hit of each suspect item, in file order.
        texts: training set → number of texts read.
    """

    sizes: Mapping[str, int]
    hits: Mapping[str, tuple[Hit, ...]]
    texts: Mapping[str, int]

    @property
    def ids(self) -> frozenset[str]:
        """Of all suspect items."""
        return frozenset(hit.item for hits in self.hits.values() for hit in hits)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "texts": dict(self.texts),
            "splits": {
                split: {
                    "items": size,
                    "suspect": len(self.hits.get(split, ())),
                    "found": [
                        {"item": h.item, "source": h.source, "text": h.text, "words": h.found}
                        for h in self.hits.get(split, ())
                    ],
                }
                for split, size in self.sizes.items()
            },
        }


def overlap(
    items: Sequence[Item], training: Mapping[str, Iterable[str]], *, gram: int = GRAM, common: int = COMMON
) -> Overlap:
    """Which items training texts hold. Reads each text once; keeps only the items' runs of words in memory.

    Args:
        items: an eval set's.
        training: name → texts.
        gram: words in a run.
        common: runs that more items than this share do not count.

    Raises:
        InvalidInputError: `gram` lies below `LEAST`.
    """
    if gram < LEAST:
        raise InvalidInputError("gram", gram, f"at least {LEAST} words: shorter runs are in everything")
    inside, lines = _runs(items, gram, common)
    first: dict[str, Hit] = {}
    counts = dict.fromkeys(training, 0)
    for source, texts in training.items():
        for number, text in enumerate(texts, start=1):
            counts[source] = number
            for run, holders in _found(text, inside, lines):
                for item in holders:
                    first.setdefault(item, Hit(item, source, number, run))
    splits = sorted({item.split for item in items}, reverse=True)
    return Overlap(
        {split: sum(i.split == split for i in items) for split in splits},
        {split: tuple(first[i.id] for i in items if i.split == split and i.id in first) for split in splits},
        counts,
    )


def crossing(items: Sequence[Item], near: float = NEAR) -> list[tuple[str, ...]]:
    """Clusters of near duplicates that lie in both splits: ids of their items. A split by hash leaves none."""
    clusters: dict[int, list[Item]] = {}
    for item, cluster in zip(items, near_duplicates(items, near), strict=True):
        clusters.setdefault(cluster, []).append(item)
    return [tuple(i.id for i in found) for found in clusters.values() if len({i.split for i in found}) > 1]


def without(items: Sequence[Item], ids: frozenset[str]) -> list[Item]:
    """The items that are not suspect.

    Raises:
        InvalidInputError: none is left.
    """
    left = [item for item in items if item.id not in ids]
    if not left:
        raise InvalidInputError("items", f"{len(items)} items, all of them suspect", "one at least that is not")
    return left


Runs = Mapping[int, Mapping[str, Sequence[str]]]
"""Length in words → run → ids of the items that hold it."""


def _runs(items: Sequence[Item], gram: int, common: int) -> tuple[Runs, Mapping[str, Sequence[str]]]:
    """What to look for inside of texts, and what must be lines of a text."""
    asked = {item.id: words("\n".join(item.asked)) for item in items}
    times = Counter(run for found in asked.values() if len(found) >= gram for run in set(shingles(found, gram)))
    inside: dict[int, dict[str, list[str]]] = {}
    lines: dict[str, list[str]] = {}
    for item in items:
        found = asked[item.id]
        own = {run for run in shingles(found, gram) if times[run] <= common} if len(found) >= gram else set()
        for run in own:
            inside.setdefault(gram, {}).setdefault(run, []).append(item.id)
        answered = found + words(_answer(item))
        if not own and answered:
            place = inside.setdefault(len(answered), {}) if LEAST <= len(answered) <= 2 * gram else lines
            place.setdefault(" ".join(answered), []).append(item.id)
    return inside, lines


def _answer(item: Item) -> str:
    if item.choices:
        return item.choices[item.label] if item.label is not None else ""
    if item.text:
        return item.text if item.context else ""
    return item.references[0] if item.references else ""


def _found(text: str, inside: Runs, lines: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, Sequence[str]]]:
    said = words(text)
    for length, runs in inside.items():
        if len(said) >= length:
            yield from ((run, runs[run]) for run in shingles(said, length) if run in runs)
    if lines:
        parts = [part for part in (" ".join(words(line)) for line in text.split("\n")) if part]
        for first in range(len(parts)):
            for last in range(first + 1, min(first + LINES, len(parts)) + 1):
                joined = " ".join(parts[first:last])
                if joined in lines:
                    yield joined, lines[joined]
