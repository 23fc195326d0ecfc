"""Rows of a data set → items, by Jinja2 templates for what an item says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from evomerge.errors import InvalidInputError
from fitness.items import Answering, Item, as_json

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Template:
    """What an item says, each part a Jinja2 template over a row's columns.

    A part that is one expression, `{{ options }}`, keeps the value's type: so a list is a list, a number a number.

    Attributes:
        context, text, group, question, unconditioned: text, see `fitness.items.Item`.
        choices: a list of templates, or an expression that is a list.
        delimiter: between the context and each choice; a choice's length does not count it. Not a template.
        label: an index, a letter from A on, or the text of the right choice.
        references: a list of templates, or an expression that is a list or a text.
        id: unique; without it, a hash of what the item says.
        weight: a number.
        answering: as in `fitness.items.Answering`; its texts are templates.
    """

    context: str = ""
    choices: tuple[str, ...] | str = ()
    label: Any = None
    references: tuple[str, ...] | str = ()
    text: str = ""
    delimiter: str = ""
    id: str = ""
    group: str = ""
    weight: Any = 1.0
    question: str = ""
    unconditioned: str = ""
    answering: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, data: Any, where: str = "template") -> Template:
        """A template from YAML or JSON.

        Raises:
            InvalidInputError: a part that there is not, or of a wrong type; names it.
        """
        if not isinstance(data, Mapping):
            raise InvalidInputError(where, data, "a mapping of an item's parts to templates")
        known = [field.name for field in fields(cls)]
        for name, value in data.items():
            if name not in known:
                raise InvalidInputError(f"{where} {name}", value, f"one of the parts {', '.join(known)}")
            _check_type(f"{where} {name}", name, value)
        parts: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in data.items()}
        return cls(**parts)

    @classmethod
    def load(cls, text: str) -> Template:
        """A template from a YAML file, or from YAML itself where no such file is.

        Raises:
            InvalidInputError: neither.
        """
        path = Path(text).expanduser() if "\n" not in text and "{" not in text else None
        if path is not None and not path.is_file():
            raise InvalidInputError("template", text, "a YAML file that exists, or YAML")
        where = "template" if path is None else str(path)
        try:
            return cls.of(yaml.safe_load(text if path is None else path.read_text(encoding="utf-8")), where)
        except yaml.YAMLError as error:
            raise InvalidInputError(where, text, f"YAML: {error}") from error

    @cached_property
    def _environment(self) -> ImmutableSandboxedEnvironment:
        # Sandboxed: a template comes from whoever wrote the file, and templates can reach Python's insides.
        return ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)

    def item(self, row: Mapping[str, Any], where: str) -> Item:
        """The item that a row becomes.

        Raises:
            InvalidInputError: a template that is wrong or names a column that the row has not; names row and part.
        """
        found = {name: self._value(getattr(self, name), row, f"{where} {name}") for name in _TEXTS}
        texts: dict[str, Any] = {n: _text(value, f"{where} {n}") for n, value in found.items() if value != ""}
        choices = self._list("choices", row, where)
        answering = self._answering(row, where)
        item = Item(
            id="", context=texts.pop("context", ""), choices=tuple(self.delimiter + choice for choice in choices),
            delimiter=self.delimiter if choices else "", references=self._list("references", row, where),
            label=self._label(choices, row, where), weight=self._weight(row, where), answering=answering, **texts,
        )  # fmt: skip
        own = self._value(self.id, row, f"{where} id")
        return replace(item, id=str(own) if own != "" else _hash(item))

    def _value(self, template: Any, row: Mapping[str, Any], where: str) -> Any:
        if not isinstance(template, str):
            return template
        try:
            inner = template.strip()
            if inner.startswith("{{") and inner.find("}}") == len(inner) - 2 and "{%" not in inner:
                found = self._environment.compile_expression(inner[2:-2].strip("-"), undefined_to_none=False)(**row)
                if isinstance(found, StrictUndefined):
                    str(found)  # raises, and says what is undefined
                return found
            return self._environment.from_string(template).render(**row)
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            columns = ", ".join(map(str, row))
            raise InvalidInputError(where, template, f"a template over the columns {columns}: {error}") from error

    def _list(self, name: str, row: Mapping[str, Any], where: str) -> tuple[str, ...]:
        template, place = getattr(self, name), f"{where} {name}"
        if isinstance(template, str):
            found = self._value(template, row, place)
            parts = [found] if isinstance(found, str) else found
        else:
            parts = [self._value(part, row, place) for part in template]
        if not isinstance(parts, list | tuple):
            raise InvalidInputError(place, parts, "a list")
        return tuple(_text(part, place) for part in parts if part != "")

    def _label(self, choices: tuple[str, ...], row: Mapping[str, Any], where: str) -> int | None:
        label = self._value(self.label, row, f"{where} label")
        if not choices or label is None:
            return None
        if isinstance(label, str) and label in choices:
            return choices.index(label)
        text = str(label).strip()
        place = (
            LETTERS.find(text.upper()) if len(text) == 1 and text.isalpha() else int(text) if text.isdecimal() else -1
        )
        if not 0 <= place < len(choices):
            raise InvalidInputError(
                f"{where} label", label, f"an index below {len(choices)}, a letter, or a choice's text"
            )
        return place

    def _weight(self, row: Mapping[str, Any], where: str) -> float:
        found = self._value(self.weight, row, f"{where} weight")
        try:
            return float(found)
        except (TypeError, ValueError) as error:
            raise InvalidInputError(f"{where} weight", found, "a number") from error

    def _answering(self, row: Mapping[str, Any], where: str) -> Answering | None:
        if self.answering is None:
            return None
        parts = {name: self._value(value, row, f"{where} answering.{name}") for name, value in self.answering.items()}
        stops = [self._value(stop, row, f"{where} answering.stop") for stop in parts.pop("stop", ())]
        return Answering(stop=tuple(_text(stop, f"{where} answering.stop") for stop in stops), **parts)


_TEXTS = ("context", "text", "group", "question", "unconditioned")


def items_of(
    rows: Iterable[Mapping[str, Any]], template: Template, *, source: str = "data set", limit: int | None = None
) -> list[Item]:
    """An item for each row; rows that say the same, once.

    Args:
        source: for messages.
        limit: the first so many rows.

    Raises:
        InvalidInputError: see `Template.item`.
    """
    found: dict[Item, None] = {}
    for number, row in _numbered(rows, limit):
        found[template.item(row, f"{source} row {number}")] = None
    return list(found)


def _numbered(rows: Iterable[Mapping[str, Any]], limit: int | None) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, row in enumerate(rows, start=1):
        if limit is not None and number > limit:
            return
        yield number, row


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str | int | float):
        raise InvalidInputError(where, value, "a text")
    return str(value)


def _hash(item: Item) -> str:
    said = {name: value for name, value in as_json(item).items() if name not in ("id", "group", "weight", "split")}
    return hashlib.sha256(json.dumps(said, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def _check_type(where: str, name: str, value: Any) -> None:
    if name == "answering":
        known = [field.name for field in fields(Answering)]
        if not isinstance(value, Mapping) or set(value) - set(known):
            raise InvalidInputError(where, value, f"a mapping of {', '.join(known)}")
        if not isinstance(value.get("stop", []), list):
            raise InvalidInputError(f"{where}.stop", value["stop"], "a list")
    elif name in ("choices", "references"):
        if not isinstance(value, str) and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            raise InvalidInputError(where, value, "a template, or a list of them")
    elif name in ("label", "weight"):
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise InvalidInputError(where, value, "a template or a number")
    elif not isinstance(value, str):
        raise InvalidInputError(where, value, "a template")
