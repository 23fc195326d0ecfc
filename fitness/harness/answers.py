"""Raw answers of a live model, judged by the tasks that the items came from."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from evomerge.errors import Failure, InvalidInputError
from fitness.evaluator import Metric, Responses
from fitness.harness.judge import Judge
from fitness.items import Item
from fitness.metrics import HARNESS, metric

Raw = Sequence[Sequence[str | float]]
"""For each item one text, or for each choice its log-likelihood."""


class JudgedAnswers:
    """Makes responses of raw answers.

    Args:
        answers: items of one kind → their raw answers and the tokens that went through the model.
    """

    def __init__(self, answers: Callable[[Sequence[Item]], tuple[Raw, int] | Failure]) -> None:
        self._answers = answers
        self._judge = Judge()

    def score(self, items: Sequence[Item], metrics: Sequence[Metric]) -> Responses | Failure:
        """The wanted `harness:` metrics.

        Raises:
            InvalidInputError: an item without a document, a metric that its task has not, or a value out of the bounds
                that its name promises; and see `Judge`.
        """
        start = time.perf_counter()
        for item in items:
            if not item.doc:
                raise InvalidInputError(
                    f"item {item.id!r}", metrics[0], "a metric of ours: it holds no document of a task"
                )
        found = self._answers(items)
        if isinstance(found, Failure):
            return found
        answers, tokens = found
        values = self._judge.values(items, answers)
        for name in metrics:
            if name not in values:
                allowed = f"one that is a number for each of these items: {', '.join(values) or 'there is none'}"
                raise InvalidInputError("metric", name, allowed)
            _check_bounds(name, items, values[name])
        ids = tuple(item.id for item in items)
        return Responses(ids, {name: values[name] for name in metrics}, time.perf_counter() - start, tokens)


def is_judged(name: Metric) -> bool:
    """Whether a task's own code says it."""
    return name.startswith(HARNESS)


def _check_bounds(name: Metric, items: Sequence[Item], values: Sequence[float]) -> None:
    low, high = metric(name).bounds
    for item, value in zip(items, values, strict=True):
        if low is not None and high is not None and not low <= value <= high:
            raise InvalidInputError(f"{name} of item {item.id!r}", value, f"{low:g} to {high:g}, as its name promises")
