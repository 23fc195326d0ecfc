"""Which tasks a name, a group, a tag or a YAML file stands for, built by the harness's own manager."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from evomerge.errors import InvalidInputError

FEWSHOT_SEED = 1234
"""The harness's own default."""

RANDOM_SEED, NUMPY_SEED = 0, 1234
"""What the harness sets the global generators to before tasks are built; some generate their documents from these."""

BUILDERS = ("json", "csv", "parquet", "text", "arrow")
"""Datasets that are named by a format and files."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Tasks as they are asked for.

    Attributes:
        name: of a task, a group or a tag, or a YAML file.
        num_fewshot: examples before each question; None is the task's own number. As in the harness, a task that says
            0 itself stays at 0.
        fewshot_seed: of the examples' draws.
        include_path: folders with further tasks.
        data_dir: where datasets lie on this machine: `DATA_DIR/ORGANISATION/NAME`, `DATA_DIR/NAME` or `DATA_DIR`, each
            with a folder for a configuration or without, as files that `datasets` loads or as it saved them; and what
            relative data files are relative to.
        bundled: whether lm-eval's own tasks are known, too; to look through them takes seconds.
        metadata: for tasks that generate their documents, such as `{"max_seq_lengths": [4096]}`.
    """

    name: str
    num_fewshot: int | None = None
    fewshot_seed: int = FEWSHOT_SEED
    include_path: tuple[Path, ...] = ()
    data_dir: Path | None = None
    bundled: bool = True
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Found:
    """Tasks in the harness's order, and the share of each in its group's mean (1 where there is no group)."""

    tasks: Mapping[str, Any]
    weights: Mapping[str, float]


def harness_version() -> str:
    """Of the lm-eval that is installed.

    Raises:
        InvalidInputError: none is.
    """
    try:
        import lm_eval  # noqa: F401  # whether it can be imported is the question
    except ImportError as error:
        raise InvalidInputError("lm-eval", str(error), "the extra: pip install 'evomerge[harness]'") from error
    return version("lm_eval")


def load_tasks(asked: Asked, manager: Any = None) -> Found:
    """The harness's task objects, with examples and seeds set as its evaluator sets them.

    Args:
        manager: `manager_of` it, where that is there already: to look through all tasks takes seconds.

    Raises:
        InvalidInputError: no such task, a task that cannot be built, or data that is not here; names it.
    """
    harness_version()
    with _explained(asked):
        loaded = (manager or manager_of(asked)).load([asked.name])
    for task in loaded["tasks"].values():
        _set_examples(task, asked)
    return Found(loaded["tasks"], _weights(loaded))


def manager_of(asked: Asked) -> Any:
    """The harness's manager of tasks, which looks for data where it was said that it lies."""
    from lm_eval.tasks import TaskManager

    given, include, bundled = Path(asked.name).expanduser(), list(asked.include_path), asked.bundled
    if given.suffix in (".yaml", ".yml") and given.is_file():
        group = "group:" in given.read_text(encoding="utf-8")
        include += [given.resolve().parent] if group else []  # its tasks lie beside it, or are the harness's
        bundled = bundled and group
    manager = TaskManager(
        include_path=[str(path) for path in include], include_defaults=bundled, metadata=dict(asked.metadata)
    )
    if asked.data_dir is not None:
        manager._factory = _redirecting(asked.data_dir, dict(asked.metadata))
    return manager


def _redirecting(data_dir: Path, metadata: dict[str, Any]) -> Any:
    from lm_eval.tasks._factory import TaskFactory

    class Redirecting(TaskFactory):  # type: ignore[misc]  # untyped
        def _load_full_config(self, entry: Any, overrides: Any = None) -> dict[str, Any]:
            return redirected(super()._load_full_config(entry, overrides), data_dir)

    return Redirecting(meta=metadata)


def redirected(config: dict[str, Any], data_dir: Path) -> dict[str, Any]:
    """A task's configuration with its dataset on this machine, where `data_dir` holds it."""
    path, name = config.get("dataset_path"), config.get("dataset_name")
    if path in BUILDERS:
        return config | {"dataset_kwargs": _absolute(config.get("dataset_kwargs") or {}, data_dir)}
    if not isinstance(path, str) or config.get("custom_dataset"):
        return config
    for place in (data_dir / path, data_dir / path.rpartition("/")[2], data_dir):
        if place.is_dir():
            break
    else:
        return config
    changes: dict[str, Any] = {"dataset_path": str(place)}
    if isinstance(name, str) and (place / name).is_dir():
        place = place / name
        changes = {"dataset_path": str(place), "dataset_name": None}
    files = _split_files(place)
    if files and not (place / "README.md").is_file():  # which may say more about them
        kind, data_files = files
        return config | {"dataset_path": kind, "dataset_name": None, "dataset_kwargs": {"data_files": data_files}}
    if (place / "dataset_dict.json").is_file():
        changes = {"custom_dataset": lambda **_: _saved(place), "dataset_path": str(place)}
    return config | changes


def _split_files(place: Path) -> tuple[str, dict[str, list[str]]] | None:
    """The format and the files of each split, where a folder holds one format and files are called by their splits.

    `datasets` by itself takes `dev` for `validation`, and tasks then miss it.
    """
    formats = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
    found = sorted(path for path in place.iterdir() if path.suffix in formats)
    if len({formats[path.suffix] for path in found}) != 1:
        return None
    splits: dict[str, list[str]] = {}
    for path in found:
        splits.setdefault(re.sub(r"-\d{5}-of-\d{5}$", "", path.stem), []).append(str(path))
    return formats[found[0].suffix], splits


def _saved(place: Path) -> Any:
    from datasets import load_from_disk

    return load_from_disk(str(place))


def _absolute(arguments: dict[str, Any], data_dir: Path) -> dict[str, Any]:
    files = arguments.get("data_files")
    if files is None:
        return arguments | {"data_dir": str(data_dir)}
    if isinstance(files, dict):
        return arguments | {"data_files": {split: _placed(names, data_dir) for split, names in files.items()}}
    return arguments | {"data_files": _placed(files, data_dir)}


def _placed(names: str | Sequence[str], data_dir: Path) -> str | list[str]:
    if isinstance(names, str):
        return names if "://" in names else str(data_dir / Path(names).expanduser())
    return [str(_placed(name, data_dir)) for name in names]


def _set_examples(task: Any, asked: Asked) -> None:
    own = task.get_config("num_fewshot") if hasattr(task, "get_config") else None
    if asked.num_fewshot is not None and own != 0:
        task.set_config(key="num_fewshot", value=asked.num_fewshot)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=asked.fewshot_seed)


def _weights(loaded: Mapping[str, Any]) -> dict[str, float]:
    """A group that weighs by size is the mean over items; one that does not, the mean of its tasks' means."""
    weights = dict.fromkeys(loaded["tasks"], 1.0)
    for group in loaded["groups"].values():
        rules = group.aggregate_metric_list or ()
        if any(not rule.weight_by_size for rule in rules):
            weights |= {task.task_name: 1 / len(task.eval_docs) for task in group.get_all_tasks()}
    return weights


@contextmanager
def seeded() -> Iterator[None]:
    """The harness's seeds inside, the caller's generators untouched after."""
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(RANDOM_SEED)
    np.random.seed(NUMPY_SEED)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def _explained(asked: Asked) -> Iterator[None]:
    """Whatever a task's data and code raise, as an error for a person."""
    try:
        yield
    except KeyError as error:
        if "not a registered task" in str(error):
            allowed = "a task, group or tag that lm-eval or --include-path knows, or a YAML file of one"
            raise InvalidInputError("task", asked.name, allowed) from error
        raise InvalidInputError("task", asked.name, f"a task that can be built: {error!r}") from error
    except (OSError, ConnectionError) as error:
        allowed = f"data that is on this machine (--data-dir) or on a hub that can be reached: {error}"
        raise InvalidInputError("task", asked.name, allowed) from error
    except Exception as error:  # a task's YAML names functions of its own, which may raise anything
        raise InvalidInputError(
            "task", asked.name, f"a task that can be built: {type(error).__name__}: {error}"
        ) from error
