"""Tasks of the harness → eval sets in files: JSONL, and a card beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evomerge.errors import InvalidInputError
from fitness.harness.card import Card, sha256_of, write_cards
from fitness.harness.judge import source_of, why_not_judged
from fitness.harness.metrics import WeighBy, has_own_code, mapped_metrics, weigh_by
from fitness.harness.questions import Prompting, build_requests, questions
from fitness.harness.tasks import Asked, harness_version, load_tasks, seeded
from fitness.items import Item, write_items
from fitness.metrics import HARNESS, common_kind
from fitness.split import NEAR, split_by_hash


@dataclass(frozen=True, slots=True)
class Exported:
    """An eval set made from a task."""

    card: Card
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Splitting:
    """Which items are kept for the report.

    Attributes:
        holdout: their share.
        seed: another seed, another split.
        near: questions at least this similar stay together, see `fitness.split`.
    """

    holdout: float = 0.2
    seed: int = 0
    near: float = NEAR


def from_harness(
    asked: Asked,
    prompting: Prompting | None = None,
    splitting: Splitting | None = None,
    by: WeighBy | None = None,
    manager: Any = None,
) -> tuple[Exported, ...]:
    """The eval sets of a task, or of each task of a group.

    Args:
        asked: which tasks, with which examples, from where.
        prompting: how questions are put.
        splitting: None: all items are for search.
        by: what texts count by; None is what the task's metrics ask for.
        manager: see `load_tasks`.

    Raises:
        InvalidInputError: lm-eval is missing, or a task cannot be built or expressed; says which and why.
    """
    how = prompting or Prompting()
    with seeded():
        found = load_tasks(asked, manager)
        made = [_exported(task, found.weights[name], how, asked, by) for name, task in found.tasks.items()]
    if splitting is None:
        return tuple(made)
    items = split_by_hash(
        [item for one in made for item in one.items], splitting.holdout, seed=splitting.seed, near=splitting.near
    )
    by_id = {item.id: item for item in items}
    return tuple(replace(one, items=tuple(by_id[item.id] for item in one.items)) for one in made)


def write(exported: Sequence[Exported], to: Path) -> list[Path]:
    """Write eval sets: into one `.jsonl` file, or one file for each task into a folder.

    Raises:
        InvalidInputError: tasks of several kinds for one file.
    """
    if to.suffix != ".jsonl":
        return [path for one in exported for path in write([one], to / f"{file_name(one.card.task)}.jsonl")]
    items = [item for one in exported for item in one.items]
    common_kind(items, str(to))
    write_items(items, to)
    write_cards(tuple(one.card for one in exported), to)
    return [to]


def file_name(task: str) -> str:
    """A task's name as a file's and as an alias."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in task)


def _exported(task: Any, weight: float, how: Prompting, asked: Asked, by: WeighBy | None) -> Exported:
    build_requests(task, how)
    judged = why_not_judged(task)
    weighed = by or weigh_by(task)
    judge: Mapping[str, Any] | None = None
    metrics = mapped_metrics(task, judged, weighed)
    if any(m.metric.startswith(HARNESS) for m in metrics):
        source = source_of(task)
        judge = {"task": task.task_name, "file": source.file, "sha256": source.sha256}
    if task.OUTPUT_TYPE != "loglikelihood_rolling" and weighed != "items":
        raise InvalidInputError("weigh by", weighed, f"'items': {task.task_name!r} is no task of running text")
    items, left_out = questions(task, by=weighed, weight=weight, judge=judge)
    config = task.dump_config()
    config.pop("metadata", None)
    return Exported(
        Card(
            task=task.task_name, version=str(task.VERSION), output_type=task.OUTPUT_TYPE, harness=harness_version(),
            config_sha256=sha256_of(config), source=source_of(task).file, num_fewshot=int(task.config.num_fewshot or 0),
            fewshot_seed=asked.fewshot_seed, metrics=metrics, chat_template_sha256=how.template_sha256,
            system_instruction=how.system_instruction or "", not_kept=_not_kept(task, left_out),
        ),
        tuple(items),
    )  # fmt: skip


def _not_kept(task: Any, left_out: Sequence[InvalidInputError]) -> tuple[str, ...]:
    found = []
    if left_out:
        found.append(f"{len(left_out)} documents that no item can express; the first: {left_out[0]}")
    settings = task.get_config("generation_kwargs") or {}
    if task.OUTPUT_TYPE == "generate_until" and (settings.get("do_sample") or settings.get("temperature")):
        found.append(f"answers are greedy; the task samples with temperature {settings.get('temperature', 1.0)}")
    if (task.get_config("repeats") or 1) > 1:
        found.append(f"one answer to a question; the task asks for {task.get_config('repeats')}")
    if task.OUTPUT_TYPE == "loglikelihood_rolling" and has_own_code(task):
        found.append("the task counts words and bytes of another text than the model reads")
    return tuple(found)
