"""What a recipe says about one tensor: parameters narrowed by rules, knots read at the tensor's depth."""

from __future__ import annotations

from collections.abc import Sequence

from evomerge.recipe.schema import Merge, ParameterValue, Rule, role_matches

Scalar = bool | float | str

AFTER_LAYERS = ("norm.final", "head")
"""Roles outside the layers that come after the last one; the others outside come before the first."""


def is_after_layers(role: str) -> bool:
    """Whether a role outside the layers lies behind the last layer."""
    return role_matches(role, AFTER_LAYERS)


def stated(merge: Merge, role: str, layer: int | None, source: str | None = None) -> dict[str, ParameterValue]:
    """The parameters that a recipe states for a tensor (without the method's defaults), knots unread.

    `merge.parameters` hold for all, `merge.sources` win over them, then rules in their order, later over earlier.

    Args:
        role, layer: the tensor's part in the architecture; layer None outside the layers.
        source: whose parameters; None for those shared by all sources.
    """
    values = dict(merge.parameters)
    if source is not None:
        values.update(merge.sources.get(source, {}))
    for rule in merge.rules:
        if _holds(rule, role, layer, source):
            values.update(rule.parameters)
    return values


def _holds(rule: Rule, role: str, layer: int | None, source: str | None) -> bool:
    if rule.source is not None and rule.source != source:
        return False
    if rule.layers is not None and (layer is None or not rule.layers[0] <= layer <= rule.layers[1]):
        return False
    return role_matches(role, rule.roles)


def at_depth(value: ParameterValue, role: str, layer: int | None, num_layers: int) -> Scalar:
    """A parameter's value at a tensor: knots (see `ParameterValue`) interpolated, others as they are.

    >>> [at_depth((0.0, 1.0), "mlp.up", layer, 5) for layer in range(5)]
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    if not isinstance(value, tuple):
        return value
    if layer is None:
        return value[-1] if is_after_layers(role) else value[0]
    return interpolate(value, layer / (num_layers - 1) if num_layers > 1 else 0.0)


def interpolate(knots: Sequence[float], t: float) -> float:
    """Knots spread evenly over [0, 1], read at t: linear between two neighbours."""
    position = t * (len(knots) - 1)
    left = min(int(position), len(knots) - 1)
    right = min(left + 1, len(knots) - 1)
    share = position - left
    return knots[left] * (1.0 - share) + knots[right] * share
