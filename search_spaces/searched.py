"""Which parameters of one or several methods vary, within which range, and whether they may vary within the model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from evomerge.errors import InvalidInputError
from evomerge.merge.method import Method, Parameter
from evomerge.recipe.parameters import Scalar
from evomerge.recipe.schema import Parameters
from search_spaces.scale import Choices, Scale

MOST_CHOICES = 100
"""So many whole numbers at most are choices; more of them are a range of reals that are rounded."""

Wanted = tuple[Scalar, ...] | None
"""What a spec says of a parameter: [low, high] of a number, three numbers or more to choose from, names or flags to
choose from; None: all that its methods declare."""


@dataclass(frozen=True, slots=True)
class Searched:
    """A parameter that varies.

    Attributes:
        methods: those that have it.
        whole_model: it has one value everywhere.
        key: it is a source's rank among the sources, found by random keys.
    """

    name: str
    per_source: bool
    scale: Scale | Choices
    start: Scalar
    methods: frozenset[str]
    whole_model: bool
    key: bool = False


def searched(
    wanted: Mapping[str, tuple[str, Wanted]], methods: Sequence[Method], fixed: Parameters, num_sources: int
) -> tuple[Searched, ...]:
    """What varies.

    Parameters of several methods that have one name share their genes: their range is what all of these methods declare
    and their start the first one's default. Those that sources share have one value over the model, except where a
    method has no others (slerp); so has a density that a method measures over the model.

    Args:
        wanted: name → field of the spec that asks for it, and what it says.
        fixed: what does not vary.

    Raises:
        InvalidInputError: no method has it, or not within the range or among the choices.
    """
    found: list[Searched] = []
    for name, (field, said) in wanted.items():
        for owners in _owners(name, methods, field):
            scale = _scale([p for _, p in owners], said, field)
            found.append(_searched(owners, scale, num_sources, _by_group(owners)))
    return tuple(_over_model(s, found, methods, fixed) for s in found)


Owners = list[tuple[Method, Parameter]]
"""Methods and their parameter of one name."""


def _owners(name: str, methods: Sequence[Method], field: str) -> Iterator[Owners]:
    """What has the name: what sources share, and what each has for itself, apart."""
    owners = [(method, p) for method in methods for p in method.parameters if p.name == name]
    if not owners:
        known = "; ".join(f"{m.name!r}: {', '.join(p.name for p in m.parameters) or 'none'}" for m in methods)
        raise InvalidInputError(field, name, f"a parameter of {known}")
    for per_source in (False, True):
        if some := [(method, p) for method, p in owners if p.per_source == per_source]:
            yield some


def _searched(owners: Owners, scale: Scale | Choices, num_sources: int, by_group: bool) -> Searched:
    first = owners[0][1]
    # The plain average; alone, a source has no average, and its weight starts at the method's default.
    average = first.name == "weight" and first.per_source and num_sources > 1
    start = 1 / num_sources if average else first.default
    assert not isinstance(start, tuple), "a default is one value"
    return Searched(
        name=first.name,
        per_source=first.per_source,
        scale=scale,
        start=scale.value(scale.gene(start)),
        methods=frozenset(method.name for method, _ in owners),
        whole_model=not by_group or (not first.per_source and isinstance(scale, Choices)),
    )


def _by_group(owners: Owners) -> bool:
    """Whether a parameter may differ between groups of tensors, as far as it and its methods go."""
    return all(p.per_source or not any(q.per_source for q in method.parameters) for method, p in owners)


def _over_model(s: Searched, found: Sequence[Searched], methods: Sequence[Method], fixed: Parameters) -> Searched:
    """A density that one of the methods measures over the model has one value there."""
    owners = [method for method in methods if method.name in s.methods]
    if s.name != "density" or not any(_measures_model(method, found, fixed) for method in owners):
        return s
    return Searched(s.name, s.per_source, s.scale, s.start, s.methods, whole_model=True)


def _measures_model(method: Method, found: Sequence[Searched], fixed: Parameters) -> bool:
    """Whether it does for any of the choices that a search has."""
    shared = {p.name: fixed.get(p.name, p.default) for p in method.parameters if not p.per_source}
    plain = {name: value for name, value in shared.items() if not isinstance(value, tuple)}
    chosen = {s.name: s.scale.values for s in found if s.name in plain and isinstance(s.scale, Choices)}
    ways = (dict(zip(chosen, values, strict=True)) for values in itertools.product(*chosen.values()))
    return any(method.measures({**plain, **way}) == "model" for way in ways)


def _scale(parameters: Sequence[Parameter], said: Wanted, field: str) -> Scale | Choices:
    first = parameters[0]
    if len({(isinstance(p.default, bool), bool(p.choices), p.low is None) for p in parameters}) > 1:
        raise InvalidInputError(field, first.name, "a parameter that is one kind of value in all methods")
    if isinstance(first.default, bool):
        return _names((False, True), said, field)
    if first.choices:
        common = [name for name in first.choices if all(name in p.choices for p in parameters)]
        return _names(common, said, field)
    return _numbers(parameters, said, field)


def _names(known: Sequence[Scalar], said: Wanted, field: str) -> Choices:
    values = tuple(known) if said is None else said
    legal = all(any(type(value) is type(k) and value == k for k in known) for value in values)
    if not legal or len(values) < 2 or len(set(values)) < len(values):
        names = ", ".join(str(k).lower() if isinstance(k, bool) else str(k) for k in known)
        raise InvalidInputError(field, None if said is None else list(said), f"two or more of {names}, each once")
    return Choices(values)


def _numbers(parameters: Sequence[Parameter], said: Wanted, field: str) -> Scale | Choices:
    first = parameters[0]
    legal = [p.legal for p in parameters if p.legal]
    least, most = (
        max((low for low, _ in legal), default=-float("inf")),
        min((h for _, h in legal), default=float("inf")),
    )
    if said is None:
        if any(p.low is None or p.high is None for p in parameters):
            raise InvalidInputError(field, said, f"a parameter with a range of numbers, which {first.name!r} is not")
        said = (max(p.low or 0.0 for p in parameters), min(p.high or 0.0 for p in parameters))
    numbers = [float(n) for n in said if isinstance(n, int | float) and not isinstance(n, bool)]
    allowed = f"[low, high] within {least:g} to {most:g}, low < high" if legal else "[low, high], low < high"
    rising = len(numbers) == len(said) >= 2 and all(a < b for a, b in itertools.pairwise(numbers))
    if not rising or not least <= numbers[0] <= numbers[-1] <= most:
        raise InvalidInputError(field, list(said), f"{allowed}; or three numbers or more in rising order")
    whole = all(p.whole for p in parameters)
    if whole and not all(n.is_integer() for n in numbers):
        raise InvalidInputError(field, list(said), f"whole numbers: {first.name!r} counts something")
    if len(numbers) > 2:
        return Choices(tuple(numbers), ordered=True)
    return _range(first, numbers[0], numbers[1], whole, field)


def _range(parameter: Parameter, low: float, high: float, whole: bool, field: str) -> Scale | Choices:
    log = parameter.scale == "log"
    if whole and not log and high - low < MOST_CHOICES:
        return Choices(tuple(float(n) for n in range(int(low), int(high) + 1)), ordered=True)
    try:
        return Scale(low, high, log=log, whole=whole)
    except ValueError as error:
        raise InvalidInputError(field, [low, high], str(error)) from error
