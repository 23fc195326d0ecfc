"""Raw answers of a live model, judged by the tasks that the items came from."""

from __future__ import annotations

from collections.abc import Sequence

from evomerge.errors import InvalidInputError
from fitness.evaluator import Metric
from fitness.harness.judge import Judge
from fitness.items import Item
from fitness.metrics import HARNESS, metric

Raw = Sequence[Sequence[str | float]]
"""For each item one text, or for each choice its log-likelihood."""


class JudgedAnswers:
    """What tasks say of answers that were given already; keeps the tasks that it built."""

    def __init__(self) -> None:
        self._judge = Judge()

    def values(self, items: Sequence[Item], metrics: Sequence[Metric], answers: Raw) -> dict[Metric, tuple[float, ...]]:
        """The wanted `harness:` metrics, one value an item.

        Raises:
            InvalidInputError: an item without a document, a metric that its task has not, or a value out of the bounds
                that its name promises; and see `Judge`.
        """
        check_documents(items, metrics)
        values = self._judge.values(items, answers)
        for name in metrics:
            if name not in values:
                allowed = f"one that is a number for each of these items: {', '.join(values) or 'there is none'}"
                raise InvalidInputError("metric", name, allowed)
            _check_bounds(name, items, values[name])
        return {name: values[name] for name in metrics}


def check_documents(items: Sequence[Item], metrics: Sequence[Metric]) -> None:
    """Whether every item holds the document that its task judges by; before a model is asked for answers.

    Raises:
        InvalidInputError: one does not.
    """
    for item in items:
        if not item.doc:
            raise InvalidInputError(f"item {item.id!r}", metrics[0], "a metric of ours: it holds no document of a task")


def is_judged(name: Metric) -> bool:
    """Whether a task's own code says it."""
    return name.startswith(HARNESS)


def _check_bounds(name: Metric, items: Sequence[Item], values: Sequence[float]) -> None:
    low, high = metric(name).bounds
    for item, value in zip(items, values, strict=True):
        if low is not None and high is not None and not low <= value <= high:
            raise InvalidInputError(f"{name} of item {item.id!r}", value, f"{low:g} to {high:g}, as its name promises")
