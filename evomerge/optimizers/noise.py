"""How many items a generation should answer, so that its ranks mean something."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from evomerge.candidate import Evaluation

GROWTH = 1.5
"""Items grow and shrink by this factor (Hansen et al. 2009: between 1.5 and 5)."""
NOISY = 0.18
"""Above this share of doubtful pairs there are too few items. Pure noise gives 1/4; 0.18 is reached where the
candidates' true values vary 1.5 times as much (variance) as their errors."""
CLEAR = 0.10
"""Below this share fewer items would do: true values vary 8 times as much as errors."""
MEMORY = 0.7
"""Weight of the generations before in the smoothed share."""


class RankNoise:
    """Raises the number of items while errors blur the ranks, and lowers it again when they don't.

    The signal is the expected share of pairs that a second evaluation would order the other way, which the standard
    errors give without one: two values d apart with errors s₁ and s₂ change places with probability Φ(−d/√(s₁² + s₂²)).
    UH-CMA-ES measures rank changes by evaluating some candidates twice instead; here that would tell nothing new about
    the same items, and errors come for free. A candidate without errors says nothing.

    Attributes:
        fidelity: times the usual number of items, from 1 to `most`.
        share: of doubtful pairs, smoothed over generations.

    Source: after Hansen, Niederberger, Guzzella, Koumoutsakos 2009, A method for handling uncertainty in evolutionary
    optimization with an application to feedback control of combustion, section III.
    """

    def __init__(self, most: float) -> None:
        self._most = most
        self.fidelity = 1.0
        self.share: float | None = None

    def learn(self, generation: Sequence[Evaluation]) -> None:
        """Take in a generation that was ranked."""
        known = [e for e in generation if e.values is not None and e.errors is not None and not e.violation]
        if len(known) < 2:
            return
        values = np.array([e.values for e in known], dtype=np.float64)
        errors = np.array([e.errors for e in known], dtype=np.float64)
        found = float(np.mean([doubtful(v, s) for v, s in zip(values.T, errors.T, strict=True)]))
        self.share = found if self.share is None else MEMORY * self.share + (1 - MEMORY) * found
        if self.share > NOISY:
            self.fidelity = min(self._most, self.fidelity * GROWTH)
        elif self.share < CLEAR:
            self.fidelity = max(1.0, self.fidelity / GROWTH)

    def restart(self) -> None:
        """Forget: candidates lie far apart again."""
        self.fidelity, self.share = 1.0, None


def doubtful(values: NDArray[np.float64], errors: NDArray[np.float64]) -> float:
    """The expected share of pairs that a second look would order the other way, in [0, ½].

    Pairs that tie without any error are no noise; they count 0.

    Args:
        values, errors: shape [candidates], at least 2; standard errors.

    >>> doubtful(np.array([0.0, 0.0, 9.0]), np.array([1.0, 1.0, 1.0])) > 0.166
    True
    """
    i, j = np.triu_indices(len(values), k=1)
    gap, error = np.abs(values[i] - values[j]), np.hypot(errors[i], errors[j])
    with np.errstate(divide="ignore", invalid="ignore"):
        swapped = np.where(error > 0, ndtr(-gap / error), 0.0)
    return float(swapped.mean())
