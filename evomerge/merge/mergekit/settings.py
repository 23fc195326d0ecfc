"""A parameter's value at a tensor, as mergekit reads it: by filters on names, by gradients over a slice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from evomerge.merge.mergekit.methods import Kind

Value = float | bool
_TRUE, _FALSE = ("true", "yes", "on", "y", "t", "1"), ("false", "no", "off", "n", "f", "0")


def is_scalar(value: object) -> bool:
    """Whether a setting is one value."""
    return isinstance(value, bool | int | float | str)


def varies(setting: Any) -> bool:
    """Whether a setting's value depends on the tensor."""
    return isinstance(setting, list | dict)


def cast(value: Any, kind: Kind) -> Value:
    """A YAML scalar as a parameter's value; numbers may be spelt as text (`1e-5` is text in YAML 1.1).

    Raises:
        ValueError: it is none; the message says what is expected.
    """
    if kind == "flag":
        text = str(value).lower()
        if text not in (*_TRUE, *_FALSE):
            raise ValueError("true or false")
        return text in _TRUE
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("a number, a list of numbers, or filters with values") from None
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError("a finite number")
    if kind == "whole" and not number.is_integer():
        raise ValueError("a whole number")
    return number


def evaluate(setting: Any, tensor: str, t: float, kind: Kind) -> Value | None:
    """The value at a tensor.

    Args:
        setting: one value; a list of values, spread evenly over the slice; a mapping with `filter` and `value`; or a
            list of such mappings, of which the first holds whose filter is part of the tensor's name.
        t: how far the tensor's layer is into its slice, from 0 to 1.

    Returns:
        None where no filter holds: then the next level of parameters decides.

    Raises:
        ValueError: a value is not of the kind.
    """
    if isinstance(setting, dict):
        setting = [setting]
    if not isinstance(setting, list):
        return cast(setting, kind)
    if all(map(is_scalar, setting)):
        return gradient(setting, t, kind) if setting else None
    for condition in setting:
        needle = condition.get("filter")
        if needle is None or needle == "*" or needle in tensor:
            return evaluate(condition["value"], tensor, t, kind)
    return None


def gradient(values: Sequence[Any], t: float, kind: Kind) -> Value:
    """A list read at t: numbers are interpolated, flags are taken from the left."""
    read = [cast(value, kind) for value in values]
    position = t * (len(read) - 1)
    left = int(position)
    if kind == "flag":
        return read[left]
    share = position - left
    return (1 - share) * read[left] + share * read[min(left + 1, len(read) - 1)]


def gradients(settings: Iterable[Any]) -> list[tuple[float, ...]]:
    """Every list of numbers in some settings."""
    found: list[tuple[float, ...]] = []
    for setting in settings:
        if isinstance(setting, dict):
            found += gradients([setting.get("value")])
        elif isinstance(setting, list) and setting and all(map(is_scalar, setting)):
            try:
                found.append(tuple(float(cast(value, "number")) for value in setting))
            except ValueError:
                continue
        elif isinstance(setting, list):
            found += gradients(setting)
    return found
