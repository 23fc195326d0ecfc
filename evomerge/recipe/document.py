"""YAML and JSON as plain data with the line of every value; nothing in a document can run code or fill the memory.

YAML is read by the core schema of YAML 1.2 (sec. 10.3): `1e-5` is a number, `no`, `on` and dates are strings, keys are
always strings. Tags other than the schema's own are refused, and so is a key that occurs twice.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from evomerge.errors import InvalidInputError

MAX_BYTES = 8 * 2**20
MAX_VALUES = 500_000
"""Values in one document after its aliases are expanded: a "billion laughs" document stops here."""
MAX_DEPTH = 64

DocumentPath = tuple[str | int, ...]

_NULL = re.compile(r"|~|null|Null|NULL")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]{1,400}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


@dataclass(frozen=True, slots=True)
class Document:
    """Plain data and where it stood.

    Attributes:
        data: None, bool, int, float, str, list or dict with str keys.
        lines: path of a value → its line, from 1. May be empty for JSON.
        where: the file's name, for messages.
    """

    data: Any
    lines: Mapping[DocumentPath, int]
    where: str


def read_document(path: Path) -> Document:
    """The document in a file: JSON if its name ends in `.json`, YAML otherwise.

    Raises:
        InvalidInputError: not readable, larger than `MAX_BYTES`, not UTF-8, or not valid; names file and line.
    """
    parse = parse_json if path.suffix.lower() == ".json" else parse_yaml
    return parse(read_text(path), str(path))


def read_text(path: Path) -> str:
    """A file's text, if it is of a size that documents have.

    Raises:
        InvalidInputError: not readable, larger than `MAX_BYTES`, or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content[:MAX_BYTES].decode("utf-8-sig") if len(content) <= MAX_BYTES else None
    except OSError as error:
        raise InvalidInputError(str(path), error.strerror or str(error), "a readable YAML or JSON file") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(str(path), f"byte {error.start} is not UTF-8", "YAML or JSON text") from error
    if text is None:
        raise InvalidInputError(str(path), f"more than {MAX_BYTES} bytes", f"at most {MAX_BYTES} bytes")
    return text


def parse_yaml(text: str, where: str = "<text>") -> Document:
    """One YAML document.

    Raises:
        InvalidInputError: not valid YAML, a duplicate key, an unknown tag, too deep, too large; names the line.
    """
    if len(text) > MAX_BYTES:
        raise InvalidInputError(where, f"{len(text)} characters", f"at most {MAX_BYTES} characters")
    reader = _Reader(text, where)
    try:
        return Document(reader.document(), reader.lines, where)
    except yaml.YAMLError as error:
        raise _syntax_error(error, text, where) from error


def parse_yaml_stream(text: str, where: str = "<text>") -> list[Document]:
    """Every YAML document of a text that holds several, one after the other.

    Raises:
        InvalidInputError: as `parse_yaml`.
    """
    if len(text) > MAX_BYTES:
        raise InvalidInputError(where, f"{len(text)} characters", f"at most {MAX_BYTES} characters")
    reader = _Reader(text, where)
    try:
        return list(reader.documents())
    except yaml.YAMLError as error:
        raise _syntax_error(error, text, where) from error


def parse_json(text: str, where: str = "<text>") -> Document:
    """One JSON document (RFC 8259: no NaN, no duplicate keys).

    Raises:
        InvalidInputError: not valid JSON, a duplicate key, too deep, too large; names the line.
    """
    if len(text) > MAX_BYTES:
        raise InvalidInputError(where, f"{len(text)} characters", f"at most {MAX_BYTES} characters")
    lines = _json_lines(text, where)
    try:
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        field = f"{where}:{error.lineno}"
        raise InvalidInputError(field, _line_of(text, error.lineno), f"valid JSON ({error.msg})") from error
    except RecursionError as error:
        raise InvalidInputError(where, "nested too deeply", f"at most {MAX_DEPTH} levels") from error
    except ValueError as error:
        raise InvalidInputError(where, str(error), "valid JSON with unique keys and finite numbers") from error
    return Document(data, lines, where)


class _Reader:
    """Builds data from libyaml's events: values by the core schema, aliases counted, the line of each value kept."""

    def __init__(self, text: str, where: str) -> None:
        loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
        self.events: Iterator[Any] = iter(yaml.parse(text, Loader=loader))
        self.where = where
        self.lines: dict[DocumentPath, int] = {}
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.values = 0

    def document(self) -> Any:
        next(self.events)  # start of the stream
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None
        data = self.value(next(self.events), ())
        next(self.events)  # end of the document
        following = next(self.events)
        if not isinstance(following, yaml.StreamEndEvent):
            raise self.error(following, "a second document", "one document in the file")
        return data

    def documents(self) -> Iterator[Document]:
        """All documents; the count of values goes on over them, names of anchors do not."""
        next(self.events)
        while isinstance(next(self.events), yaml.DocumentStartEvent):
            self.lines, self.anchors = {}, {}
            data = self.value(next(self.events), ())
            next(self.events)
            yield Document(data, self.lines, self.where)

    def value(self, event: Any, path: DocumentPath) -> Any:
        self.lines[path] = event.start_mark.line + 1
        if len(path) > MAX_DEPTH:
            raise self.error(event, "nested too deeply", f"at most {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event)
        before = self.values
        self.count(event, 1)
        data = self.build(event, path)
        if event.anchor is not None:
            self.anchors[event.anchor] = (data, self.values - before)
        return data

    def build(self, event: Any, path: DocumentPath) -> Any:
        if isinstance(event, yaml.ScalarEvent):
            return self.scalar(event)
        tag, plain = event.tag, "tag:yaml.org,2002:" + ("map" if isinstance(event, yaml.MappingStartEvent) else "seq")
        if tag not in (None, "!", plain):
            raise self.error(event, tag, "no tag")
        return self.mapping(path) if isinstance(event, yaml.MappingStartEvent) else self.sequence(path)

    def mapping(self, path: DocumentPath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self.error(event, "a list, mapping or alias as a key", "a string as a key")
            key = event.value
            if key in data:
                raise self.error(event, key, "every key once")
            data[key] = None  # reserves the place, so that an error names the second of two keys
            data[key] = self.value(next(self.events), (*path, key))
        return data

    def sequence(self, path: DocumentPath) -> list[Any]:
        data: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            data.append(self.value(event, (*path, len(data))))
        return data

    def alias(self, event: Any) -> Any:
        if event.anchor not in self.anchors:  # also an anchor inside its own value
            raise self.error(event, f"*{event.anchor}", f"an anchor defined above, one of {sorted(self.anchors)}")
        data, size = self.anchors[event.anchor]
        self.count(event, size)
        return data

    def scalar(self, event: Any) -> Any:
        tag = event.tag
        if tag not in (None, "!", "tag:yaml.org,2002:str"):
            raise self.error(event, tag, "no tag")
        return _plain(event.value) if tag is None and event.implicit[0] else event.value

    def count(self, event: Any, values: int) -> None:
        self.values += values
        if self.values > MAX_VALUES:
            raise self.error(event, f"more than {MAX_VALUES} values", f"at most {MAX_VALUES}, aliases expanded")

    def error(self, event: Any, value: object, allowed: str) -> InvalidInputError:
        return InvalidInputError(f"{self.where}:{event.start_mark.line + 1}", value, allowed)


def _plain(text: str) -> Any:
    """An unquoted scalar by the core schema of YAML 1.2 (hexadecimal and octal numbers stay text)."""
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
        return text[0] in "tT"
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return float(text.replace(".", "")) if _INFINITE.fullmatch(text) else text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(k for k in keys if keys.count(k) > 1)!r} occurs twice")
    return data


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number in JSON")


def _json_lines(text: str, where: str) -> Mapping[DocumentPath, int]:
    """Lines of a JSON document. YAML 1.2 contains JSON, but libyaml refuses some of it (tabs): then there are none."""
    reader = _Reader(text, where)
    try:
        reader.document()
    except (yaml.YAMLError, InvalidInputError):
        return {}
    return reader.lines


def _syntax_error(error: yaml.YAMLError, text: str, where: str) -> InvalidInputError:
    mark = getattr(error, "problem_mark", None)
    if mark is None:  # a character that YAML does not allow
        return InvalidInputError(where, str(error).splitlines()[0], "valid YAML")
    problem = getattr(error, "problem", None) or "syntax error"
    return InvalidInputError(f"{where}:{mark.line + 1}", _line_of(text, mark.line + 1), f"valid YAML ({problem})")


def _line_of(text: str, number: int) -> str:
    lines = text.split("\n")
    return lines[min(number, len(lines)) - 1].strip()[:80]


class _Dumper(yaml.SafeDumper):
    """Writes what `parse_yaml` and YAML 1.1 readers read alike; short things on one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_str(dumper: _Dumper, value: str) -> yaml.Node:
    # Line breaks (YAML has more of them than people think) survive only between double quotes.
    style = '"' if _CONTROL.search(value) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


def _represent_list(dumper: _Dumper, value: list[Any]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=all(map(_is_scalar, value)))


def _represent_dict(dumper: _Dumper, value: dict[str, Any]) -> yaml.Node:
    flow = all(_is_number(v) or (isinstance(v, list) and all(map(_is_number, v))) for v in value.values())
    return dumper.represent_mapping("tag:yaml.org,2002:map", value, flow_style=flow)


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _is_number(value: object) -> bool:
    return isinstance(value, bool | int | float)


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]")
_Dumper.add_representer(str, _represent_str)
_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(dict, _represent_dict)
# Text that only YAML 1.2 takes for a number ("1e5", "08", "0o17") must be quoted too.
_NUMBER = re.compile(rf"(?:{_FLOAT.pattern}|0o[0-7]+)\Z")
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))


def dump_yaml_data(data: Any) -> str:
    """Plain data as YAML that `parse_yaml` reads back unchanged; keys keep their order."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return text


def dump_json_data(data: Any) -> str:
    """Plain data as JSON, indented, keys in their order, with a final newline."""
    if not _finite(data):
        raise ValueError("NaN and infinity have no JSON form")
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def _finite(data: Any) -> bool:
    if isinstance(data, dict):
        return all(map(_finite, data.values()))
    if isinstance(data, list):
        return all(map(_finite, data))
    return not isinstance(data, float) or math.isfinite(data)
