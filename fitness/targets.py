"""What objectives and constraints ask of eval sets, checked against what these hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evomerge.errors import InvalidInputError
from evomerge.run.spec import COSTS, Constraint, Objective, RunSpec
from fitness.irt.estimators import ESTIMATORS
from fitness.items import EvalSet
from fitness.label_free import owner
from fitness.metrics import HARNESS, METRICS, Kind, MetricInfo, common_kind, is_metric, metric
from fitness.requirements import check_needs


@dataclass(frozen=True, slots=True)
class Target:
    """What an objective and a constraint have in common. `items` None: all."""

    eval_sets: tuple[str, ...]
    metric: MetricInfo
    items: int | None


@dataclass(frozen=True, slots=True)
class Guard:
    """A constraint that is measured on items."""

    name: str
    eval_set: str
    metric: MetricInfo
    max_drop: float
    items: int | None


def guard_of(constraint: Constraint) -> Guard:
    """A constraint that is no cost."""
    assert constraint.eval_set is not None, "the spec was checked"
    assert constraint.max_drop is not None, "the spec was checked"
    return Guard(constraint.name, constraint.eval_set, metric(constraint.metric), constraint.max_drop, constraint.items)


def asked(targets: Iterable[Target]) -> dict[str, int | None]:
    """Eval set → the largest number of items that anything wants, None for all; in the order first named."""
    found: dict[str, int | None] = {}
    for target in targets:
        for eval_set in target.eval_sets:
            before = found.get(eval_set, 0)
            found[eval_set] = None if before is None or target.items is None else max(before, target.items)
    return found


def check_spec(spec: RunSpec, eval_sets: Mapping[str, EvalSet]) -> None:
    """Whether everything that is asked can be.

    Raises:
        InvalidInputError: an unknown eval set or metric, a metric that is not defined on an eval set's items, or a
            split that is needed and empty; names the field of the spec.
    """
    for i, objective in enumerate(spec.objectives):
        if len(set(objective.eval_sets)) < len(objective.eval_sets):
            raise InvalidInputError(f"objectives.{i}.eval_sets", list(objective.eval_sets), "each eval set once")
        for name in objective.eval_sets:
            _check(f"objectives.{i}", "eval_sets", name, objective.metric, eval_sets, spec.verify.holdout)
            _check_owners(f"objectives.{i}.metric", objective.metric, eval_sets[name], tuple(spec.models.sources))
        info = METRICS.get(objective.metric)
        if info is not None and info.label_free and objective.direction == "maximize" and not info.higher_is_better:
            raise InvalidInputError(f"objectives.{i}.direction", "maximize", f"minimize: less {info.name} is better")
        _check_screening(spec.subset.screening, objective)
    for i, guard in enumerate(spec.constraints):
        if guard.eval_set is not None:
            _check(f"constraints.{i}", "eval_set", guard.eval_set, guard.metric, eval_sets, spec.verify.holdout)
            _check_owners(
                f"constraints.{i}.metric", guard.metric, eval_sets[guard.eval_set], tuple(spec.models.sources)
            )


def _check_screening(name: str, objective: Objective) -> None:
    if name not in ESTIMATORS or objective.is_cost or not ESTIMATORS[name].bounded:
        return
    if metric(objective.metric).bounds != (0.0, 1.0):
        allowed = (
            f"auto, unbiased, ridge, aipw, anchor_correctness: {objective.name}'s {objective.metric} is not in [0, 1]"
        )
        raise InvalidInputError("subset.screening", name, allowed)


def _check(where: str, key: str, name: str, metric_name: str, eval_sets: Mapping[str, EvalSet], holdout: bool) -> None:
    field = f"{where}.{key}"
    if name not in eval_sets:
        raise InvalidInputError(field, name, f"one of {', '.join(sorted(eval_sets)) or 'none that are known'}")
    if not is_metric(metric_name):
        raise InvalidInputError(f"{where}.metric", metric_name, f"one of {', '.join((*METRICS, *COSTS))}")
    info = metric(metric_name)
    kind = common_kind(eval_sets[name].items, f"eval set {name!r} item")
    if not info.fits(kind):
        raise InvalidInputError(f"{where}.metric", metric_name, f"a {kind} metric, as {name!r} has {kind} items")
    _check_labels(f"{where}.metric", info, eval_sets[name], kind)
    check_needs(f"{where}.metric", info, eval_sets[name])
    if metric_name.startswith(HARNESS) and not all(item.doc for item in eval_sets[name].items):
        allowed = f"one of ours: the items of {name!r} hold no documents of a task"
        raise InvalidInputError(f"{where}.metric", metric_name, allowed)
    if not eval_sets[name].split("search"):
        raise InvalidInputError(field, name, "an eval set with search items")
    if holdout and not eval_sets[name].split("holdout"):
        raise InvalidInputError(field, name, "an eval set with holdout items (or `verify.holdout: false`)")


def _check_labels(field: str, info: MetricInfo, eval_set: EvalSet, kind: Kind) -> None:
    """An item without a right choice has label-free metrics only."""
    bare = [item.id for item in eval_set.items if item.label is None]
    if kind == "choice" and bare and not info.label_free:
        free = ", ".join(name for name, other in METRICS.items() if other.label_free and other.fits(kind))
        allowed = f"one of {free}: {len(bare)} items of {eval_set.name!r} have no label, the first is {bare[0]!r}"
        raise InvalidInputError(field, info.name, allowed)


def _check_owners(field: str, metric_name: str, eval_set: EvalSet, sources: tuple[str, ...]) -> None:
    """Every item has a source that it is compared with, where a metric does that."""
    if not metric(metric_name).expert:
        return
    strays = [item.id for item in eval_set.items if owner(item, eval_set.name, sources) is None]
    if strays:
        allowed = (
            f"another metric, or items whose `group` (or eval set) is named like a source ({', '.join(sources)}): "
            f"{len(strays)} items of {eval_set.name!r} are not, the first is {strays[0]!r}"
        )
        raise InvalidInputError(field, metric_name, allowed)
