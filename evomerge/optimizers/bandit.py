"""Which of several optimizers is asked next: mostly the one whose recent answers were good, and nobody never."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

WINDOW = 20
"""So many of the latest answers count, times the number of arms."""

FLOOR = 0.1
"""Share of the asks that every arm keeps, or half of an even share where that is less."""

GOOD = 0.25
"""Answers among the best quarter of the latest ones are good."""


class Bandit:
    """Routes asks by credit, without a random number.

    An arm's credit is the share of its recent answers that were good, with one more answer counted that is as good as
    all are on average, so that an arm without answers yet has a credit, too. Asks are split in proportion to credit,
    above a floor, by smooth weighted round robin: each ask adds every arm's share to what the arm is owed, and goes to
    whom most is owed.

    Args:
        arms: how many there are.
    """

    def __init__(self, arms: int) -> None:
        self._owed = [0.0] * arms
        self._recent: deque[tuple[int, float | None]] = deque(maxlen=WINDOW * arms)

    @property
    def shares(self) -> list[float]:
        """Of the next asks, one an arm; they sum to 1."""
        arms = len(self._owed)
        floor = min(FLOOR, 0.5 / arms)
        credits = self._credits()
        return [floor + (1 - arms * floor) * credit / sum(credits) for credit in credits]

    def _credits(self) -> list[float]:
        worths = sorted((worth for _, worth in self._recent if worth is not None), reverse=True)
        places = math.ceil(GOOD * len(self._recent))
        bar = worths[min(places, len(worths)) - 1] if worths else math.inf
        good, answers = [GOOD] * len(self._owed), [1] * len(self._owed)
        for arm, worth in self._recent:
            answers[arm] += 1
            good[arm] += worth is not None and worth >= bar
        return [g / n for g, n in zip(good, answers, strict=True)]

    def pick(self) -> int:
        """The arm that is asked next."""
        self._owed = [owed + share for owed, share in zip(self._owed, self.shares, strict=True)]
        arm = max(range(len(self._owed)), key=lambda i: (self._owed[i], -i))
        self._owed[arm] -= 1.0
        return arm

    def learn(self, arm: int, worth: float | None) -> None:
        """Count an answer.

        Args:
            worth: larger is better; None: a failure, or nothing that anybody wants.
        """
        self._recent.append((arm, worth))

    def dump(self) -> dict[str, Any]:
        """JSON-ready; `load` reads it."""
        return {"owed": self._owed, "recent": list(self._recent)}

    def load(self, data: Mapping[str, Any]) -> None:
        """Go on from what `dump` wrote."""
        self._owed = list(data["owed"])
        self._recent.extend((arm, worth) for arm, worth in data["recent"])
