"""Items and eval sets: versioned questions, split into `search` and `holdout` items that never mix."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from evomerge.errors import InvalidInputError
from fitness.extract import extractor

Split = Literal["search", "holdout"]


@dataclass(frozen=True, slots=True)
class Answering:
    """How a generation item is answered and how its answer is read.

    Attributes:
        extract: what of the answer is compared, see `fitness.extract`.
        stop: strings that end an answer; they do not belong to it.
        max_new_tokens: an answer's most tokens; None is the scorer's.
        tests: Python code that is run after the answer, for metrics that run code.
        language: ISO 639-1 code of the language that the answer should be in.
    """

    extract: str = "first_line"
    stop: tuple[str, ...] = ()
    max_new_tokens: int | None = None
    tests: str = ""
    language: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """One question: multiple choice (`choices`), running text (`text`), or else generation.

    Attributes:
        id: stable and unique within its eval set.
        context: what the model reads; choices are appended as they are (they carry their own leading blank).
        choices: continuations to compare; empty for generation and for running text.
        contexts: instead of `context`, one for each choice; `context` is empty then.
        label: index of the right choice; None for other kinds, and where only label-free metrics are asked.
        unconditioned: what a choice's likelihood without the question is measured after, for PMI.
        text: running text whose likelihood after `context` (which may be empty) is measured.
        references: accepted answers of a generation item.
        answering: for generation items that are not answered with a first line.
        delimiter: how every choice begins that its length does not count, for normalised log-likelihoods.
        question: what is asked, where the context holds more than that (examples, instructions); duplicates are found
            by it. Empty: the context.
        doc: a JSON object that an answer is judged by outside, see `fitness.harness`; empty for all others.
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
    contexts: tuple[str, ...] = ()
    unconditioned: str = "Answer:"
    text: str = ""
    answering: Answering | None = None
    delimiter: str = ""
    question: str = ""
    doc: str = ""

    @property
    def asked(self) -> tuple[str, ...]:
        """What tells an item from others: its question, or else what a model reads before it answers."""
        if self.question:
            return (self.question,)
        return self.contexts or ((self.context,) if self.context else self.choices or (self.text,))


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
    asked = {item.asked for item in items if item.split == "search"}
    both = [item.id for item in items if item.split == "holdout" and item.asked in asked]
    if both:
        raise InvalidInputError(f"{where} split", both[0], "a context in one split only")
    text = json.dumps([as_json(i) for i in sorted(items, key=lambda i: i.id)], sort_keys=True, ensure_ascii=False)
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
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
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
    _only(data, Item, where)
    contexts, choices = _texts(data, "contexts", where), _texts(data, "choices", where)
    text = _text(data, "text", where)
    if not isinstance(data.get("id"), str) or not data["id"]:
        raise InvalidInputError(f"{where} id", data.get("id"), "a non-empty string")
    context = _text(data, "context", where)
    if not context and not contexts and not text and not (choices and data.get("context") == ""):
        raise InvalidInputError(f"{where} context", data.get("context"), "a non-empty string")
    if choices:
        _check_choices(data, where, context, contexts, choices)
    elif contexts:
        raise InvalidInputError(f"{where} contexts", list(contexts), "none: only choices have contexts of their own")
    elif not text and not data.get("references") and data.get("answering") is None:
        raise InvalidInputError(f"{where} choices", [], "choices with a label, `text`, `references` or `answering`")
    if choices and text:
        raise InvalidInputError(f"{where} text", text, "no running text in an item with choices")
    split = data.get("split", "search")
    if split not in ("search", "holdout"):
        raise InvalidInputError(f"{where} split", split, "'search' or 'holdout'")
    weight = data.get("weight", 1.0)
    if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 < weight < float("inf"):
        raise InvalidInputError(f"{where} weight", weight, "a positive number")
    return Item(
        id=data["id"], context=context, choices=choices, label=data.get("label") if choices else None,
        references=_texts(data, "references", where), split=split, group=_text(data, "group", where),
        weight=float(weight), contexts=contexts, unconditioned=_text(data, "unconditioned", where, "Answer:"),
        text=text, answering=_answering(data.get("answering"), f"{where} answering"),
        delimiter=_text(data, "delimiter", where), question=_text(data, "question", where),
        doc=_doc(data.get("doc"), f"{where} doc"),
    )  # fmt: skip


def _doc(data: Any, where: str) -> str:
    if data is None:
        return ""
    if not isinstance(data, dict):
        raise InvalidInputError(where, data, "an object")
    return json.dumps(data, sort_keys=True, ensure_ascii=False)


def _only(data: dict[str, Any], kind: type[Item | Answering], where: str) -> None:
    unknown = sorted(set(data) - {field.name for field in fields(kind)})
    if unknown:
        raise InvalidInputError(f"{where} {unknown[0]}", data[unknown[0]], "no such field")


def _text(data: dict[str, Any], key: str, where: str, default: str = "") -> str:
    value = data.get(key, default)
    if not isinstance(value, str):
        raise InvalidInputError(f"{where} {key}", value, "a string")
    return value


def _texts(data: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = data.get(key, [])
    if not isinstance(value, list) or not all(isinstance(t, str) and t for t in value):
        raise InvalidInputError(f"{where} {key}", value, "a list of non-empty strings")
    return tuple(value)


def _check_choices(
    data: dict[str, Any], where: str, context: str, contexts: tuple[str, ...], choices: tuple[str, ...]
) -> None:
    label = data.get("label")
    different = list(zip(contexts, choices, strict=False)) if contexts else list(choices)
    if contexts and (len(contexts) != len(choices) or context):
        allowed = "one for each choice, and no `context` beside them"
        raise InvalidInputError(f"{where} contexts", list(contexts), allowed)
    if len(choices) < 2 or len(set(different)) != len(choices):
        raise InvalidInputError(f"{where} choices", list(choices), "two or more different choices")
    delimiter = _text(data, "delimiter", where)
    if not all(choice.startswith(delimiter) and choice != delimiter for choice in choices):
        raise InvalidInputError(f"{where} delimiter", delimiter, "what every choice begins with, and not all of one")
    named = "label" in data and label is None  # null, not forgotten: for label-free metrics
    if not named and (not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < len(choices)):
        raise InvalidInputError(f"{where} label", label, f"an integer from 0 to {len(choices) - 1}")


def _answering(data: Any, where: str) -> Answering | None:
    if data is None:
        return None
    if not isinstance(data, dict):
        raise InvalidInputError(where, data, "an object")
    _only(data, Answering, where)
    most = data.get("max_new_tokens")
    if most is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 1):
        raise InvalidInputError(f"{where} max_new_tokens", most, "a positive integer")
    name = _text(data, "extract", where, "first_line")
    try:
        extractor(name)
    except InvalidInputError as error:
        raise InvalidInputError(f"{where} extract", error.value, error.allowed) from error
    return Answering(
        extract=name, stop=_texts(data, "stop", where), max_new_tokens=most,
        tests=_text(data, "tests", where), language=_text(data, "language", where),
    )  # fmt: skip


def write_items(items: Sequence[Item], path: Path) -> None:
    """Write JSONL that `load_eval_set` reads; all of it or nothing.

    Raises:
        InvalidInputError: an item that could not be read again; the message names its line and field.
    """
    lines = [_line(item, f"{path}:{number}") for number, item in enumerate(items, start=1)]
    make_eval_set(path.stem, items, str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    part.replace(path)


def check_item(item: Item, where: str) -> None:
    """Whether a file may hold an item.

    Raises:
        InvalidInputError: it may not; names the field.
    """
    _line(item, where)


def _line(item: Item, where: str) -> str:
    line = json.dumps(as_json(item), ensure_ascii=False)
    _parse(line, where)
    return line


def as_json(item: Item) -> dict[str, object]:
    """As a line of JSONL holds it; fields that have their default and came later are left out, so that digests stay."""
    data: dict[str, object] = {
        "id": item.id, "context": item.context, "choices": list(item.choices), "label": item.label,
        "references": list(item.references), "split": item.split, "group": item.group, "weight": item.weight,
    }  # fmt: skip
    for part in fields(Item):
        value = getattr(item, part.name)
        if part.name not in data and value != part.default:
            data[part.name] = asdict(value) if isinstance(value, Answering) else value
    if item.doc:
        data["doc"] = json.loads(item.doc)
    return data
