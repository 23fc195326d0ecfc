"""Answers as values: what one subject said to some items of an eval set, under one evaluator.

A block is named by a hash of all that it says. Whoever says the same again (a candidate like an earlier one, another
run, a commit that is repeated after a crash) names the same block.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Any

KEY_LENGTH = 32
"""Hexadecimal digits of a block's key, 128 bits: no two of any number of blocks that fit on disks share one."""


@dataclass(frozen=True)
class AnswerBlock:
    """One subject's answers to some items.

    Attributes:
        fingerprint: of the evaluator that asked; answers of different fingerprints are never mixed.
        eval_set: its name when it was asked; for people and lists.
        subject: the digest of the model's recipe; of an imported model, its name.
        items: ids, in the order asked.
        contents: a hash of each item's content, which says whether it is still the same question; empty where nobody
            knows, as in imports.
        values: metric → a float an item.
        run, number: whose candidate was asked; None in imports.
        created: when it was stored; None before.
    """

    fingerprint: str
    eval_set: str
    subject: str
    items: tuple[str, ...]
    contents: tuple[str, ...]
    values: Mapping[str, Sequence[float]]
    run: str | None = None
    number: int | None = None
    created: datetime | None = None

    @cached_property
    def key(self) -> str:
        """A hash of what it says, not of who asked when."""
        said = [self.fingerprint, self.eval_set, self.subject, self.questions, list(self.values)]
        found = hashlib.sha256(json.dumps(said).encode())
        found.update(self.packed)
        return found.hexdigest()[:KEY_LENGTH]

    @cached_property
    def questions(self) -> str:
        """A hash of which items were asked."""
        return questions_key(self.items, self.contents)

    @cached_property
    def packed(self) -> bytes:
        """The values as float64, little-endian, one metric after another.

        Raises:
            ValueError: a value is not finite.
        """
        found = array("d")
        for name, values in self.values.items():
            assert len(values) == len(self.items), "one value an item"
            if not math.isfinite(sum(values)) and not all(map(math.isfinite, values)):  # a sum can overflow
                raise ValueError(f"{name} of {self.eval_set!r}: an answer is not a finite number")
            found.extend(values)
        return _little(found).tobytes()


@lru_cache(maxsize=512)
def questions_key(items: tuple[str, ...], contents: tuple[str, ...]) -> str:
    """A hash of a list of items; candidates of a generation share theirs."""
    assert len(contents) in (0, len(items)), "a hash for each item, or none"
    return hashlib.sha256(json.dumps([items, contents]).encode()).hexdigest()[:KEY_LENGTH]


def together(blocks: Sequence[AnswerBlock]) -> dict[str, Any]:
    """The answers of several blocks as `{item_ids, values}`, JSON-ready: items in the order first asked, under the
    metrics that all blocks have. Of an item that was asked twice, the later answer counts."""
    if len(blocks) == 1:
        return {"item_ids": list(blocks[0].items), "values": {m: list(v) for m, v in blocks[0].values.items()}}
    metrics = [name for name in blocks[0].values if all(name in block.values for block in blocks)]
    ids = list(dict.fromkeys(item for block in blocks for item in block.items))
    values = {
        name: {item: value for b in blocks for item, value in zip(b.items, b.values[name], strict=True)}
        for name in metrics
    }
    return {"item_ids": ids, "values": {name: [found[item] for item in ids] for name, found in values.items()}}


def unpack(packed: bytes, metrics: Sequence[str], count: int) -> dict[str, tuple[float, ...]]:
    """Metric → values, from `AnswerBlock.packed`."""
    found = array("d")
    found.frombytes(packed)
    floats = _little(found)
    assert len(floats) == count * len(metrics), "as it was packed"
    return {name: tuple(floats[n * count : (n + 1) * count]) for n, name in enumerate(metrics)}


def _little(floats: array[float]) -> array[float]:
    if sys.byteorder == "big":
        floats.byteswap()
    return floats


@dataclass(frozen=True, slots=True)
class BankPage:
    """Some subjects' answers under one metric, and everything that anybody was asked.

    Attributes:
        subjects: in the order of the database.
        blocks: all of theirs that hold the metric, oldest first.
        lists: ids and contents of items that were asked together, by anybody, in the order in which they were first.
        lists_last: the same, in the order in which they were last.
        until: number of the newest block that was looked at; pages of one reading share it.
        more: whether there are further subjects.
    """

    subjects: tuple[str, ...]
    blocks: tuple[AnswerBlock, ...]
    lists: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
    lists_last: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
    until: int
    more: bool


@dataclass(frozen=True, slots=True)
class Bank:
    """Everything that was answered to one eval set under one evaluator.

    Attributes:
        settings: what the fingerprint stands for; empty where nobody said.
        metrics: that any block has, in the order of their names.
        subjects, items, answers: how many; an answer is one subject's to one item, whatever the metrics.
        complete: subjects that answered every one of those items.
        blocks: that hold them.
        bytes: of their values.
        first, last: when its oldest and newest block were stored.
    """

    fingerprint: str
    eval_set: str
    settings: dict[str, Any]
    metrics: tuple[str, ...]
    subjects: int
    items: int
    answers: int
    complete: int
    blocks: int
    bytes: int
    first: datetime
    last: datetime
