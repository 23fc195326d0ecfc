"""How one gene in [0, 1] becomes a parameter's value, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evomerge.recipe.parameters import Scalar

DIGITS = 6
"""Significant digits of a value on a log scale, decimals per width of a linear range: finer than any search sees."""


@dataclass(frozen=True, slots=True)
class Scale:
    """A range of values, spaced evenly or by their logarithm.

    Values lie on a decimal grid, so that `value(gene(v)) == v` for every v that `value` returns: encoding and decoding
    are exact, and recipes show 0.333333 instead of 0.33333333333333326.

    Attributes:
        low, high: smallest and largest value, low < high; low > 0 if `log`.
        log: equal steps of the gene multiply the value.
        whole: values are whole numbers; low and high are, too.

    >>> Scale(-0.5, 1.5).value(0.25), Scale(0.01, 1.0, log=True).value(0.5)
    (0.0, 0.1)
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False
    _digits: int = field(init=False, repr=False, compare=False)  # decimals of a value on a linear scale

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError("[low, high] with low < high")
        if self.log and self.low <= 0:
            raise ValueError("[low, high] with low > 0, for a logarithmic scale")
        object.__setattr__(self, "_digits", DIGITS - math.floor(math.log10(self.high - self.low)))

    def value(self, gene: float) -> float:
        """The value of a gene; genes outside [0, 1] count as the nearer end."""
        gene = min(max(float(gene), 0.0), 1.0)  # an optimizer's own float type must not reach the recipe
        even = self.low + (self.high - self.low) * gene
        value = self.low * (self.high / self.low) ** gene if self.log else even
        return min(max(self._round(value), self.low), self.high) + 0.0  # + 0.0 turns -0.0 into 0.0

    def gene(self, value: Scalar) -> float:
        """The gene of a number; numbers outside the range count as the nearer end."""
        value = float(value)
        if value <= self.low:
            return 0.0
        if self.log:
            gene = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            gene = (value - self.low) / (self.high - self.low)
        return min(gene, 1.0)

    def holds(self, value: float) -> bool:
        """Whether a value is in the range, up to the grid."""
        return self.low - self.step(self.low) <= value <= self.high + self.step(self.high)

    def step(self, value: float) -> float:
        """By how much a value may be off and still be the one on the grid."""
        return 0.5 if self.whole else 10.0 ** -self._decimals(value)

    def describe(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"low": self.low, "high": self.high, "scale": "log" if self.log else "linear", "whole": self.whole}

    def _round(self, value: float) -> float:
        return float(round(value)) if self.whole else round(value, self._decimals(value))

    def _decimals(self, value: float) -> int:
        return DIGITS - 1 - math.floor(math.log10(value)) if self.log else self._digits


@dataclass(frozen=True, slots=True)
class Choices:
    """A few values, each with an equal share of the gene's range; value i of n stands at (i + ½)/n.

    Attributes:
        values: two or more, each once.
        ordered: whether neighbours are alike; values are then numbers in rising order.

    >>> Choices(("mass", "count")).value(0.75), Choices((1.0, 2.0, 4.0), ordered=True).gene(3.9)
    ('count', 0.8333333333333334)
    """

    values: tuple[Scalar, ...]
    ordered: bool = False

    def value(self, gene: float) -> Scalar:
        """The value of a gene; genes outside [0, 1] count as the nearer end."""
        number = len(self.values)
        return self.values[min(max(math.floor(gene * number), 0), number - 1)]

    def gene(self, value: Scalar) -> float:
        """The middle of a value's share; of another value, the nearest one's if ordered, else the first one's."""
        found = [i for i, own in enumerate(self.values) if _same(own, value)]
        if self.ordered and not found and isinstance(value, int | float):
            found = [min(range(len(self.values)), key=lambda i: abs(float(self.values[i]) - value))]
        return ((found[0] if found else 0) + 0.5) / len(self.values)

    def holds(self, value: object) -> bool:
        """Whether a value is one of these."""
        return any(_same(own, value) for own in self.values)

    def describe(self) -> Mapping[str, Any]:
        """JSON-ready."""
        return {"choices": list(self.values), "ordered": self.ordered}


def _same(a: object, b: object) -> bool:
    """Whether values are equal, where true is not 1."""
    return isinstance(a, bool) == isinstance(b, bool) and a == b
