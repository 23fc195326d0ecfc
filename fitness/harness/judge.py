"""`harness:` metrics: the task's own filters and `process_results` on our raw answers.

For metrics that ours cannot say. The task is built again from its YAML file with the items' documents for data, so that
neither a hub nor the data set is needed; lm-eval is. What a task's YAML names is run as Python code.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.errors import InvalidInputError
from fitness.harness.card import sha256_of
from fitness.harness.tasks import harness_version
from fitness.items import Item
from fitness.metrics import HARNESS

JUDGING = (
    "output_type", "metric_list", "filter_list", "process_results", "doc_to_text", "doc_to_target", "doc_to_choice",
    "target_delimiter", "generation_kwargs", "repeats",
)  # fmt: skip
"""What of a configuration results depend on, once there are answers."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a task's definition lies.

    Attributes:
        file: its YAML file, relative to lm-eval's tasks where it is one of those.
        sha256: of what of it results depend on.
    """

    file: str
    sha256: str


def source_of(task: Any) -> Source:
    """Where a task comes from."""
    place = (task.get_config("metadata") or {}).get("config_source", "")
    file = Path(str(place))
    bundled = _bundled()
    if file.is_absolute() and file.is_relative_to(bundled):
        file = file.relative_to(bundled)
    return Source(str(file), judging_sha256(task))


def judging_sha256(task: Any) -> str:
    """SHA-256 of what of a task results depend on."""
    config = task.dump_config()
    return sha256_of({name: config.get(name) for name in JUDGING})


def why_not_judged(task: Any) -> str:
    """Why a task's code cannot judge answers later; empty where it can."""
    if not hasattr(task, "get_config") or (
        task.get_config("metric_list") is None and task.get_config("output_type") is None
    ):
        return "the task is a class, which is not built again without its data"
    if getattr(task, "UNSAFE_CODE", False):
        return "the task runs code that models write, which is only done in our sandbox"
    if task.get_config("repeats") not in (None, 1):
        return "the task asks for several answers to one question"
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return "the task's code makes pairs of texts and lengths"
    source = source_of(task)
    try:
        again = _built(source.file, task.eval_docs[0])
    except Exception as error:  # whatever a task's code raises without its data
        return f"the task cannot be built from {source.file!r} alone ({type(error).__name__})"
    if judging_sha256(again) != source.sha256:
        return "a group changes the task, and its file alone does not say how"
    return ""


class Judge:
    """Says what tasks' own code says of raw answers; keeps the tasks that it built."""

    def __init__(self) -> None:
        self._tasks: dict[tuple[str, str], Any] = {}

    def values(self, items: Sequence[Item], answers: Sequence[Sequence[Any]]) -> dict[str, tuple[float, ...]]:
        """Judge the answers to items, each with its document.

        Args:
            answers: for each item what the harness's model would have returned: one text, or for each choice its
                log-likelihood.

        Returns:
            `harness:NAME` → one number an item, in the order of `items`; metrics that are no number for every item
            are left out.

        Raises:
            InvalidInputError: lm-eval is missing, or a task's file is gone or another than when the items were written.
        """
        found: dict[str, list[float]] = {}
        for places in _by_task(items).values():
            own = self._judged([items[i] for i in places], [answers[i] for i in places])
            for name, values in own.items():
                row = found.setdefault(name, [math.nan] * len(items))
                for place, value in zip(places, values, strict=True):
                    row[place] = value
        return {name: tuple(values) for name, values in found.items() if not any(map(math.isnan, values))}

    def _judged(self, items: Sequence[Item], answers: Sequence[Sequence[Any]]) -> dict[str, list[float]]:
        docs = [json.loads(item.doc) for item in items]
        task = self._task(items[0], docs[0])
        by_item = [
            _instances(task, n, doc["row"], found) for n, (doc, found) in enumerate(zip(docs, answers, strict=True))
        ]
        for ensemble in task._filters:
            ensemble.apply([request for own in by_item for request in own])
        names = [ensemble.name for ensemble in task._filters]
        values: dict[str, list[float]] = {}
        for name in names:
            for place, (doc, own) in enumerate(zip(docs, by_item, strict=True)):
                results = task.process_results(doc["row"], [request.filtered_resps[name] for request in own])
                for metric, value in results.items():
                    key = f"{HARNESS}{metric},{name}" if len(names) > 1 else f"{HARNESS}{metric}"
                    values.setdefault(key, [math.nan] * len(items))[place] = _number(value)
        return values

    def _task(self, item: Item, doc: Mapping[str, Any]) -> Any:
        key = (doc["file"], doc["sha256"])
        if key not in self._tasks:
            harness_version()
            try:
                task = _built(doc["file"], doc["row"])
            except (OSError, ValueError, KeyError) as error:
                allowed = f"a file that lm-eval reads: {error}"
                raise InvalidInputError(f"item {item.id!r} task", doc["file"], allowed) from error
            if judging_sha256(task) != doc["sha256"]:
                allowed = "the file that the items were written from; write them again"
                raise InvalidInputError(f"item {item.id!r} task", doc["file"], allowed)
            self._tasks[key] = task
        return self._tasks[key]


def _by_task(items: Sequence[Item]) -> dict[tuple[str, str], list[int]]:
    places: dict[tuple[str, str], list[int]] = {}
    for place, item in enumerate(items):
        doc = json.loads(item.doc)
        places.setdefault((str(doc["file"]), str(doc["sha256"])), []).append(place)
    return places


def _instances(task: Any, number: int, row: Mapping[str, Any], answers: Sequence[Any]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [
        Instance(_requested(answer), dict(row), (), idx, (task.task_name, number, 1), resps=[_raw(answer)])
        for idx, answer in enumerate(answers)
    ]


def _built(file: str, row: Mapping[str, Any]) -> Any:
    """A task without its data, examples and preparation: one document stands for all."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(_bundled() / file, resolve_func=True)
    for name in ("tag", "group", "task_list", "process_docs", "training_split", "validation_split", "fewshot_split",
                 "fewshot_config", "dataset_kwargs", "dataset_name", "num_fewshot"):  # fmt: skip
        config.pop(name, None)
    rows = Dataset.from_list([dict(row)])
    data = {"test_split": "test", "custom_dataset": lambda **_: {"test": rows}, "dataset_path": "evomerge"}
    return ConfigurableTask(config=config | data)


def _bundled() -> Path:
    import lm_eval.tasks

    return Path(lm_eval.tasks.__file__).resolve().parent


def _requested(answer: Any) -> str:
    return "generate_until" if isinstance(answer, str) else "loglikelihood"


def _raw(answer: Any) -> Any:
    return answer if isinstance(answer, str) else (float(answer), _Unknown())


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


class _Unknown:
    """Whether a choice is what greedy decoding would say; nobody looked."""

    def __bool__(self) -> bool:
        raise InvalidInputError("metric", "greedy", "a metric that does not ask whether a choice is the greedy answer")

    __int__ = __bool__
