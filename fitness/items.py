"""Items and eval sets: versioned questions, split into `search` and `holdout` items that never mix."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from evomerge.errors import InvalidInputError

Split = Literal["search", "holdout"]


@dataclass(frozen=True, slots=True)
class Item:
    """One question: multiple choice (`choices`, `label`) or generation (`references`).

    Attributes:
        id: stable and unique within its eval set.
        context: what the model reads; choices are appended as they are (they carry their own leading blank).
        choices: continuations to compare; empty for generation.
        label: index of the right choice; None for generation.
        references: accepted answers of a generation item.
        split: `search` items steer a search; `holdout` items only report its result.
        group: stratum for stratified subsets.
        weight: share in the eval set's mean, relative.
    """

    id: str
    context: str
    choices: tuple[str, ...] = ()
    label: int | None = None
    references: tuple[str, ...] = ()
    split: Split = "search"
    group: str = ""
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class EvalSet:
    """A named list of items with a digest of its content."""

    name: str
    items: tuple[Item, ...]
    digest: str
    _index: dict[str, Item] = field(repr=False, compare=False)

    def split(self, split: Split) -> tuple[Item, ...]:
        """The items of one split, in file order."""
        return tuple(i for i in self.items if i.split == split)

    def pick(self, ids: Sequence[str]) -> tuple[Item, ...]:
        """Items by id, in the order of `ids`.

        Raises:
            KeyError: an id that the eval set does not hold.
        """
        return tuple(self._index[i] for i in ids)


def make_eval_set(name: str, items: Sequence[Item], source: str = "") -> EvalSet:
    """An eval set of unique items.

    Raises:
        InvalidInputError: no items, two items of one id, or one context in both splits.
    """
    where = source or name
    if not items:
        raise InvalidInputError(where, "no items", "at least one item")
    twice = [i for i, n in Counter(item.id for item in items).items() if n > 1]
    if twice:
        raise InvalidInputError(f"{where} id", twice[0], f"unique ids; {len(twice)} occur more than once")
    contexts = {item.context for item in items if item.split == "search"}
    both = [item.id for item in items if item.split == "holdout" and item.context in contexts]
    if both:
        raise InvalidInputError(f"{where} split", both[0], "a context in one split only")
    text = json.dumps([_as_json(i) for i in sorted(items, key=lambda i: i.id)], sort_keys=True, ensure_ascii=False)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return EvalSet(name, tuple(items), digest, {i.id: i for i in items})


def load_eval_set(name: str, path: Path) -> EvalSet:
    """Read JSONL, one item a line.

    Raises:
        InvalidInputError: file missing, bad JSON or bad item; the message names file, line and field.
    """
    if not path.is_file():
        raise InvalidInputError(f"eval set {name!r}", str(path), "a JSONL file that exists")
    items = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            items.append(_parse(line, f"{path}:{number}"))
    return make_eval_set(name, items, str(path))


def _parse(line: str, where: str) -> Item:
    try:
        data = json.loads(line)
    except json.JSONDecodeError as error:
        raise InvalidInputError(where, line[:60], f"one JSON object ({error.msg})") from error
    if not isinstance(data, dict):
        raise InvalidInputError(where, line[:60], "a JSON object")
    unknown = set(data) - {"id", "context", "choices", "label", "references", "split", "group", "weight"}
    if unknown:
        raise InvalidInputError(f"{where} {sorted(unknown)[0]}", data[sorted(unknown)[0]], "no such field")
    for key in ("id", "context"):
        if not isinstance(data.get(key), str) or not data[key]:
            raise InvalidInputError(f"{where} {key}", data.get(key), "a non-empty string")
    choices, references, label = data.get("choices", []), data.get("references", []), data.get("label")
    for key, texts in (("choices", choices), ("references", references)):
        if not isinstance(texts, list) or not all(isinstance(t, str) and t for t in texts):
            raise InvalidInputError(f"{where} {key}", texts, "a list of non-empty strings")
    if choices:
        if len(choices) < 2 or len(set(choices)) != len(choices):
            raise InvalidInputError(f"{where} choices", choices, "two or more different choices")
        if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < len(choices):
            raise InvalidInputError(f"{where} label", label, f"an integer from 0 to {len(choices) - 1}")
    elif not references:
        raise InvalidInputError(f"{where} choices", choices, "choices with a label, or references")
    split = data.get("split", "search")
    if split not in ("search", "holdout"):
        raise InvalidInputError(f"{where} split", split, "'search' or 'holdout'")
    weight = data.get("weight", 1.0)
    if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 < weight < float("inf"):
        raise InvalidInputError(f"{where} weight", weight, "a positive number")
    group = data.get("group", "")
    if not isinstance(group, str):
        raise InvalidInputError(f"{where} group", group, "a string")
    return Item(data["id"], data["context"], tuple(choices), label, tuple(references), split, group, float(weight))


def _as_json(item: Item) -> dict[str, object]:
    return {
        "id": item.id, "context": item.context, "choices": list(item.choices), "label": item.label,
        "references": list(item.references), "split": item.split, "group": item.group, "weight": item.weight,
    }  # fmt: skip
