"""A recipe's parameters against what its method declares: checked, and resolved for one part of the model. Pure."""

from __future__ import annotations

import math

from evomerge.errors import InvalidInputError
from evomerge.merge.method import Method, Parameter
from evomerge.models.architecture import Part
from evomerge.recipe.parameters import Scalar, at_depth, stated
from evomerge.recipe.schema import Merge, Parameters, ParameterValue


def check(method: Method, merge: Merge) -> None:
    """Refuse parameters that the method does not have or allow.

    Raises:
        InvalidInputError: naming the field in the recipe, what it holds and what is allowed.
    """
    _check_all(method, merge.parameters, "merge.parameters", of_source=False)
    for source, parameters in merge.sources.items():
        _check_all(method, parameters, f"merge.sources.{source}", of_source=True)
    for i, rule in enumerate(merge.rules):
        _check_all(method, rule.parameters, f"merge.rules[{i}].parameters", of_source=rule.source is not None)


def _check_all(method: Method, parameters: Parameters, where: str, *, of_source: bool) -> None:
    known = {p.name: p for p in method.parameters if p.per_source or not of_source}
    for name, value in parameters.items():
        if name not in known:
            kind = "per-source parameters" if of_source else "parameters"
            allowed = f"{kind} of {method.name}: {', '.join(known) or 'none'}"
            raise InvalidInputError(f"{where}.{name}", value, allowed)
        _check_value(known[name], value, f"{where}.{name}")


def _check_value(parameter: Parameter, value: ParameterValue, where: str) -> None:
    if isinstance(parameter.default, bool):
        legal, allowed = isinstance(value, bool), "true or false"
    elif parameter.choices:
        legal, allowed = value in parameter.choices, f"one of {', '.join(parameter.choices)}"
    else:
        low, high = parameter.legal or (-math.inf, math.inf)
        knots = value if isinstance(value, tuple) else (value,)
        legal = bool(knots) and all(_is_number(k) and low <= float(k) <= high for k in knots)
        allowed = f"a finite number{f' in [{low:g}, {high:g}]' if parameter.legal else ''}, or a list of them (knots)"
    if not legal:
        raise InvalidInputError(where, value, allowed)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def resolve(
    method: Method, merge: Merge, sources: tuple[str, ...], part: Part, num_layers: int
) -> tuple[dict[str, Scalar], dict[str, dict[str, Scalar]]]:
    """The parameters that hold for a part of the model: shared ones, and per source."""

    def of(source: str | None) -> dict[str, Scalar]:
        values = stated(merge, part.role, part.layer, source)
        return {
            p.name: at_depth(values.get(p.name, p.default), part.role, part.layer, num_layers)
            for p in method.parameters
            if p.per_source == (source is not None)
        }

    return of(None), {source: of(source) for source in sources}
