"""Published merge methods: `METHODS` by name, and pipelines that a recipe spells out.

A module a family of methods; each lists its own in a tuple `METHODS`. Other packages add methods through the group of
entry points `evomerge.methods`: each entry is a `Method` or a tuple of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points

from evomerge.errors import EvomergeError, InvalidInputError
from evomerge.merge.method import Method
from evomerge.merge.methods import (
    anchored,
    arcee_fusion,
    averages,
    breadcrumbs,
    cabs,
    consensus,
    core,
    curvature,
    dare,
    della,
    doge,
    energy,
    informed,
    interference,
    karcher,
    layerwise,
    learned,
    lego,
    linear,
    lines,
    located,
    lora,
    model_stock,
    nearswap,
    nuslerp,
    passthrough,
    pcb,
    quantised,
    ram,
    regression,
    sce,
    slerp,
    sparse,
    spectral,
    task_arithmetic,
    ties,
    ttmm,
    widen,
)
from evomerge.recipe.schema import Merge

GROUP = "evomerge.methods"
FAMILIES = (
    linear,
    task_arithmetic,
    slerp,
    ties,
    dare,
    passthrough,
    nuslerp,
    karcher,
    breadcrumbs,
    della,
    sce,
    model_stock,
    nearswap,
    arcee_fusion,
    ram,
    lora,
    lego,
    core,
    ttmm,
    averages,
    cabs,
    consensus,
    doge,
    energy,
    informed,
    lines,
    pcb,
    quantised,
    sparse,
    widen,
    curvature,
    regression,
    located,
    layerwise,
    spectral,
    interference,
    learned,
    anchored,
)


def _plugged_in() -> Iterator[Method]:
    """Methods of other packages.

    Raises:
        EvomergeError: an entry cannot be loaded, is no method, or takes a name that exists; names its package.
    """
    for entry in entry_points(group=GROUP):
        where = f"entry point {entry.name!r} ({entry.value}) of {entry.dist.name if entry.dist else 'a package'}"
        try:
            found = entry.load()
        except Exception as error:
            raise EvomergeError(f"{where} cannot be loaded: {type(error).__name__}: {error}") from error
        for method in found if isinstance(found, tuple) else (found,):
            if not isinstance(method, Method):
                raise EvomergeError(f"{where} is {method!r}; expected a Method or a tuple of them")
            if method.name in BUILT_IN:
                raise EvomergeError(f"{where} is named {method.name!r}, which is a method of evomerge itself")
            yield method


BUILT_IN: dict[str, Method] = {method.name: method for family in FAMILIES for method in family.METHODS}
METHODS: dict[str, Method] = {**BUILT_IN, **{method.name: method for method in _plugged_in()}}


def method(name: str) -> Method:
    """The method of that name.

    Raises:
        InvalidInputError: there is none; the message lists those that there are.
    """
    if name not in METHODS:
        raise InvalidInputError("merge.method", name, f"one of {', '.join(METHODS)}")
    return METHODS[name]


def method_of(merge: Merge) -> Method:
    """The method that a recipe names, or the one that its pipeline is.

    Raises:
        InvalidInputError: an unknown method or stage, or a chain of stages that makes no sense.
    """
    return pipeline(merge.pipeline) if merge.pipeline else method(merge.method)


def pipeline(names: tuple[str, ...]) -> Method:
    """A method made of stages.

    Raises:
        InvalidInputError: an unknown stage, no stage that adds up, stages in an impossible order.
    """
    from evomerge.merge.stage import compose
    from evomerge.merge.stages import STAGES

    for number, name in enumerate(names):
        if name not in STAGES:
            raise InvalidInputError(f"merge.pipeline[{number}]", name, f"one of {', '.join(STAGES)}")
    return compose("pipeline", "Pipeline", "none: the recipe's own chain of stages", [STAGES[name] for name in names])
