"""What a task of the harness was when its items were written: a YAML file beside the eval set's."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from evomerge.errors import InvalidInputError

SUFFIX = ".task.yaml"

REPORTED: dict[str, Callable[[float], float]] = {
    "mean": lambda mean: mean,
    "exp(mean)": math.exp,
    "exp(-mean)": lambda mean: math.exp(-mean),
    "2^mean": lambda mean: 2**mean,
    "bits(-mean)": lambda mean: -mean / math.log(2),
}
"""How the harness's number follows from the weighted mean of ours, divided by `Mapped.size`."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """One metric of a task.

    Attributes:
        name: the harness's key: `acc`, or `exact_match,strict-match` with a filter's name.
        metric: ours of the same value on every item, `harness:NAME` when the task's own code says it, or empty.
        reported: the harness's number from the weighted mean of ours, one of `REPORTED`.
        size: what the mean is divided by before: mean length of a text, in what the task counts.
        higher_is_better: as the task says.
        bounded: whether every value lies in [0, 1].
        why_not: the reason, where `metric` is empty.
    """

    name: str
    metric: str
    reported: str = "mean"
    higher_is_better: bool = True
    bounded: bool = True
    why_not: str = ""
    size: float = 1.0

    def reported_from(self, mean: float) -> float:
        """The harness's number from the weighted mean of ours over the same items."""
        return REPORTED[self.reported](mean / self.size)


@dataclass(frozen=True, slots=True)
class Card:
    """A task as it was asked.

    Attributes:
        task: its name.
        version: the task's own.
        output_type: `multiple_choice`, `loglikelihood`, `loglikelihood_rolling` or `generate_until`.
        harness: version of lm-eval.
        config_sha256: of the task's whole configuration, functions by their source.
        source: the YAML file, relative to lm-eval's tasks where it is one of those.
        num_fewshot, fewshot_seed: examples in the context, and how they were drawn.
        chat_template_sha256: of the chat template that was applied, or empty.
        system_instruction: before everything, or empty.
        metrics: the task's.
        not_kept: what the harness would do and these items do not, for a person.
    """

    task: str
    version: str
    output_type: str
    harness: str
    config_sha256: str
    source: str
    num_fewshot: int
    fewshot_seed: int
    metrics: tuple[Mapped, ...]
    chat_template_sha256: str = ""
    system_instruction: str = ""
    not_kept: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of everything that the answers depend on beside the items."""
        return sha256_of({name: value for name, value in asdict(self).items() if name != "source"})

    def mapped(self, metric: str) -> Mapped | None:
        """The entry of a metric by our name (`accuracy`, `harness:exact_match`)."""
        return next((m for m in self.metrics if m.metric == metric), None)


def card_place(eval_set: Path) -> Path:
    """Where the card of an eval set's file lies."""
    return eval_set.with_name(eval_set.name.removesuffix(".jsonl") + SUFFIX)


def write_cards(cards: tuple[Card, ...], eval_set: Path) -> Path:
    """Write the cards of an eval set's tasks; all or nothing."""
    place = card_place(eval_set)
    part = place.with_name(f".{place.name}.part")
    found = {"tasks": [_plain(asdict(card)) for card in cards]}
    part.write_text(yaml.safe_dump(found, sort_keys=False, allow_unicode=True), encoding="utf-8")
    part.replace(place)
    return place


def cards_of(eval_set: Path) -> tuple[Card, ...]:
    """The cards beside an eval set's file; none where it was not made from tasks.

    Raises:
        InvalidInputError: the file is something else.
    """
    place = card_place(eval_set)
    if not place.is_file():
        return ()
    try:
        data = yaml.safe_load(place.read_text(encoding="utf-8"))
        return tuple(_card(entry) for entry in data["tasks"])
    except (yaml.YAMLError, TypeError, KeyError) as error:
        raise InvalidInputError(str(place), str(error), "what `evomerge items from-harness` wrote") from error


def sha256_of(value: Any) -> str:
    """Of a JSON value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _card(data: Mapping[str, Any]) -> Card:
    known = {field.name for field in fields(Card)}
    parts = {name: value for name, value in data.items() if name in known}
    parts["metrics"] = tuple(Mapped(**m) for m in data["metrics"])
    parts["not_kept"] = tuple(data.get("not_kept", ()))
    return Card(**parts)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
