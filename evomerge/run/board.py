"""Values of all candidates of a run in arrays, so that thousands are looked through without a loop."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evomerge.run.ranking import Floats, Numbers


class Board:
    """Values and violations by candidate number.

    Args:
        num_objectives: values of a candidate.
    """

    def __init__(self, num_objectives: int) -> None:
        self._values = np.empty((64, num_objectives))
        self._violations = np.full(64, np.nan)  # NaN: nothing is known of it

    def write(self, number: int, values: Sequence[float], violation: float) -> None:
        """What is known of a candidate by now."""
        if number >= len(self._violations):
            self._grow(number + 1)
        self._values[number], self._violations[number] = values, violation

    def values(self, numbers: Numbers) -> Floats:
        """[numbers, objectives]"""
        return self._values[numbers]

    def violations(self, numbers: Numbers) -> Floats:
        """[numbers]"""
        return self._violations[numbers]

    @property
    def known(self) -> Numbers:
        """Of whom anything is known, in rising order."""
        return np.flatnonzero(~np.isnan(self._violations))

    @property
    def feasible(self) -> Numbers:
        """Those of them that miss no constraint."""
        return np.flatnonzero(self._violations <= 0)

    def _grow(self, least: int) -> None:
        """At least twice as many places, so that a run copies each row a few times only."""
        rows, size = len(self._violations), max(least, 2 * len(self._violations))
        values, violations = np.empty((size, self._values.shape[1])), np.full(size, np.nan)
        values[:rows], violations[:rows] = self._values, self._violations
        self._values, self._violations = values, violations
