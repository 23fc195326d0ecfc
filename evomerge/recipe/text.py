"""Recipes and other specifications as text: errors name file, line and key; what is written reads back the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from evomerge.errors import InvalidInputError
from evomerge.recipe.document import Document, DocumentPath, dump_json_data, dump_yaml_data, parse_yaml, read_document
from evomerge.recipe.schema import NO_MERGE, Recipe, WrongFieldError

ModelT = TypeVar("ModelT", bound=BaseModel)

_EXPECTED = {
    "missing": "a value: it is required",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
}


def load_recipe(path: Path) -> Recipe:
    """The recipe in a YAML or JSON file. Structure only: methods and their parameters are checked when it is merged.

    Raises:
        InvalidInputError: the file is not a recipe; names file, line and key.
    """
    return load_as(Recipe, path)


def load_as(model_class: type[ModelT], path: Path) -> ModelT:
    """Any pydantic model from a YAML or JSON file, with errors that name file, line and key."""
    return validate_document(model_class, read_document(path))


def validate_document(model_class: type[ModelT], document: Document) -> ModelT:
    """A parsed document as a model; errors name its file, line and key."""
    return validate(model_class, document.data, document.where, document.lines)


def load_yaml(text: str, where: str = "<text>") -> Any:
    """YAML text as plain data, safely (`evomerge.recipe.document`)."""
    return parse_yaml(text, where).data


def dump_yaml(recipe: Recipe) -> str:
    """A recipe as YAML."""
    return dump_yaml_data(recipe_data(recipe))


def dump_json(recipe: Recipe) -> str:
    """A recipe as JSON."""
    return dump_json_data(recipe_data(recipe))


def dump_data(data: Any) -> str:
    """Plain data (dict, list, str, numbers, None) as YAML."""
    return dump_yaml_data(data)


def recipe_data(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain data: what it says in the order of the schema, without fields that are empty."""
    data: dict[str, Any] = recipe.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"provenance"})
    merge = data["merge"]
    if recipe.path is not None:
        for hop in data["path"]["layers"]:
            if hop["scale"] == 1:
                del hop["scale"]
        if recipe.merge == NO_MERGE and not recipe.path.uses_merged:
            del data["merge"]
    for optional in ("parameters", "sources", "rules"):
        if not merge[optional]:
            del merge[optional]
    for rule in merge.get("rules", ()):
        if not rule["roles"]:
            del rule["roles"]
    if recipe.segments is not None:
        recipe.segments.data(data["segments"])
    for part in data.get("slices", ()):
        if not part["sources"]:
            del part["sources"]
    if recipe.provenance:  # not above: a None in it means something
        data["provenance"] = recipe.model_dump(mode="json", include={"provenance"})["provenance"]
    return data


def validate(
    model_class: type[ModelT], data: Any, where: str = "", lines: Mapping[DocumentPath, int] | None = None
) -> ModelT:
    """Data as a model.

    Args:
        where: the document's name, put before the field in errors.
        lines: path of a value → its line in the document.

    Raises:
        InvalidInputError: for the first value that does not fit; `field` is `where:line path.of.the[2].key`.
    """
    if not isinstance(data, dict):
        raise InvalidInputError(_field(where, lines, ()), data, f"a mapping with the fields {_fields(model_class)}")
    try:
        return model_class.model_validate(data)
    except ValidationError as error:
        raise _first_error(error.errors(include_url=False), model_class, data, where, lines) from error


def _first_error(
    errors: Sequence[ErrorDetails],
    model_class: type[BaseModel],
    data: Any,
    where: str,
    lines: Mapping[DocumentPath, int] | None,
) -> InvalidInputError:
    """The first wrong place; what its alternatives (a union's members) each expect joined by `or`."""
    if errors[0]["type"] == "missing":  # more likely it is misspelt
        errors = sorted(errors, key=lambda error: error["type"] != "extra_forbidden")
    within = [error["loc"] for error in errors]
    errors = [e for e in errors if e["type"] != "too_short" or not any(_is_within(loc, e["loc"]) for loc in within)]
    paths = [_path(error, data) for error in errors]
    here = [error for error, path in zip(errors, paths, strict=True) if path == paths[0]]
    allowed = " or ".join(dict.fromkeys(_expected(error, model_class) for error in here))
    others = len(dict.fromkeys(paths)) - 1
    if others:
        allowed += f" (and {others} more wrong {'field' if others == 1 else 'fields'})"
    value = _value(data, paths[0], here[0])
    return InvalidInputError(_field(where, lines, paths[0]), value, allowed)


def _is_within(inner: tuple[str | int, ...], outer: tuple[str | int, ...]) -> bool:
    """A list is also called too short when its only entry is wrong."""
    return len(inner) > len(outer) and inner[: len(outer)] == outer


def _path(error: ErrorDetails, data: Any) -> DocumentPath:
    """Where the error is in the data: pydantic's location without the names of union members and validators."""
    path: list[str | int] = []
    for part in error["loc"]:
        if _holds(data, part):
            data = data[part]
        elif error["type"] == "missing" and part == error["loc"][-1]:
            pass
        elif isinstance(data, dict) and part in list(data.values()):
            continue  # says which member of a union was meant, as a field of the data does
        else:
            break
        path.append(part)
    wrong = _wrong_field(error)
    return (*path, *wrong.path) if wrong is not None else tuple(path)


def _wrong_field(error: ErrorDetails) -> WrongFieldError | None:
    """What a check across fields says about one of them."""
    raised = error.get("ctx", {}).get("error")
    return raised if isinstance(raised, WrongFieldError) else None


def _holds(data: Any, part: str | int) -> bool:
    if isinstance(data, dict):
        return part in data
    return isinstance(data, list | tuple) and isinstance(part, int) and part < len(data)


def _value(data: Any, path: DocumentPath, error: ErrorDetails) -> Any:
    if error["type"] == "missing":
        return None
    if (wrong := _wrong_field(error)) is not None:
        return wrong.value
    if error["loc"] and error["loc"][-1] == "[key]":
        return path[-1]
    if error["type"] == "value_error" and isinstance(error["input"], dict | BaseModel):
        return "this combination"  # a check across fields: the message names them
    for part in path:
        data = data[part]
    return data


def _expected(error: ErrorDetails, model_class: type[BaseModel]) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return f"one of the fields {_fields(_owner(model_class, error['loc'][:-1]))}"
    if kind in ("literal_error", "enum"):
        return str(context["expected"])
    if kind == "string_pattern_mismatch":
        return f"text like {context['pattern']}"
    if kind in ("model_type", "model_attributes_type"):
        return f"a mapping with the fields {_fields(_owner(model_class, error['loc']))}"
    if kind == "union_tag_not_found":
        return f"a mapping with the field {context['discriminator']}"
    if kind == "union_tag_invalid":
        return f"{context['discriminator']} to be one of {context['expected_tags']}"
    if kind in ("too_short", "string_too_short"):
        return f"at least {_counted(context['min_length'], kind)}"
    if kind in ("too_long", "string_too_long"):
        return f"at most {_counted(context['max_length'], kind)}"
    if kind == "value_error":
        raised = context.get("error", error["msg"])
        return raised.allowed if isinstance(raised, WrongFieldError) else str(raised)
    message = error["msg"].removeprefix("Input should be ")
    return _EXPECTED.get(kind) or message[:1].lower() + message[1:]


def _counted(number: int, kind: str) -> str:
    thing, things = ("character", "characters") if kind.startswith("string") else ("entry", "entries")
    return f"{number} {thing if number == 1 else things}"


def _owner(model_class: type[BaseModel], loc: Iterable[str | int]) -> type[BaseModel]:
    """The model class that the value at `loc` is read as, found through the fields' annotations."""
    current: Any = model_class
    for part in loc:
        current = _plain(current)
        if isinstance(current, type) and issubclass(current, BaseModel):
            named = {field.alias or name: field for name, field in current.model_fields.items()}
            if part in named:
                current = named[str(part)].annotation
                continue
        current = _tagged(current, part) or _item_annotation(current)
    found = _first_model(current)
    return found or model_class


def _plain(annotation: Any) -> Any:
    """An annotation without what pydantic is told beside it, and without the None of a field that may be missing."""
    while hasattr(annotation, "__metadata__"):
        annotation = annotation.__origin__
    if not isinstance(annotation, UnionType) and get_origin(annotation) is not Union:
        return annotation
    others = [a for a in annotation.__args__ if a is not NoneType]
    return _plain(others[0]) if len(others) == 1 else annotation


def _tagged(annotation: Any, tag: str | int) -> type[BaseModel] | None:
    """The member of a union in which some field can only be `tag`."""
    members = [m for m in getattr(annotation, "__args__", ()) if isinstance(m, type) and issubclass(m, BaseModel)]
    return next((m for m in members for f in m.model_fields.values() if get_args(f.annotation) == (tag,)), None)


def _item_annotation(annotation: Any) -> Any:
    arguments = [a for a in getattr(annotation, "__args__", ()) if a is not Ellipsis]
    return arguments[-1] if arguments else annotation


def _first_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for a in getattr(annotation, "__args__", ()) if (m := _first_model(a)) is not None), None)


def _fields(model_class: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model_class.model_fields.items()]


def _field(where: str, lines: Mapping[DocumentPath, int] | None, path: DocumentPath) -> str:
    """`recipe.yaml:12 merge.rules[2].layers`; a missing field has the line of what should hold it."""
    key = path_text(path)
    for length in range(len(path), -1, -1):
        if lines and path[:length] in lines:
            where = f"{where}:{lines[path[:length]]}"
            break
    return " ".join(filter(None, (where, key))) or "document"


def path_text(path: DocumentPath) -> str:
    """A path as people write it.

    >>> path_text(("merge", "rules", 2, "layers"))
    'merge.rules[2].layers'
    """
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
