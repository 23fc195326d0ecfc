"""Which metrics a run wants of its workers, and what those need beside the models."""

from __future__ import annotations

from collections.abc import Iterator

from evomerge.errors import InvalidInputError
from evomerge.run.spec import Judge, RunSpec
from fitness.judge_spec import JudgeSpec
from fitness.metrics import JUDGE, NAMED_JUDGE, metric
from fitness.objectives import ObjectivePlan
from fitness.requirements import check_allowed, check_engine
from workers.registry import Registry


def check_wanted(spec: RunSpec, registry: Registry, *, allow_code: bool) -> None:
    """Whether the metrics of a run may be measured here.

    Args:
        allow_code: whether the operator lets code run that candidates wrote.

    Raises:
        InvalidInputError: code may not run or cannot be isolated, nobody judges, or vLLM is not installed; names the
            field of the spec.
    """
    check_engine("workers.generation", spec.workers.generation)
    check_allowed(_named(spec), allow_code=allow_code, judges=judges_of(spec, registry))


def judges_of(spec: RunSpec, registry: Registry) -> dict[str, JudgeSpec]:
    """Metric → the model that judges answers, with its place.

    Raises:
        InvalidInputError: no such model, or a template that has no place for an answer.
    """
    asked = {} if spec.judge is None else {(JUDGE, "judge"): spec.judge}
    asked |= {(f"{NAMED_JUDGE}{name}", f"judges.{name}"): judge for name, judge in spec.judges.items()}
    return {name: _placed(judge, field, registry) for (name, field), judge in asked.items()}


def _placed(judge: Judge, field: str, registry: Registry) -> JudgeSpec:
    try:
        place = str(registry.model(judge.model))
    except InvalidInputError as error:
        raise InvalidInputError(f"{field}.model", error.value, error.allowed) from error
    return JudgeSpec(place, **judge.model_dump(exclude={"model"}))


def wanted_metrics(plan: ObjectivePlan) -> dict[str, tuple[str, ...]]:
    """Eval set → all metrics that are asked of it, where one of them is computed on demand only."""
    asked = plan.metrics_by_eval_set()
    return {name: tuple(sorted(found)) for name, found in asked.items() if any(metric(m).on_demand for m in found)}


def _named(spec: RunSpec) -> Iterator[tuple[str, str]]:
    """Fields of the spec that name a metric, and the metrics."""
    for number, objective in enumerate(spec.objectives):
        yield f"objectives.{number}.metric", objective.metric
    for number, guard in enumerate(spec.constraints):
        yield f"constraints.{number}.metric", guard.metric
    for number, name in enumerate(spec.verify.metrics):
        yield f"verify.metrics.{number}", name
