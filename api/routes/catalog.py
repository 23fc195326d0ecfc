"""What a search can name: models, eval sets, optimizers, merge methods, metrics; and what a problem type means."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path

from fastapi import APIRouter

from api.deps import RegistryDep
from api.problems import TYPES, Problem, documented
from api.schemas import Alias, Aliases, Described, DescribedList

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
def methods() -> DescribedList:
    """Merge methods with their parameters."""
    from evomerge.merge.methods import METHODS

    items = []
    for name, method in sorted(METHODS.items()):
        parameters = {p.name: {"default": p.default, "range": [p.low, p.high]} for p in method.parameters}
        items.append(Described(name=name, description=_summary(method), parameters=parameters))
    return DescribedList(items=items)


@router.get("/metrics")
def metrics() -> DescribedList:
    """Metrics that objectives and constraints can name."""
    from fitness.metrics import METRICS

    return DescribedList(items=[Described(name=name, description=m.text) for name, m in sorted(METRICS.items())])


@router.get("/problems/{kind}", responses=documented(404))
def problem(kind: str) -> Described:
    """What a problem's `type` means."""
    if kind not in TYPES:
        raise Problem("not-found", f"there is no problem type {kind!r}; known are {', '.join(TYPES)}")
    status, title = TYPES[kind]
    return Described(name=kind, description=title, parameters={"status": status})


def _aliases(places: Mapping[str, Path]) -> Aliases:
    return Aliases(items=[Alias(name=name, available=path.exists()) for name, path in sorted(places.items())])


def _summary(thing: object) -> str:
    """The first paragraph of a docstring on one line."""
    return (inspect.getdoc(thing) or "").partition("\n\n")[0].replace("\n", " ")
