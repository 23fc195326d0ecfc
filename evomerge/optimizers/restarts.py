"""When an evolution strategy begins again: with how many candidates a generation, and with which step size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from evomerge.seeds import generator

Policy = Literal["ipop", "bipop", "none"]


@dataclass(frozen=True, slots=True)
class Regime:
    """One stretch between two restarts.

    Attributes:
        population: λ.
        sigma: initial step size.
        small: one of BIPOP's short ones.
    """

    population: int
    sigma: float
    small: bool = False


class Restarts:
    """The regimes of a run, one after another.

    - `ipop`: λ doubles each time (Auger and Hansen 2005, A restart CMA evolution strategy with increasing population
      size).
    - `bipop`: stretches with doubled λ take turns with short ones of small random λ and σ, so that both kinds get the
      same number of evaluations (Hansen 2009, Benchmarking a BI-population CMA-ES on the BBOB-2009 function testbed).
    - `none`: the same λ and σ again.

    Args:
        policy: how.
        population, sigma: of the first regime.
        seed: of the random sizes.
    """

    def __init__(self, policy: Policy, population: int, sigma: float, seed: int) -> None:
        self._policy, self._seed = policy, seed
        self._first = Regime(population, sigma)
        self.current = self._first
        self._count = self._doubled = 0
        self._spent = {False: 0, True: 0}  # evaluations, in short stretches or not

    def spend(self, evaluations: int) -> None:
        """Count evaluations of the present regime."""
        self._spent[self.current.small] += evaluations

    def next(self) -> Regime:
        """Begin the next regime."""
        self._count += 1
        if self._policy == "bipop" and self._doubled and self._spent[True] < self._spent[False]:
            self.current = self._short()
        elif self._policy != "none":
            self._doubled += 1
            self.current = Regime(self._first.population << self._doubled, self._first.sigma)
        return self.current

    def _short(self) -> Regime:
        """λ between the first and half the largest one, σ down to a hundredth (Hansen 2009, section 2)."""
        size, width = generator(self._seed, "bipop", self._count).random(2)
        large = self._first.population << self._doubled
        population = int(self._first.population * (large / (2 * self._first.population)) ** (size**2))
        return Regime(population, self._first.sigma * 10 ** (-2 * width), small=True)

    def dump(self) -> dict[str, Any]:
        """JSON-ready; `load` reads it."""
        current = [self.current.population, self.current.sigma, self.current.small]
        spent = [self._spent[False], self._spent[True]]
        return {"count": self._count, "doubled": self._doubled, "spent": spent, "current": current}

    def load(self, data: Mapping[str, Any]) -> None:
        """Go on from what `dump` wrote."""
        self._count, self._doubled = data["count"], data["doubled"]
        self._spent = dict(zip((False, True), data["spent"], strict=True))
        self.current = Regime(*data["current"])
