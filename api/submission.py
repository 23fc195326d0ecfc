"""A search as it comes in: read, checked against what the service knows, every wrong field at once.

What needs torch is imported when the first search is checked: an API process that only shows runs stays small.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

from api.problems import FieldError, Problem, at, field_error, invalid, pointer
from api.schemas import Checked
from evomerge.errors import EvomergeError, InvalidInputError
from evomerge.recipe.schema import WrongFieldError
from evomerge.recipe.shared import Shared
from evomerge.recipe.text import load_yaml
from evomerge.run.spec import RunSpec
from fitness.items import EvalSet, Split, load_eval_set
from workers.registry import Registry

if TYPE_CHECKING:
    from search_spaces.space import SearchSpace

JSON_TYPES = frozenset({"application/json"})
YAML_TYPES = frozenset({"application/yaml", "application/x-yaml", "text/yaml"})


def read(body: bytes, content_type: str) -> RunSpec:
    """A search from a request's body, JSON or YAML.

    Raises:
        Problem: another media type, text that cannot be parsed, or fields that are wrong (all of them).
    """
    data = _parse(body, content_type.partition(";")[0].strip().lower())
    try:
        return RunSpec.model_validate(data)
    except ValidationError as error:
        raise invalid(_fields(error)) from error


def _parse(body: bytes, media_type: str) -> Any:
    if media_type not in JSON_TYPES | YAML_TYPES:
        raise Problem(
            "unsupported-media-type",
            f"Content-Type: got {media_type!r}; expected application/json or application/yaml",
            headers={"Accept": "application/json, application/yaml"},
        )
    try:
        text = body.decode()
        return (
            json.loads(text, parse_constant=_refuse_constant) if media_type in JSON_TYPES else load_yaml(text, "body")
        )
    except (ValueError, RecursionError, InvalidInputError) as error:
        raise Problem("bad-request", f"the body is not {media_type.rpartition('/')[2].upper()}: {error}") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _fields(error: ValidationError) -> Iterator[FieldError]:
    found = error.errors(include_url=False)
    for one in found:
        path = one["loc"]
        if any(len(other["loc"]) > len(path) and other["loc"][: len(path)] == path for other in found):
            continue  # a list is also called too short when its only entry is wrong
        raised = one.get("ctx", {}).get("error")
        if isinstance(raised, WrongFieldError):
            yield field_error(pointer((*path, *raised.path)), raised.value, raised.allowed)
            continue
        allowed = one["msg"].removeprefix("Value error, ")
        if one["type"] == "extra_forbidden":
            allowed = f"no such field; known here are {', '.join(_known(path[:-1]))}"
        value = "nothing" if one["type"] == "missing" else one["input"]
        yield field_error(pointer(path), value, allowed[:1].lower() + allowed[1:])


def _known(path: Sequence[int | str]) -> list[str]:
    """The fields of the model at a place in the spec."""
    model: Any = RunSpec
    for part in path:
        if isinstance(part, str) and isinstance(model, type) and issubclass(model, BaseModel):
            field = model.model_fields.get(part)
            model = _model_in(field.annotation) if field else None
    known = model.model_fields.items() if isinstance(model, type) and issubclass(model, BaseModel) else ()
    return sorted(field.alias or name for name, field in known)


def _model_in(annotation: Any) -> Any:
    """The pydantic model in `Model` or `tuple[Model, ...]`."""
    return next(iter(getattr(annotation, "__args__", ())), annotation)


def check(spec: RunSpec, registry: Registry, *, allow_code: bool = False) -> Checked:
    """What a search would be: its space and its items, after everything that can be known beforehand was checked.

    Args:
        allow_code: whether the operator lets code run that candidates wrote.

    Raises:
        Problem: fields that are wrong, as many as can be told apart.
    """
    errors: list[FieldError] = []
    _aliases(spec, registry, errors)
    sets = _eval_sets(spec, registry, errors)
    if not errors:
        _scoring(spec, sets, errors)
        _wanted(spec, registry, errors, allow_code=allow_code)
        _sources(spec, registry, errors)
    if errors:
        raise invalid(errors)
    space = _space(spec, registry)
    _optimizer(spec, space)
    items = {name: {split: len(one.split(split)) for split in get_args(Split)} for name, one in sets.items()}
    return Checked(
        spec=spec.model_dump(mode="json", by_alias=True),
        dimension=space.dim,
        genes=list(space.names),
        space=space.describe(),
        items=items,
        warnings=[*_warnings(spec, space.dim, items), *_seen_in_training(spec, registry, sets)],
    )


@contextmanager
def _placed(place: str, errors: list[FieldError]) -> Iterator[None]:
    """What goes wrong inside is an error at this place of the spec, or at the nearer one that the error names."""
    try:
        yield
    except InvalidInputError as error:
        nearer = _pointer_of(error.field)
        errors.append(at(place, error) if nearer is None else field_error(nearer, error.value, error.allowed))
    except EvomergeError as error:
        errors.append(FieldError(pointer=place, detail=f"{place}: {error}"))


@contextmanager
def _deciding(place: str) -> Iterator[None]:
    """As `_placed`, where nothing after can be checked without this."""
    errors: list[FieldError] = []
    with _placed(place, errors):
        yield
    if errors:
        raise invalid(errors)


def _pointer_of(field: str) -> str | None:
    """A pointer for an error's dotted path, when that is a path into the spec (`objectives.0.metric`)."""
    path = field.split(".")
    known = path[0] in RunSpec.model_fields and (len(path) > 1 or path[0] in Shared.model_fields)
    return pointer(path) if known else None


def _aliases(spec: RunSpec, registry: Registry, errors: list[FieldError]) -> None:
    with _placed("/models/base", errors):
        registry.model(spec.models.base)
    for name, alias in spec.models.sources.items():
        with _placed(pointer(["models", "sources", name]), errors):
            registry.model(alias)


def _eval_sets(spec: RunSpec, registry: Registry, errors: list[FieldError]) -> dict[str, EvalSet]:
    uses = [
        (pointer(["objectives", i, "eval_sets", j]), name)
        for i, objective in enumerate(spec.objectives)
        for j, name in enumerate(objective.eval_sets)
    ] + [
        (pointer(["constraints", i, "eval_set"]), one.eval_set)
        for i, one in enumerate(spec.constraints)
        if one.eval_set is not None
    ]
    sets: dict[str, EvalSet] = {}
    for place, name in uses:
        if name not in sets:
            with _placed(place, errors):
                sets[name] = load_eval_set(name, registry.eval_set(name))
    return sets


def _scoring(spec: RunSpec, sets: dict[str, EvalSet], errors: list[FieldError]) -> None:
    from fitness.metrics import METRICS, is_metric
    from fitness.objectives import ObjectivePlan

    for i, name in enumerate(spec.verify.metrics):
        if not is_metric(name):
            errors.append(field_error(pointer(["verify", "metrics", i]), name, f"one of {', '.join(METRICS)}"))
    with _placed("/objectives", errors):
        ObjectivePlan(spec, sets)


def _wanted(spec: RunSpec, registry: Registry, errors: list[FieldError], *, allow_code: bool) -> None:
    from workers.wanted import check_wanted

    with _placed("/objectives", errors):
        check_wanted(spec, registry, allow_code=allow_code)


def _sources(spec: RunSpec, registry: Registry, errors: list[FieldError]) -> None:
    """Whether every source fits the base: names and shapes, no weights. Recipes as sources are merged later."""
    from evomerge.merge.align.names import open_named_source
    from evomerge.models.checkpoint import open_checkpoint
    from evomerge.models.source import open_source
    from evomerge.recipe.align import AlignByNames
    from workers.setup import pinned_models

    place = registry.model(spec.models.base)
    if not place.is_dir():
        return
    with _deciding("/models/base"):
        base = open_checkpoint(place)
        align = pinned_models(spec, registry, check_hashes=False).align or {}
    own_rows = spec.tokenizer != "same"
    try:
        for name, alias in spec.models.sources.items():
            with _placed(pointer(["models", "sources", name]), errors):
                if not (source := registry.model(alias)).is_dir():
                    continue
                if isinstance(how := align.get(name), AlignByNames):
                    open_named_source(name, source, base, how, own_vocabulary=own_rows).close()
                else:
                    open_source(name, source, base, own_vocabulary=own_rows).close()
    finally:
        base.close()


def _space(spec: RunSpec, registry: Registry) -> SearchSpace:
    from workers.setup import pinned_models, space_of

    with _deciding("/models"):  # what is wrong with the space itself says so
        return space_of(spec, pinned_models(spec, registry, check_hashes=False))


def _optimizer(spec: RunSpec, space: SearchSpace) -> None:
    from workers.setup import optimizer_of

    with _deciding("/optimizer"):
        optimizer_of(spec, space)


def _warnings(spec: RunSpec, dimension: int, items: dict[str, dict[str, int]]) -> list[str]:
    found = []
    if spec.budget.candidates < dimension:
        found.append(f"/budget/candidates: {spec.budget.candidates} candidates are few for {dimension} genes")
    if not spec.verify.holdout:
        found.append("/verify/holdout: without holdout items the result is biased upward (the winner's curse)")
    few = sorted(name for name, count in items.items() if 0 < count["holdout"] < 100)
    if few and spec.verify.holdout:
        found.append(f"/objectives: fewer than 100 holdout items in {', '.join(few)}: wide intervals")
    return found


def _seen_in_training(spec: RunSpec, registry: Registry, sets: dict[str, EvalSet]) -> list[str]:
    """Items that models were trained on, where the registry names their training data."""
    if not registry.training:
        return []
    from workers.contamination import contamination, described

    with _deciding("/models"):
        return [f"/models: {line}" for line in described(contamination(spec, registry, sets))]
