"""One metric's mean over one eval set, from the answers to a subset of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evomerge.candidate import Estimate
from fitness.estimate import estimate_difference, estimate_mean
from fitness.evaluator import Metric, Responses
from fitness.metrics import Bounds
from fitness.subset import Subset
from fitness.survey import Design


@dataclass(frozen=True, slots=True)
class Control:
    """A model that answered all search items of some eval sets: others are compared with it item by item.

    Attributes:
        answers: eval set → metric → item → response.
        means: eval set → metric → the mean over all search items.
    """

    answers: Mapping[str, Mapping[Metric, Mapping[str, float]]]
    means: Mapping[str, Mapping[Metric, float]]
    _besides: dict[tuple[str, Metric, Subset], tuple[tuple[float, ...], float]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def beside(self, eval_set: str, metric: Metric, subset: Subset) -> tuple[tuple[float, ...], float] | None:
        """Its answers to a subset's items and its mean over everything; None if it did not answer them."""
        if eval_set not in self.answers:
            return None
        key = (eval_set, metric, subset)
        if key not in self._besides:  # once for all who answer these
            by_id = self.answers[eval_set][metric]
            self._besides[key] = tuple(by_id[i] for i in subset.ids), self.means[eval_set][metric]
        return self._besides[key]


@dataclass(frozen=True, slots=True)
class Measure:
    """What to make of the answers to a subset. Plain values: workers get it, too.

    Attributes:
        design: what the subset's items stand for.
        control: the control's answers to the subset and its mean over everything; None without a control.
        finite: see `estimate_mean`.
    """

    eval_set: str
    metric: Metric
    bounds: Bounds
    subset: Subset
    design: Design
    control: tuple[tuple[float, ...], float] | None = None
    finite: bool = True

    def estimate(self, responses: Mapping[str, Responses]) -> Estimate:
        """By difference where there is a control.

        Raises:
            ValueError: an answer to one of the subset's items is missing (more than those may be there).
        """
        values = answers_to(responses, self.eval_set, self.metric, self.subset.ids)
        if self.control is None:
            return estimate_mean(values, self.subset, self.design, bounds=self.bounds, finite=self.finite)
        beside, mean = self.control
        return estimate_difference(values, beside, mean, self.subset, self.design, bounds=self.bounds)


def answers_to(responses: Mapping[str, Responses], eval_set: str, metric: Metric, ids: Sequence[str]) -> list[float]:
    """Answers to items in the order asked.

    Raises:
        ValueError: one is missing.
    """
    by_id = answers_by_id(responses, eval_set, metric)
    missing = [i for i in ids if i not in by_id]
    if missing:
        raise ValueError(f"no response to {len(missing)} items of {eval_set!r}, the first is {missing[0]!r}")
    return [by_id[i] for i in ids]


def answers_by_id(responses: Mapping[str, Responses], eval_set: str, metric: Metric) -> dict[str, float]:
    """All answers under one metric.

    Raises:
        ValueError: there are none.
    """
    if eval_set not in responses or metric not in responses[eval_set].values:
        raise ValueError(f"no {metric!r} responses to eval set {eval_set!r}; there are {sorted(responses)}")
    found = responses[eval_set]
    return dict(zip(found.item_ids, found.values[metric], strict=True))
