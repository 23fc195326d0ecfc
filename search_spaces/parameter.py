"""Parameter space: merge methods; weights, densities and so on per source, group of layers and group of roles.

Source: Akiba et al. 2024, Evolutionary Optimization of Model Merging Recipes, arXiv:2403.13187, sec. 3.1 (PS merging);
the genes are the parameters that the methods declare (`evomerge.merge.method.Parameter`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from evomerge.errors import InvalidInputError
from evomerge.merge.calibration.kinds import check_items
from evomerge.merge.method import Method
from evomerge.merge.methods import METHODS
from evomerge.merge.parameters import check
from evomerge.merge.standard import ORDER
from evomerge.recipe.parameters import Scalar
from evomerge.recipe.schema import Merge, Name, Parameters
from evomerge.recipe.text import validate
from search_spaces.groups import Group, covers, make_groups
from search_spaces.prior import with_steps
from search_spaces.scale import Choices
from search_spaces.searched import Searched, Wanted, searched
from search_spaces.setting import Setting
from search_spaces.template import METHOD, Form, Gene, Place, Spot, Template, TemplateSpace
from search_spaces.ties import Tie, Ties, read_ties

MAX_GENES = 10_000
WHOLE = Group(layers=None, roles=(), selectors=((None, ()),), inside=True)

Bounds = tuple[float, float]


class ParameterSpec(BaseModel):
    """A run's `space` of kind `parameter`.

    Attributes:
        method: name of the merge method.
        methods: instead of `method`, several of which one gene picks one; the search begins with the first.
        weight: range of every source's weight; null is the range that the method declares. Negative weights subtract.
        density: range of every source's density; null searches no density.
        search: further parameters: [low, high] of a number, three numbers or more or names or flags to choose from;
            null: all that the method declares. A `weight` here takes the place of the range above.
        order: whether the order of the sources is searched, for methods that take one after the other.
        layers: number of groups of layers, or their [first, last]; what no group holds keeps the start's values.
        roles: groups of tensor roles or their prefixes, `*` for the rest; null is one group of all.
        knots: instead of groups of layers, values at so many depths, linear between them.
        tie: lists of sources, or of groups of tensors by their labels in the genes' names, that share their genes;
            `sources`: all sources do.
        prior: `delta_norm`: first steps of weights are smaller where a source differs more from the base.
        fixed: parameters that do not vary, for all sources.
        fixed_sources: the same for one source each; a weight fixed here is not searched.
        start: where searches begin: `average`, a weight of 1/K for each of K sources.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["parameter"] = "parameter"
    method: str = "task_arithmetic"
    methods: tuple[str, ...] | None = Field(default=None, min_length=2)
    weight: Bounds | None = None
    density: Bounds | None = None
    search: dict[str, tuple[Scalar, ...] | None] = Field(default_factory=dict)
    order: bool = False
    layers: Annotated[int, Field(ge=1)] | tuple[tuple[int, int], ...] = 1
    roles: tuple[tuple[str, ...], ...] | None = None
    knots: int | None = Field(default=None, ge=2, le=1000)
    tie: Tie | None = None
    prior: Literal["delta_norm"] | None = None
    fixed: Parameters = Field(default_factory=dict)
    fixed_sources: dict[Name, Parameters] = Field(default_factory=dict)
    start: Literal["average"] = "average"


def parameter_space(spec: Mapping[str, Any], setting: Setting) -> TemplateSpace:
    """The space that a spec describes.

    Raises:
        InvalidInputError: unknown method, parameter, role or source, an impossible range, or nothing to search.
        CheckpointError, NonFiniteError: with a prior, models that cannot be read.
    """
    wanted = validate(ParameterSpec, dict(spec))
    methods = _methods(wanted, setting)
    _check_fixed(wanted, methods, setting)
    varied = searched(_wanted(wanted, methods), methods, wanted.fixed, len(setting.sources))
    groups = _groups(wanted, setting)
    ties = read_ties(wanted.tie, list(setting.sources), [group.label for group in groups])
    slots = [*_slots(wanted, varied, groups, list(setting.sources)), *_ranks(wanted, methods, setting)]
    holes = list(_holes(slots, ties))
    genes = (*_method_gene(methods), *(gene for hole in holes for gene in hole.genes()))
    if not 1 <= len(genes) <= MAX_GENES:
        raise InvalidInputError("document", f"{len(genes)} genes", f"1 to {MAX_GENES} genes")
    complete = covers(groups, setting.architecture)
    forms = tuple(
        _form(method, len(methods) > 1, wanted, () if complete else varied, holes, setting) for method in methods
    )
    if wanted.prior is not None:
        genes = with_steps(genes, setting)
    return TemplateSpace(forms, genes, _details(wanted, methods), setting.architecture)


def _details(spec: ParameterSpec, methods: Sequence[Method]) -> dict[str, object]:
    names = [method.name for method in methods]
    chosen: dict[str, object] = {"method": names[0]} if len(names) == 1 else {"methods": names}
    return {"kind": "parameter", **chosen, "layers": spec.layers, "knots": spec.knots}


def _methods(spec: ParameterSpec, setting: Setting) -> tuple[Method, ...]:
    if spec.methods is None:
        return (_method(spec.method, "method", setting),)
    if "method" in spec.model_fields_set:
        raise InvalidInputError("methods", list(spec.methods), "either method or methods, not both")
    for number, name in enumerate(spec.methods):
        if name in spec.methods[:number]:
            raise InvalidInputError(f"methods[{number}]", name, f"{name!r} once")
    return tuple(_method(name, f"methods[{number}]", setting) for number, name in enumerate(spec.methods))


def _method(name: str, field: str, setting: Setting) -> Method:
    if name not in METHODS:
        raise InvalidInputError(field, name, f"one of {', '.join(METHODS)}")
    method = METHODS[name]
    least, most = method.num_sources
    if not least <= len(setting.sources) <= (most or len(setting.sources)):
        limits = f"{least} or more" if most is None else f"{least} to {most}" if most > least else f"{least}"
        raise InvalidInputError(field, name, f"a method for {len(setting.sources)} sources; it takes {limits}")
    try:
        check_items(method.name, method.requires, setting.calibration, setting.sources)
    except InvalidInputError as error:
        allowed = f"a method that reads no statistics, or beside the space {error.field}: {error.allowed}"
        raise InvalidInputError(field, name, allowed) from error
    return method


def _check_fixed(spec: ParameterSpec, methods: Sequence[Method], setting: Setting) -> None:
    for source in spec.fixed_sources:
        if source not in setting.sources:
            raise InvalidInputError(f"fixed_sources.{source}", source, f"one of {', '.join(setting.sources)}")
    known = {p.name for method in methods for p in method.parameters}
    known_of_sources = {p.name for method in methods for p in method.parameters if p.per_source}
    for method in methods:
        own = {p.name for p in method.parameters}
        own_of_sources = {p.name for p in method.parameters if p.per_source}
        merge = Merge(
            method=method.name,
            parameters=_only(spec.fixed, own, known),
            sources={
                name: _only(fixed, own_of_sources, known_of_sources) for name, fixed in spec.fixed_sources.items()
            },
        )
        try:
            check(method, merge)
        except InvalidInputError as error:
            field = error.field.replace("merge.parameters", "fixed", 1).replace("merge.sources", "fixed_sources", 1)
            raise InvalidInputError(field, error.value, error.allowed) from error


def _only(fixed: Parameters, own: set[str], known: set[str]) -> Parameters:
    """What is for a method: its own parameters, and those that no method knows, to be refused."""
    return {name: value for name, value in fixed.items() if name in own or name not in known}


def _wanted(spec: ParameterSpec, methods: Sequence[Method]) -> dict[str, tuple[str, Wanted]]:
    """The parameters that vary: weights unless fixed, and what the spec names; each with its field."""
    wanted: dict[str, tuple[str, Wanted]] = {}
    declared = {p.name for method in methods for p in method.parameters}
    unsaid = "weight" not in spec.fixed and "weight" not in spec.search
    if spec.weight is not None or ("weight" in declared and unsaid):
        wanted["weight"] = ("weight", spec.weight)
    if spec.density is not None:
        wanted["density"] = ("density", spec.density)
    for name, said in spec.search.items():
        if name in wanted:
            raise InvalidInputError(f"search.{name}", said, f"{name!r} once: it is searched already")
        if name == ORDER.name and name in declared:
            raise InvalidInputError(f"search.{name}", said, "`order: true` beside `search`")
        wanted[name] = (f"search.{name}", said)
    if not wanted and not spec.order and len(methods) == 1:  # no weights: what its sources share is all there is
        ranged = [p for p in methods[0].parameters if p.low is not None and p.name not in spec.fixed]
        wanted = {p.name: (f"search.{p.name}", None) for p in ranged if p.name != ORDER.name}
    for name, (field, said) in wanted.items():
        if name in spec.fixed:
            raise InvalidInputError(field, said, f"{name!r} either searched or fixed")
    return wanted


def _groups(spec: ParameterSpec, setting: Setting) -> tuple[Group, ...]:
    if spec.knots is not None:
        num_layers = setting.architecture.num_layers
        if spec.layers != 1:
            raise InvalidInputError("knots", spec.knots, "either knots or groups of layers, not both")
        if spec.knots > num_layers:
            raise InvalidInputError("knots", spec.knots, f"at most {num_layers}, the number of layers")
    return make_groups(spec.layers, spec.roles, setting.architecture)


@dataclass(frozen=True, slots=True)
class _Slot:
    """One parameter of one source (None: of all) in one group: a gene, with knots several, or tied to other slots."""

    searched: Searched
    spot: Spot
    knots: int | None


def _slots(
    spec: ParameterSpec, varied: Sequence[Searched], groups: Sequence[Group], sources: Sequence[str]
) -> Iterator[_Slot]:
    over_model = [s for s in varied if s.whole_model]
    by_group = [s for s in varied if not s.whole_model]
    for group, some in ((None, over_model), *((group, by_group) for group in groups)):
        # Of a group outside the layers only one end's knot would ever be read.
        knots = spec.knots if group is not None and group.inside else None
        for source in [None, *sources]:
            for s in some:
                if s.per_source == (source is not None) and not _is_fixed(spec, source, s.name):
                    yield _Slot(s, Spot(source, group or WHOLE), None if isinstance(s.scale, Choices) else knots)


def _is_fixed(spec: ParameterSpec, source: str | None, parameter: str) -> bool:
    return source is not None and parameter in spec.fixed_sources.get(source, {})


def _ranks(spec: ParameterSpec, methods: Sequence[Method], setting: Setting) -> Iterator[_Slot]:
    """A random key for each source, where the order is searched; at the start the order of their names."""
    if not spec.order:
        return
    ordered = frozenset(method.name for method in methods if method.ordered)
    if not ordered:
        takers = ", ".join(name for name, method in METHODS.items() if method.ordered)
        raise InvalidInputError("order", True, f"a method that takes sources one after the other: {takers}")
    if len(setting.sources) < 2:
        raise InvalidInputError("order", True, "two sources or more to order")
    if ORDER.name in spec.fixed or any(ORDER.name in fixed for fixed in spec.fixed_sources.values()):
        raise InvalidInputError("order", True, f"{ORDER.name!r} either searched or fixed")
    ranks = Choices(tuple(float(rank) for rank in range(len(setting.sources))), ordered=True)
    for rank, source in enumerate(setting.sources):
        s = Searched(ORDER.name, True, ranks, float(rank), ordered, whole_model=True, key=True)
        yield _Slot(s, Spot(source, WHOLE), None)


@dataclass(frozen=True, slots=True)
class _Hole:
    """Slots that share their genes."""

    searched: Searched
    spots: tuple[Spot, ...]
    knots: int | None

    def genes(self) -> Iterator[Gene]:
        """One, or one a knot."""
        s = self.searched
        sources = "+".join(dict.fromkeys(spot.source for spot in self.spots if spot.source is not None))
        for knot in [None] if self.knots is None else range(self.knots):
            gene = Gene("", s.name, self.spots, s.scale, s.start, knot, self.knots or 1, s.key)
            yield replace(gene, name="/".join(filter(None, [s.name, sources, gene.part])))

    def write(self, template: Template, method: str) -> Iterator[tuple[Place, ...]]:
        """Write the start's value where it holds; for each gene, its places there."""
        s, number = self.searched, self.knots or 1
        if method not in s.methods:
            yield from ((),) * number
            return
        places = [
            template.write(
                layers, roles, spot.source, s.name, s.start if self.knots is None else [float(s.start)] * self.knots
            )
            for spot in self.spots
            for layers, roles in spot.group.selectors
        ]
        for knot in range(number):
            yield tuple(places if self.knots is None else [(*place, knot) for place in places])


def _holes(slots: Sequence[_Slot], ties: Ties) -> Iterator[_Hole]:
    tied: dict[tuple[object, ...], list[_Slot]] = {}
    for number, slot in enumerate(slots):
        s, spot = slot.searched, slot.spot
        own = (number,) if s.key else (ties.of(spot.source), ties.of(spot.group.label))
        tied.setdefault((s.name, s.per_source, slot.knots, *own), []).append(slot)
    for some in tied.values():
        yield _Hole(some[0].searched, tuple(slot.spot for slot in some), some[0].knots)


def _method_gene(methods: Sequence[Method]) -> Iterator[Gene]:
    if len(methods) > 1:
        names = tuple(method.name for method in methods)
        yield Gene(METHOD, METHOD, (), Choices(names), names[0])


def _form(
    method: Method,
    several: bool,
    spec: ParameterSpec,
    outside: Sequence[Searched],
    holes: Sequence[_Hole],
    setting: Setting,
) -> Form:
    """A method's recipe with holes.

    Args:
        several: whether the first gene picks the method.
        outside: what has the start's values where tensors lie in no group.
    """
    template = Template(setting, method.name)
    _write_constants(template, method, spec, outside)
    places = tuple(places for hole in holes for places in hole.write(template, method.name))
    return Form(method.name, template.data, ((),) * several + places)


def _write_constants(template: Template, method: Method, spec: ParameterSpec, outside: Sequence[Searched]) -> None:
    own = {p.name: p for p in method.parameters}
    for s in (s for s in outside if method.name in s.methods):
        for source in template.sources if s.per_source else [None]:
            template.write(None, (), source, s.name, s.start)
    for name, value in spec.fixed.items():
        if name in own:
            template.write(None, (), None, name, value)
    for source, parameters in spec.fixed_sources.items():
        for name, value in parameters.items():
            if name in own:
                template.write(None, (), source, name, value)
