"""The contract of scoring: a live model and items in, one response an item out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import Failure
from fitness.items import Item

SCORER_VERSION = 1
"""Part of every evaluator's fingerprint (`fitness.fingerprint`). Raise it with any change to a scorer, a metric, an
extractor or a default (most tokens of an answer, the judge's question) after which a model's answer to some item may be
another number by more than rounding: what was answered before is then asked again, never mixed with the new."""

Metric = str
"""A name in METRICS of `fitness.metrics`, which says what each means."""

Reference = NDArray[np.float64]
"""A source's answer to an item that it owns: log-probabilities [choices] of a multiple-choice item, or [vocabulary] of
the first token of a generated answer."""


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


def joined(first: Responses, second: Responses) -> Responses:
    """Answers to some items and to further ones, under the metrics that both have."""
    values = {name: first.values[name] + second.values[name] for name in first.values if name in second.values}
    return Responses(
        first.item_ids + second.item_ids, values, first.seconds + second.seconds, first.tokens + second.tokens
    )


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

    def score(
        self,
        items: Sequence[Item],
        metrics: Sequence[Metric] | None = None,
        references: Mapping[str, Reference] | None = None,
    ) -> Responses | Failure:
        """Responses to the items, or why there are none (`non_finite`, `out_of_memory`). The same numbers whatever
        the order of the items.

        Args:
            metrics: which are wanted; None: all that these items allow and that cost nothing beside each other. Others
                may be answered beside them.
            references: item id → the answer of the source that owns it, for metrics that compare with it.
        """
        ...
