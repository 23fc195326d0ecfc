"""pycma made quick for thousands of genes: [0, 1] as its boundary, for all genes at once.

pycma's own boundary handler goes through the genes one by one in Python, several times a generation, and so does its
check of standard deviations. With 19,210 genes that was nine tenths of the time. Here is the same arithmetic on arrays,
so the numbers are the same to the last bit (tests compare). Source: pycma 4.5, `BoxConstraintsLinQuadTransformation`.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pycma warns that it can't plot without matplotlib
    import cma
    from cma.boundary_handler import BoundaryHandlerBase

Vector = NDArray[np.float64]

MARGIN = 0.05
"""So far inside of a bound the fold is the identity; from there it is a parabola that ends as far outside."""
PERIOD = 2 * (1 + MARGIN + MARGIN)
BEGIN = -2 * MARGIN - 0.5
END = 1 + 2 * MARGIN + 0.5


class UnitBox(BoundaryHandlerBase):  # type: ignore[misc]  # pycma has no types
    """The real line folded into [0, 1], smoothly and periodically."""

    def repair(self, x: Any, copy_if_changed: bool = True) -> Vector:
        """Genomes of points, shape [genes]: in [0, 1]. The argument stays as it is."""
        y = np.array(x, dtype=float)
        least, most = y.min(), y.max()  # of few genes, most are inside: what does not occur is not looked for
        if least < BEGIN or most > END:
            far = (y < BEGIN) | (y > END)
            y[far] -= PERIOD * ((y[far] - BEGIN) // PERIOD)
            least, most = y.min(), y.max()
        if most > 1 + MARGIN:
            beyond = y > 1 + MARGIN
            y[beyond] -= 2 * (y[beyond] - 1 - MARGIN)
        if least < -MARGIN:
            below = y < -MARGIN
            y[below] += 2 * (-MARGIN - y[below])
        if least < MARGIN:
            low = y < MARGIN
            y[low] = (y[low] + MARGIN) ** 2 / 4 / MARGIN
        if most > 1 - MARGIN:
            high = y > 1 - MARGIN
            y[high] = 1 - (y[high] - (1 + MARGIN)) ** 2 / 4 / MARGIN
        return y

    transform = repair

    def inverse(self, x: Any, copy_if_changed: bool = True) -> Vector:
        """The points within the margins that are folded to genomes in [0, 1], shape [genes].

        Raises:
            ValueError: a number outside of [0, 1].
        """
        y = np.array(x, dtype=float)
        if not self.is_in_bounds(y):
            raise ValueError(f"expected numbers in [0, 1], got {y.min():g} to {y.max():g}")
        low, high = y < MARGIN, y >= 1 - MARGIN
        y[low] = -MARGIN + 2 * (MARGIN * y[low]) ** 0.5
        y[high] = 1 + MARGIN - 2 * (MARGIN * (1 - y[high])) ** 0.5
        return y

    def is_in_bounds(self, x: Any) -> bool:
        """Whether all numbers are in [0, 1]."""
        y = np.asarray(x)
        return not bool(((y < 0) | (y > 1)).any())

    def _get_bounds(self, ib: int, dimension: int) -> Vector:
        return np.full(dimension, float(ib))


class Strategy(cma.CMAEvolutionStrategy):  # type: ignore[misc]  # pycma has no types
    """pycma's strategy, which goes through the standard deviations only where one is beyond its limits."""

    def _stds_into_limits(self, warn: bool = False) -> None:
        deviations = np.asarray(self.stds)
        # The least slack that pycma ever leaves is none, so nothing that it would change is passed over here.
        if (deviations < self.opts["minstd"]).any() or (deviations > self.opts["maxstd"]).any():
            super()._stds_into_limits(warn)
