"""mergekit's YAML as values: what stands where, checked for its form, not yet for what it means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from evomerge.errors import InvalidInputError
from evomerge.merge.mergekit.settings import is_scalar
from evomerge.recipe.document import Document, DocumentPath
from evomerge.recipe.slices import MAX_LAYERS, Layers
from evomerge.recipe.text import path_text

FIELDS = (
    "name", "merge_method", "base_model", "models", "slices", "modules", "parameters", "dtype", "out_dtype",
    "tokenizer_source", "tokenizer", "chat_template",
)  # fmt: skip
MOE_FIELDS = ("experts", "gate_mode", "shared_experts", "experts_per_token")
"""Of `mergekit-moe`, which makes a mixture of experts of dense models: another program."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model as mergekit names it: `PLACE(@REVISION)(+LORA(@REVISION))`; equal wherever it stands."""

    place: str
    revision: str | None = None
    lora: str | None = None
    lora_revision: str | None = None

    def __str__(self) -> str:
        plain = self.place + (f"@{self.revision}" if self.revision else "")
        adapter = (
            "" if self.lora is None else f"+{self.lora}" + (f"@{self.lora_revision}" if self.lora_revision else "")
        )
        return plain + adapter


@dataclass(frozen=True, slots=True)
class Setting:
    """One parameter where it stands: a scalar, a list of scalars, or filters."""

    value: Any
    path: DocumentPath


Settings = Mapping[str, Setting]


@dataclass(frozen=True, slots=True)
class Input:
    """A model that is merged; its layers [first, last] in a slice."""

    model: Model
    layers: Layers | None
    settings: Settings
    path: DocumentPath


@dataclass(frozen=True, slots=True)
class Part:
    """An output slice; the whole model where the file lists `models`."""

    inputs: tuple[Input, ...]
    base: Model | None
    settings: Settings
    path: DocumentPath


@dataclass(frozen=True, slots=True)
class Config:
    """One document.

    Attributes:
        sliced: the parts are slices.
        notes: what was read over, for people.
    """

    document: Document
    name: str | None
    method: str
    base: Model | None
    parts: tuple[Part, ...]
    sliced: bool
    settings: Settings
    dtype: str | None
    out_dtype: str | None
    tokenizer: str | Model | None
    tokens: Mapping[str, Any]
    pad_to_multiple_of: int | None
    chat_template: str | None
    notes: list[str] = field(default_factory=list, compare=False)

    def refuse(self, path: DocumentPath, value: object, allowed: str) -> InvalidInputError:
        """An error that names file, line and field."""
        return refuse(self.document, path, value, allowed)


def refuse(document: Document, path: DocumentPath, value: object, allowed: str) -> InvalidInputError:
    """An error about a value of a document."""
    line = next((document.lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in document.lines), None)
    where = document.where if line is None else f"{document.where}:{line}"
    return InvalidInputError(f"{where} {path_text(path)}".strip(), value, allowed)


def parse_config(document: Document) -> Config:
    """A document as a configuration.

    Raises:
        InvalidInputError: it is none, or one of another program; names file, line and field.
    """
    return _Parser(Document(_merged_keys(document.data), document.lines, document.where)).config()


def parse_model(document: Document, path: DocumentPath, value: Any) -> Model:
    """A model that stands in a document.

    Raises:
        InvalidInputError: it is none.
    """
    return _Parser(document).model(path, value)


def _merged_keys(data: Any) -> Any:
    """Merge keys (`<<: *defaults`) of YAML 1.1 written out."""
    if isinstance(data, list):
        return [_merged_keys(value) for value in data]
    if not isinstance(data, dict):
        return data
    below = data.get("<<")
    merged: dict[str, Any] = {}
    for part in below if isinstance(below, list) else [below]:
        if isinstance(part, dict):
            merged = {**_merged_keys(part), **merged}
    return {**merged, **{key: _merged_keys(value) for key, value in data.items() if key != "<<"}}


class _Parser:
    def __init__(self, document: Document) -> None:
        self.document = document
        self.notes: list[str] = []

    def config(self) -> Config:
        data = self.mapping((), self.document.data)
        for key in MOE_FIELDS:
            if key in data:
                raise self.refuse((key,), data[key], "a merge: mixtures of experts (mergekit-moe) are not built")
        if "modules" in data:
            allowed = "`models` or `slices`: models of several modules are not merged"
            raise self.refuse(("modules",), data["modules"], allowed)
        self.notes += [f"{key}: read over, as mergekit does" for key in data if key not in FIELDS]
        if ("models" in data) == ("slices" in data):
            raise self.refuse((), sorted(data), "exactly one of `models` and `slices`")
        source, tokens, pad = self.tokenizer(data)
        return Config(
            document=self.document,
            name=self.text(data, "name"),
            method=self.required(data, "merge_method"),
            base=self.model(("base_model",), data["base_model"]) if data.get("base_model") is not None else None,
            parts=tuple(self.slices(data["slices"])) if "slices" in data else (self.whole(data["models"]),),
            sliced="slices" in data,
            settings=self.settings((), data),
            dtype=self.text(data, "dtype"),
            out_dtype=self.text(data, "out_dtype"),
            tokenizer=source,
            tokens=tokens,
            pad_to_multiple_of=pad,
            chat_template=self.text(data, "chat_template"),
            notes=self.notes,
        )

    def refuse(self, path: DocumentPath, value: object, allowed: str) -> InvalidInputError:
        return refuse(self.document, path, value, allowed)

    def mapping(self, path: DocumentPath, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.refuse(path, value, "a mapping")
        return value

    def items(self, path: DocumentPath, value: Any) -> Iterator[tuple[DocumentPath, dict[str, Any]]]:
        if not isinstance(value, list) or not value:
            raise self.refuse(path, value, "a list of at least one entry")
        for number, item in enumerate(value):
            yield (*path, number), self.mapping((*path, number), item)

    def text(self, data: Mapping[str, Any], key: str) -> str | None:
        value = data.get(key)
        if value is not None and (not isinstance(value, str) or not value):
            raise self.refuse((key,), value, "text")
        return value

    def required(self, data: Mapping[str, Any], key: str) -> str:
        value = self.text(data, key)
        if value is None:
            raise self.refuse((key,), None, "text: it is required")
        return value

    def whole(self, models: Any) -> Part:
        inputs = [self.input(path, item, None) for path, item in self.items(("models",), models)]
        return Part(tuple(inputs), None, {}, ("models",))

    def slices(self, slices: Any) -> Iterator[Part]:
        for path, item in self.items(("slices",), slices):
            if "sources" not in item:
                raise self.refuse((*path, "sources"), None, "a list of models with their layer_range")
            inputs = [
                self.input(at, source, self.layers((*at, "layer_range"), source.get("layer_range")))
                for at, source in self.items((*path, "sources"), item["sources"])
            ]
            base = item.get("base_model")
            if item.get("residual_weight") is not None:
                self.notes.append(f"{path_text((*path, 'residual_weight'))}: read over, as mergekit does")
            yield Part(
                tuple(inputs),
                None if base is None else self.model((*path, "base_model"), base),
                self.settings(path, item),
                path,
            )

    def layers(self, path: DocumentPath, value: Any) -> Layers:
        numbers = isinstance(value, list) and len(value) == 2 and all(_is_whole(number) for number in value)
        if not numbers or not 0 <= value[0] < value[1] <= MAX_LAYERS:
            allowed = f"[first, end] with 0 <= first < end <= {MAX_LAYERS}; the layer `end` is not among them"
            raise self.refuse(path, value, allowed)
        return int(value[0]), int(value[1]) - 1

    def input(self, path: DocumentPath, item: Mapping[str, Any], layers: Layers | None) -> Input:
        if "model" not in item:
            raise self.refuse((*path, "model"), None, "a model: it is required")
        return Input(self.model((*path, "model"), item["model"]), layers, self.settings(path, item), path)

    def model(self, path: DocumentPath, value: Any) -> Model:
        if isinstance(value, str) and value:
            place, plus, lora = value.partition("+")
            if "+" in lora or (plus and not lora):
                raise self.refuse(path, value, "MODEL or MODEL+LORA")
            return Model(*self.place(path, place), *(self.place(path, lora) if plus else (None, None)))
        if not isinstance(value, dict) or "model" not in value or not value["model"]:
            raise self.refuse(path, value, "MODEL, MODEL+LORA, or a mapping with `model` and `lora`")
        if value.get("override_architecture") is not None:
            where = (*path, "override_architecture")
            raise self.refuse(where, value["override_architecture"], "nothing: the architecture is the config's own")
        adapter = value.get("lora")
        return Model(
            *self.place((*path, "model"), value["model"]),
            *((None, None) if adapter is None else self.place((*path, "lora"), adapter)),
        )

    def place(self, path: DocumentPath, value: Any) -> tuple[str, str | None]:
        if isinstance(value, dict):
            place, revision = value.get("path"), value.get("revision")
        elif isinstance(value, str) and value.count("@") < 2:
            place, at, revision = value.partition("@")
            revision = revision if at else None
        else:
            place, revision = None, None
        if (
            not isinstance(place, str)
            or not place
            or not (revision is None or (isinstance(revision, str) and revision))
        ):
            raise self.refuse(path, value, "a directory or a repository of the hub, PLACE or PLACE@REVISION")
        return place, revision

    def settings(self, path: DocumentPath, data: Mapping[str, Any]) -> Settings:
        given = data.get("parameters")
        if given is None:
            return {}
        at = (*path, "parameters")
        found = {key: Setting(value, (*at, key)) for key, value in self.mapping(at, given).items()}
        for setting in found.values():
            self.check_setting(setting.path, setting.value)
        return found

    def check_setting(self, path: DocumentPath, value: Any) -> None:
        if is_scalar(value) or (isinstance(value, list) and all(map(is_scalar, value))):
            return
        conditions = [value] if isinstance(value, dict) else value
        if not isinstance(conditions, list):
            raise self.refuse(path, value, "a value, a list of values, or filters with values")
        for number, condition in enumerate(conditions):
            at = path if isinstance(value, dict) else (*path, number)
            if not isinstance(condition, dict) or "value" not in condition:
                raise self.refuse(at, condition, "a mapping with `value` and, perhaps, `filter`")
            needle, inner = condition.get("filter"), condition["value"]
            if needle is not None and not isinstance(needle, str):
                raise self.refuse((*at, "filter"), needle, "a part of tensors' names, or *")
            if not (is_scalar(inner) or (isinstance(inner, list) and inner and all(map(is_scalar, inner)))):
                raise self.refuse((*at, "value"), inner, "a value, or a list of values")

    def tokenizer(self, data: Mapping[str, Any]) -> tuple[str | Model | None, Mapping[str, Any], int | None]:
        short, long = data.get("tokenizer_source"), data.get("tokenizer")
        if short is not None and long is not None:
            raise self.refuse(("tokenizer",), long, "`tokenizer_source` or `tokenizer`, not both")
        if short is not None:
            return self.tokenizer_source(("tokenizer_source",), short), {}, None
        if long is None:
            return None, {}, None
        long = self.mapping(("tokenizer",), long)
        pad = long.get("pad_to_multiple_of")
        if pad is not None and not (_is_whole(pad) and pad >= 1):
            raise self.refuse(("tokenizer", "pad_to_multiple_of"), pad, "a whole number from 1")
        tokens = self.mapping(("tokenizer", "tokens"), long["tokens"]) if long.get("tokens") is not None else {}
        source = self.tokenizer_source(("tokenizer", "source"), long.get("source", "union"))
        return source, tokens, None if pad is None else int(pad)

    def tokenizer_source(self, path: DocumentPath, value: Any) -> str | Model:
        return value if value in ("union", "base") else self.model(path, value)


def _is_whole(value: object) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())
