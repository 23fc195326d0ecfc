"""How one gene in [0, 1] becomes a parameter's value, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass

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

    >>> Scale(-0.5, 1.5).value(0.25), Scale(0.01, 1.0, log=True).value(0.5)
    (0.0, 0.1)
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError("[low, high] with low < high")
        if self.log and self.low <= 0:
            raise ValueError("[low, high] with low > 0, for a logarithmic scale")

    def value(self, gene: float) -> float:
        """The value of a gene; genes outside [0, 1] count as the nearer end."""
        gene = min(max(float(gene), 0.0), 1.0)  # an optimizer's own float type must not reach the recipe
        even = self.low + (self.high - self.low) * gene
        value = self.low * (self.high / self.low) ** gene if self.log else even
        return min(max(self._round(value), self.low), self.high) + 0.0  # + 0.0 turns -0.0 into 0.0

    def gene(self, value: float) -> float:
        """The gene of a value; values outside the range count as the nearer end."""
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
        """Distance of the grid's values around `value`."""
        return 10.0 ** -self._decimals(value)

    def _round(self, value: float) -> float:
        return round(value, self._decimals(value))

    def _decimals(self, value: float) -> int:
        if self.log:
            return DIGITS - 1 - math.floor(math.log10(value))
        return DIGITS - math.floor(math.log10(self.high - self.low))
