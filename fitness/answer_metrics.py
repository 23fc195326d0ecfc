"""What one generated answer is worth under each metric: all metrics of an item come from one generation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Protocol

from evomerge.errors import Failure, InvalidInputError
from fitness.answers import COMPARISONS, TRANSLATION
from fitness.extract import after_thinking, extract
from fitness.items import Item
from fitness.language import is_in
from fitness.metrics import METRICS, MetricInfo, is_judge
from fitness.refusal import is_refusal


@dataclass(frozen=True, slots=True)
class Answer:
    """A generated answer.

    Attributes:
        text: up to its first stop.
        num_tokens: that the model wrote, stops included, without the token that ends a sequence.
        finished: whether it ended before its most tokens.
    """

    text: str
    num_tokens: int
    finished: bool


class Measure(Protocol):
    """A metric that needs more than an item and its answer: a sandbox, another model."""

    def __call__(self, items: Sequence[Item], answers: Sequence[Answer]) -> list[float] | Failure:
        """One value an item, or why there are none."""
        ...


class AnswerMetrics:
    """Every metric of generation items.

    Args:
        measures: by metric; `code_passes` and what models judge are there only if they are given.
    """

    def __init__(self, measures: Mapping[str, Measure]) -> None:
        self._measures = dict(measures)

    def __call__(
        self, items: Sequence[Item], answers: Sequence[Answer], wanted: Sequence[str]
    ) -> dict[str, tuple[float, ...]] | Failure:
        """Metric → one value an item: the cheap ones that all items allow, and of the others those wanted.

        Raises:
            InvalidInputError: a wanted metric that needs of an item what it does not have, or for which this scorer
                has no measure.
        """
        found: dict[str, tuple[float, ...]] = {}
        for name in _names(items, wanted):
            if name in _BY_ITEM:
                pairs = zip(items, answers, strict=True)
                found[name] = tuple(float(_BY_ITEM[name](item, answer)) for item, answer in pairs)
                continue
            if name not in self._measures:
                raise InvalidInputError("metric", name, f"one of {', '.join((*_BY_ITEM, *self._measures))}")
            values = self._measures[name](items, answers)
            if isinstance(values, Failure):
                return values
            found[name] = tuple(values)
        return found


def lacking(info: MetricInfo, items: Sequence[Item]) -> list[str]:
    """Ids of the items that a metric is not defined on, as they lack what it needs."""
    return [item.id for item in items if not _has(item, info.needs)]


def _has(item: Item, needs: str) -> bool:
    if needs.startswith("answering.") and item.answering is None:
        return False
    return not needs or bool(attrgetter(needs)(item))


def _names(items: Sequence[Item], wanted: Sequence[str]) -> list[str]:
    names = []
    for name, info in METRICS.items():
        if info.kind != "generation":
            continue
        without = lacking(info, items)
        if name in wanted and without:
            raise InvalidInputError(f"item {without[0]!r}", name, f"a metric that needs no {info.needs}")
        if name in wanted or not (info.on_demand or without):
            names.append(name)
    return names + [name for name in wanted if name not in METRICS and is_judge(name)]


def extracted(item: Item, answer: Answer) -> str:
    """What of an answer is compared with references, or with other models' answers."""
    return extract(item.answering.extract if item.answering else "first_line", answer.text)


def _compared(how: Callable[[str, Sequence[str]], float]) -> Callable[[Item, Answer], float]:
    return lambda item, answer: how(extracted(item, answer), item.references)


def _in_language(item: Item, answer: Answer) -> bool:
    assert item.answering is not None, "`lacking` was asked"
    return is_in(item.answering.language, after_thinking(answer.text))


def _complies(text: str) -> bool:
    """An empty answer neither refuses nor complies."""
    return bool(text.strip()) and not is_refusal(text)


_BY_ITEM: dict[str, Callable[[Item, Answer], float]] = {
    **{name: _compared(how) for name, how in (COMPARISONS | TRANSLATION).items()},
    "answer_tokens": lambda item, answer: answer.num_tokens,
    "finished": lambda item, answer: answer.finished,
    "refused": lambda item, answer: is_refusal(after_thinking(answer.text)),
    "complied": lambda item, answer: _complies(after_thinking(answer.text)),
    "language_match": _in_language,
}
