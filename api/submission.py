"""A search as it comes in: read, checked against what the service knows, every wrong field at once.

What needs torch is imported when the first search is checked: an API process that only shows runs stays small.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel, ValidationError

from api.problems import FieldError, Problem, at, field_error, invalid, pointer
from api.schemas import Checked
from evomerge.errors import EvomergeError, InvalidInputError
from evomerge.recipe.text import load_yaml
from evomerge.run.spec import RunSpec
from workers.registry import Registry

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
    for one in error.errors(include_url=False):
        path = [part for part in one["loc"] if part != "function-after"]
        allowed = one["msg"].removeprefix("Value error, ")
        if one["type"] == "extra_forbidden":
            allowed = f"no such field; known here are {', '.join(_known(path[:-1]))}"
        value = "nothing" if one["type"] == "missing" else one["input"]
        yield field_error(pointer(path), value, allowed[:1].lower() + allowed[1:])


def _known(path: list[int | str]) -> list[str]:
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


def check(spec: RunSpec, registry: Registry) -> Checked:
    """What a search would be: its space and its items, after everything that can be known beforehand was checked.

    Raises:
        Problem: fields that are wrong, as many as can be told apart.
    """
    errors: list[FieldError] = []
    _aliases(spec, registry, errors)
    items = _items(spec, registry, errors)
    _metrics(spec, errors)
    if errors:
        raise invalid(errors)
    space = _space(spec, registry)
    _optimizer(spec, space.start)
    described = space.describe()
    return Checked(
        spec=spec.model_dump(mode="json", by_alias=True),
        dimension=space.dim,
        genes=list(space.names),
        space=described,
        items=items,
        warnings=_warnings(spec, space.dim, items),
    )


@contextmanager
def _placed(place: str, errors: list[FieldError] | None = None) -> Iterator[None]:
    """What goes wrong inside is an error at this place of the spec; without a list it ends the check."""
    try:
        yield
    except InvalidInputError as error:
        found = at(place, error)
    except EvomergeError as error:
        found = FieldError(pointer=place, detail=f"{place}: {error}")
    else:
        return
    if errors is None:
        raise invalid([found])
    errors.append(found)


def _aliases(spec: RunSpec, registry: Registry, errors: list[FieldError]) -> None:
    with _placed("/models/base", errors):
        registry.model(spec.models.base)
    for name, alias in spec.models.sources.items():
        with _placed(pointer(["models", "sources", name]), errors):
            registry.model(alias)


def _uses(spec: RunSpec) -> Iterator[tuple[str, str, str, int | None]]:
    """Every use of an eval set: its place, its name, the metric, how many items are asked for."""
    for i, objective in enumerate(spec.objectives):
        for j, name in enumerate(objective.eval_sets):
            yield pointer(["objectives", i, "eval_sets", j]), name, objective.metric, objective.items
    for i, constraint in enumerate(spec.constraints):
        yield pointer(["constraints", i, "eval_set"]), constraint.eval_set, constraint.metric, constraint.items


def _items(spec: RunSpec, registry: Registry, errors: list[FieldError]) -> dict[str, dict[str, int]]:
    from fitness.items import load_eval_set

    counts: dict[str, dict[str, int]] = {}
    for place, name, _, wanted in _uses(spec):
        with _placed(place, errors):
            if name not in counts:
                loaded = load_eval_set(name, registry.eval_set(name))
                counts[name] = {"search": len(loaded.split("search")), "holdout": len(loaded.split("holdout"))}
            if wanted is not None and wanted > counts[name]["search"]:
                raise InvalidInputError(f"items of eval set {name!r}", wanted, f"at most {counts[name]['search']}")
            if spec.verify.holdout and not counts[name]["holdout"]:
                raise InvalidInputError(f"holdout items of eval set {name!r}", 0, "some, or verify.holdout false")
    return counts


def _metrics(spec: RunSpec, errors: list[FieldError]) -> None:
    from fitness.metrics import METRICS

    allowed = f"one of {', '.join(sorted(METRICS))}"
    named = [(pointer(["objectives", i, "metric"]), o.metric) for i, o in enumerate(spec.objectives)]
    named += [(pointer(["constraints", i, "metric"]), c.metric) for i, c in enumerate(spec.constraints)]
    errors += [field_error(place, metric, allowed) for place, metric in named if metric not in METRICS]


def _space(spec: RunSpec, registry: Registry) -> Any:
    from workers.setup import pinned_models, space_of

    with _placed("/models"):
        recipe = pinned_models(spec, registry, check_hashes=False)
    with _placed("/space"):
        return space_of(spec, recipe)


def _optimizer(spec: RunSpec, start: tuple[float, ...]) -> None:
    from evomerge.optimizers import make

    build: Callable[..., object] = make
    with _placed("/optimizer"):
        build(
            spec.optimizer.name,
            start=start,
            num_objectives=len(spec.objectives),
            seed=spec.seed,
            **spec.optimizer.options,
        )


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
