"""The contract of scoring: a live model and items in, one response an item out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from evomerge.errors import Failure
from fitness.items import Item

Metric = str
"""`accuracy`, `choice_probability`, `log_likelihood` (multiple choice) or `exact_match` (generation); METRICS in
`fitness.metrics` says what each means."""


@dataclass(frozen=True, slots=True)
class Responses:
    """One candidate's responses to some items.

    Attributes:
        item_ids: in the order scored.
        values: metric name → one float per item.
        seconds: wall time of the scoring.
        tokens: tokens that went through the model.
    """

    item_ids: tuple[str, ...]
    values: dict[Metric, tuple[float, ...]]
    seconds: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Slopes:
    """How an objective depends on what items are worth: it is Σ weight · metric(item), up to a constant.

    Attributes:
        weights: eval set → item → weight, positive where more of the metric is better.
    """

    metric: Metric
    weights: Mapping[str, Mapping[str, float]]


class Scorer(Protocol):
    """Scores items with the model that it was made with; the model's weights may change between calls."""

    def score(self, items: Sequence[Item]) -> Responses | Failure:
        """Responses to the items, or why there are none (`non_finite`, `out_of_memory`). The same numbers whatever
        the order of the items."""
        ...
