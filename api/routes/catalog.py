"""What a search can name: models, eval sets, optimizers, merge methods, metrics; stages; what a problem type means."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import APIRouter

from api.deps import RegistryDep
from api.problems import TYPES, Problem, documented
from api.schemas import (
    Alias,
    Aliases,
    Described,
    DescribedList,
    MethodList,
    MethodOut,
    Needs,
    ParameterOut,
    StageList,
    StageOut,
)
from evomerge.run.spec import COSTS

if TYPE_CHECKING:
    from evomerge.merge.method import Method, Parameter
    from evomerge.merge.stage import Stage

router = APIRouter(prefix="/api/v1", tags=["catalog"], responses=documented())


@router.get("/models")
def models(registry: RegistryDep) -> Aliases:
    """Models by the alias that searches use; their places stay with the operator."""
    return _aliases(registry.models)


@router.get("/eval-sets")
def eval_sets(registry: RegistryDep) -> Aliases:
    """Eval sets by name."""
    return _aliases(registry.eval_sets)


@router.get("/optimizers")
def optimizers() -> DescribedList:
    """Optimizers with their options and defaults."""
    from evomerge.optimizers import OPTIMIZERS

    items = []
    for name, kind in sorted(OPTIMIZERS.items()):
        options = kind.Options.model_json_schema()["properties"]
        items.append(Described(name=name, description=_summary(kind), parameters=options))
    return DescribedList(items=items)


@router.get("/methods")
def methods() -> MethodList:
    """Merge methods with their papers, their parameters and what they need."""
    from evomerge.merge.methods import METHODS

    items = [
        MethodOut(
            name=name,
            description=f"{method.title}. {method.paper}",
            title=method.title,
            paper=method.paper,
            needs=_needs(method, method.num_sources),
            cost=method.cost,
            grain=method.grain,
            parameters=_parameters(method.parameters),
        )
        for name, method in sorted(METHODS.items())
    ]
    return MethodList(items=items)


@router.get("/stages")
def stages() -> StageList:
    """Steps of which a recipe's `pipeline` is made."""
    from evomerge.merge.stages import STAGES

    items = [
        StageOut(
            name=name,
            description=stage.text,
            kind=stage.kind,
            needs=_needs(stage, (1, None)),
            cost=stage.cost,
            grain=stage.grain,
            parameters=_parameters(stage.parameters),
        )
        for name, stage in sorted(STAGES.items())
    ]
    return StageList(items=items)


@router.get("/metrics")
def metrics() -> DescribedList:
    """Metrics that objectives and constraints can name."""
    from fitness.metrics import METRICS

    texts = {name: metric.text for name, metric in METRICS.items()} | COSTS
    return DescribedList(items=[Described(name=name, description=text) for name, text in sorted(texts.items())])


@router.get("/problems/{kind}", responses=documented(404))
def problem(kind: str) -> Described:
    """What a problem's `type` means."""
    if kind not in TYPES:
        raise Problem("not-found", f"there is no problem type {kind!r}; known are {', '.join(TYPES)}")
    status, title = TYPES[kind]
    return Described(name=kind, description=title, parameters={"status": status})


def _aliases(places: Mapping[str, Path]) -> Aliases:
    return Aliases(items=[Alias(name=name, available=path.exists()) for name, path in sorted(places.items())])


def _needs(thing: Method | Stage, sources: tuple[int, int | None]) -> Needs:
    from evomerge.merge.calibration.kinds import of_items

    return Needs(
        sources=sources,
        calibration=sorted(of_items(thing.requires)),
        adapters=thing.factored,
        order=thing.ordered,
        seed=thing.stochastic,
    )


def _parameters(parameters: Iterable[Parameter]) -> list[ParameterOut]:
    return [
        ParameterOut(
            name=p.name,
            default=p.default,
            range=None if p.low is None or p.high is None else (p.low, p.high),
            legal=_finite(p.legal),
            scale=p.scale,
            choices=p.choices,
            per_source=p.per_source,
            text=p.text,
        )
        for p in parameters
    ]


def _finite(bounds: tuple[float, float] | None) -> tuple[float | None, float | None] | None:
    """Bounds as JSON has them, which knows no infinity."""
    if bounds is None:
        return None
    low, high = (bound if math.isfinite(bound) else None for bound in bounds)
    return low, high


def _summary(thing: object) -> str:
    """The first paragraph of a docstring on one line."""
    return (inspect.getdoc(thing) or "").partition("\n\n")[0].replace("\n", " ")
