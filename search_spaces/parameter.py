"""Parameter space: one merge method; its weights, densities and so on per source, group of layers and group of roles.

Source: Akiba et al. 2024, Evolutionary Optimization of Model Merging Recipes, arXiv:2403.13187, sec. 3.1 (PS merging);
the genes are the parameters that the method declares (`evomerge.merge.method.Parameter`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from evomerge.errors import InvalidInputError
from evomerge.merge.calibration.kinds import check_items
from evomerge.merge.method import Method, Parameter
from evomerge.merge.methods import METHODS
from evomerge.merge.parameters import check
from evomerge.recipe.schema import Merge, Name, Parameters
from evomerge.recipe.text import validate
from search_spaces.groups import Group, covers, make_groups
from search_spaces.scale import Scale
from search_spaces.setting import Setting
from search_spaces.template import Gene, Template, TemplateSpace

MAX_GENES = 10_000
WHOLE = Group(layers=None, roles=(), selectors=((None, ()),), inside=True)

Bounds = tuple[float, float]


class ParameterSpec(BaseModel):
    """A run's `space` of kind `parameter`.

    Attributes:
        method: name of the merge method.
        weight: range of every source's weight; null is the range that the method declares. Negative weights subtract.
        density: range of every source's density; null searches no density.
        search: further parameters of the method and their ranges (null: the declared range).
        layers: number of groups of layers, or their [first, last]; what no group holds keeps the start's values.
        roles: groups of tensor roles or their prefixes, `*` for the rest; null is one group of all.
        knots: instead of groups of layers, values at so many depths, linear between them.
        fixed: parameters that do not vary, for all sources.
        fixed_sources: the same for one source each; a weight fixed here is not searched.
        start: where searches begin: `average`, a weight of 1/K for each of K sources.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["parameter"] = "parameter"
    method: str = "task_arithmetic"
    weight: Bounds | None = None
    density: Bounds | None = None
    search: dict[str, Bounds | None] = Field(default_factory=dict)
    layers: Annotated[int, Field(ge=1)] | tuple[tuple[int, int], ...] = 1
    roles: tuple[tuple[str, ...], ...] | None = None
    knots: int | None = Field(default=None, ge=2, le=1000)
    fixed: Parameters = Field(default_factory=dict)
    fixed_sources: dict[Name, Parameters] = Field(default_factory=dict)
    start: Literal["average"] = "average"


@dataclass(frozen=True, slots=True)
class _Searched:
    """A parameter that varies, and where it starts."""

    parameter: Parameter
    scale: Scale
    start: float


def parameter_space(spec: Mapping[str, Any], setting: Setting) -> TemplateSpace:
    """The space that a spec describes.

    Raises:
        InvalidInputError: unknown method, parameter, role or source, an impossible range, or nothing to search.
    """
    wanted = validate(ParameterSpec, dict(spec))
    method = _method(wanted, setting)
    _check_fixed(wanted, method, setting)
    searched = _searched(wanted, method, len(setting.sources))
    groups = _groups(wanted, setting)
    template = Template(setting, method.name)
    _write_constants(template, wanted, searched, complete=covers(groups, setting.architecture))
    slots = _slots(wanted, method, searched, groups, list(setting.sources))
    genes = tuple(gene for slot in slots for gene in _genes(template, slot))
    if not 1 <= len(genes) <= MAX_GENES:
        raise InvalidInputError("document", f"{len(genes)} genes", f"1 to {MAX_GENES} genes")
    details = {"kind": "parameter", "method": method.name, "layers": wanted.layers, "knots": wanted.knots}
    return TemplateSpace(template.data, genes, details, setting.architecture)


def _method(spec: ParameterSpec, setting: Setting) -> Method:
    if spec.method not in METHODS:
        raise InvalidInputError("method", spec.method, f"one of {', '.join(METHODS)}")
    method = METHODS[spec.method]
    least, most = method.num_sources
    if not least <= len(setting.sources) <= (most or len(setting.sources)):
        limits = f"{least} or more" if most is None else f"{least} to {most}" if most > least else f"{least}"
        raise InvalidInputError(
            "method", spec.method, f"a method for {len(setting.sources)} sources; it takes {limits}"
        )
    try:
        check_items(method.name, method.requires, setting.calibration, setting.sources)
    except InvalidInputError as error:
        allowed = f"a method that reads no statistics, or beside the space {error.field}: {error.allowed}"
        raise InvalidInputError("method", spec.method, allowed) from error
    return method


def _check_fixed(spec: ParameterSpec, method: Method, setting: Setting) -> None:
    for source in spec.fixed_sources:
        if source not in setting.sources:
            raise InvalidInputError(f"fixed_sources.{source}", source, f"one of {', '.join(setting.sources)}")
    try:
        check(method, Merge(method=method.name, parameters=spec.fixed, sources=spec.fixed_sources))
    except InvalidInputError as error:
        field = error.field.replace("merge.parameters", "fixed", 1).replace("merge.sources", "fixed_sources", 1)
        raise InvalidInputError(field, error.value, error.allowed) from error


def _declared(method: Method, name: str, field: str) -> Parameter:
    parameters = {parameter.name: parameter for parameter in method.parameters}
    if name not in parameters:
        known = ", ".join(parameters) or "none"
        raise InvalidInputError(field, name, f"a parameter of {method.name!r}: {known}")
    return parameters[name]


def _searched(spec: ParameterSpec, method: Method, num_sources: int) -> tuple[_Searched, ...]:
    """The parameters that vary: weights unless fixed, and what the spec names."""
    wanted: dict[str, tuple[str, Bounds | None]] = {}
    declared = [parameter.name for parameter in method.parameters]
    if spec.weight is not None or ("weight" in declared and "weight" not in spec.fixed):
        wanted["weight"] = ("weight", spec.weight)
    if spec.density is not None:
        wanted["density"] = ("density", spec.density)
    for name, bounds in spec.search.items():
        if name in wanted:
            raise InvalidInputError(f"search.{name}", bounds, f"{name!r} once: it is searched already")
        wanted[name] = (f"search.{name}", bounds)
    if not wanted:  # a method without weights: what it shares is all there is
        ranged = [p for p in method.parameters if p.low is not None and p.name not in spec.fixed]
        wanted = {p.name: (f"search.{p.name}", None) for p in ranged}
    for name, (field, bounds) in wanted.items():
        if name in spec.fixed:
            raise InvalidInputError(field, bounds, f"{name!r} either searched or fixed")
    return tuple(
        _searched_parameter(_declared(method, name, field), bounds, field, num_sources)
        for name, (field, bounds) in wanted.items()
    )


def _searched_parameter(parameter: Parameter, bounds: Bounds | None, field: str, num_sources: int) -> _Searched:
    if parameter.low is None or parameter.high is None:
        raise InvalidInputError(field, bounds, f"a parameter with a range of numbers, which {parameter.name!r} is not")
    low, high = bounds or (parameter.low, parameter.high)
    if parameter.legal and not parameter.legal[0] <= low < high <= parameter.legal[1]:
        raise InvalidInputError(
            field, [low, high], "[low, high] within {:g} to {:g}, low < high".format(*parameter.legal)
        )
    try:
        scale = Scale(low, high, log=parameter.scale == "log")
    except ValueError as error:
        raise InvalidInputError(field, [low, high], str(error)) from error
    # The plain average; alone, a source has no average, and its weight starts at the method's default.
    start = 1 / num_sources if parameter.name == "weight" and num_sources > 1 else parameter.default
    assert isinstance(start, float | int)  # a parameter with a range is a number
    return _Searched(parameter, scale, scale.value(scale.gene(start)))


def _groups(spec: ParameterSpec, setting: Setting) -> tuple[Group, ...]:
    if spec.knots is not None:
        num_layers = setting.architecture.num_layers
        if spec.layers != 1:
            raise InvalidInputError("knots", spec.knots, "either knots or groups of layers, not both")
        if spec.knots > num_layers:
            raise InvalidInputError("knots", spec.knots, f"at most {num_layers}, the number of layers")
    return make_groups(spec.layers, spec.roles, setting.architecture)


def _write_constants(template: Template, spec: ParameterSpec, searched: Sequence[_Searched], *, complete: bool) -> None:
    """Fixed values, and the start's values where some tensors lie in no group."""
    for s in () if complete else searched:
        for source in template.sources if s.parameter.per_source else [None]:
            template.write(None, (), source, s.parameter.name, s.start)
    for name, value in spec.fixed.items():
        template.write(None, (), None, name, value)
    for source, parameters in spec.fixed_sources.items():
        for name, value in parameters.items():
            template.write(None, (), source, name, value)


@dataclass(frozen=True, slots=True)
class _Slot:
    """One parameter of one source (None: of all) in one group: a gene, or with knots several."""

    searched: _Searched
    source: str | None
    group: Group
    knots: int | None


def _slots(
    spec: ParameterSpec, method: Method, searched: Sequence[_Searched], groups: Sequence[Group], sources: Sequence[str]
) -> Iterator[_Slot]:
    over_model = [s for s in searched if _over_whole_model(s.parameter, spec, method)]
    by_group = [s for s in searched if s not in over_model]
    for group, some in ((None, over_model), *((group, by_group) for group in groups)):
        # Of a group outside the layers only one end's knot would ever be read.
        knots = spec.knots if group is not None and group.inside else None
        for source in [None, *sources]:
            for s in some:
                if s.parameter.per_source == (source is not None) and not _is_fixed(spec, source, s.parameter):
                    yield _Slot(s, source, group or WHOLE, knots)


def _over_whole_model(parameter: Parameter, spec: ParameterSpec, method: Method) -> bool:
    """Whether a parameter has one value everywhere: those that sources share, and densities of a trim over the model.

    A method without weights per source (slerp) has its shared parameters per group: they are all it has.
    """
    if not parameter.per_source:
        return any(p.per_source for p in method.parameters)
    stated = {p.name: spec.fixed.get(p.name, p.default) for p in method.parameters if not p.per_source}
    shared = {name: value for name, value in stated.items() if not isinstance(value, tuple)}
    return parameter.name == "density" and method.measures(shared) == "model"


def _is_fixed(spec: ParameterSpec, source: str | None, parameter: Parameter) -> bool:
    return source is not None and parameter.name in spec.fixed_sources.get(source, {})


def _genes(template: Template, slot: _Slot) -> Iterator[Gene]:
    s, group, parameter = slot.searched, slot.group, slot.searched.parameter.name
    value = s.start if slot.knots is None else [s.start] * slot.knots
    places = [template.write(layers, roles, slot.source, parameter, value) for layers, roles in group.selectors]
    for knot in [None] if slot.knots is None else range(slot.knots):
        label = None if knot is None else f"knot {knot}"
        yield Gene(
            name="/".join(filter(None, [parameter, slot.source, group.label, label])),
            parameter=parameter,
            source=slot.source,
            layers=group.layers,
            roles=group.roles,
            knot=knot,
            scale=s.scale,
            start=s.start,
            places=tuple(place if knot is None else (*place, knot) for place in places),
        )
