"""From a spec to all that a run needs, checked before the first candidate: models, space, items, baselines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evomerge.candidate import Genome
from evomerge.errors import InvalidInputError
from evomerge.merge.carried import with_carried
from evomerge.merge.methods import METHODS
from evomerge.merge.resolve import pin
from evomerge.models.adapter import is_adapter
from evomerge.models.architecture import Architecture, architecture_of
from evomerge.models.checkpoint import Checkpoint, open_checkpoint
from evomerge.optimizers import OPTIMIZERS, make
from evomerge.optimizers.domain import Problem
from evomerge.optimizers.optimizer import Optimizer, mixes_sources, uses_gradients, uses_items
from evomerge.recipe.calibration import Calibration, FileRef
from evomerge.recipe.schema import Merge, ModelRef, Recipe
from evomerge.recipe.shared import shared_fields
from evomerge.run.spec import RunSpec
from evomerge.seeds import derive
from fitness.items import EvalSet, load_eval_set
from fitness.metrics import METRICS, is_metric, metric
from fitness.objectives import ObjectivePlan
from search_spaces import make_space
from search_spaces.linear import LinearMap, linear_map
from search_spaces.space import SearchSpace
from workers.costs import Costs
from workers.experts import alone
from workers.job import WorkerSpec
from workers.registry import Registry
from workers.wanted import check_wanted, judges_of, wanted_metrics

CONTROL = "average"
"""The baseline that answers all search items: candidates are compared with it on the items of their generation. Of all
that is there before the search it answers most like a good candidate."""


@dataclass(frozen=True, slots=True)
class Search:
    """What a run needs beyond its state.

    Attributes:
        plan: what the search asks and how it scores.
        report: the same objectives and constraints, and each objective again under every metric of `verify.metrics`.
        costs: of candidates, where objectives or constraints ask for them.
        baselines: label → recipe, in the order of their numbers: base, the plain average, each source.
        linear: from derivatives by weights to those by genes, where the optimizer follows gradients.
    """

    spec: RunSpec
    space: SearchSpace
    plan: ObjectivePlan
    report: ObjectivePlan
    costs: Costs
    baselines: dict[str, Recipe]
    worker: WorkerSpec
    linear: LinearMap | None = None

    def optimizer(self) -> Optimizer:
        """A fresh optimizer as the spec names it."""
        return optimizer_of(self.spec, self.space)


def prepare(spec: RunSpec, registry: Registry, cache: Path, *, allow_code: bool = False) -> Search:
    """Resolve aliases, check hashes, architectures and eval sets, and build space and baselines.

    Args:
        allow_code: whether code that candidates write may run, for metrics that do that.

    Raises:
        EvomergeError: anything that would keep the run from going, with the field that is wrong.
    """
    check_wanted(spec, registry, allow_code=allow_code)
    recipe = pinned_models(spec, registry, hashes=cache / "hashes")
    sets = load_eval_sets(spec, registry)
    report = ObjectivePlan(_with_reported(spec), sets)
    space = space_of(spec, recipe, cache)
    return Search(
        spec=spec,
        space=space,
        plan=ObjectivePlan(spec, sets),
        report=report,
        costs=costs_of(spec, recipe),
        baselines=baseline_recipes(spec, recipe),
        worker=WorkerSpec(
            recipe=recipe,
            eval_sets={name: str(registry.eval_set(name)) for name in sets},
            device=spec.workers.device,
            batch_tokens=spec.workers.batch_tokens,
            cache=str(cache),
            metrics=wanted_metrics(report),
            allow_code=allow_code,
            judges=judges_of(spec, registry),
            generation=spec.workers.generation,
            generation_memory=spec.workers.generation_memory,
        ),
        linear=linear_of(spec, space),
    )


def pinned_models(
    spec: RunSpec, registry: Registry, *, check_hashes: bool = True, hashes: Path | None = None
) -> Recipe:
    """The spec's models as a recipe (their plain average) with absolute places and, if asked for, hashes."""
    sources = {name: ModelRef(location=str(registry.model(alias))) for name, alias in spec.models.sources.items()}
    base = ModelRef(location=str(registry.model(spec.models.base)))
    recipe = Recipe(
        base=base,
        sources=sources,
        merge=Merge(method="linear"),
        calibration=_calibration(spec, registry),
        dtype=spec.dtype,
        seed=spec.seed,
        **_shared(spec, registry),
    )
    return pin(recipe, Path("/"), hashes) if check_hashes else recipe


def _calibration(spec: RunSpec, registry: Registry) -> Calibration | None:
    """The spec's calibration with the files of its eval sets.

    Raises:
        InvalidInputError: an unknown eval set or source, or a file of moments, for which there are no aliases.
    """
    asked = spec.calibration
    if asked is None:
        return None
    if asked.moments:
        allowed = "none in a search; with `without_moments: fisher` the diagonal Fisher takes their place"
        raise InvalidInputError("calibration.moments", sorted(asked.moments), allowed)
    for name in asked.sources:
        if name not in spec.models.sources:
            allowed = f"a source of the run: {', '.join(spec.models.sources)}"
            raise InvalidInputError(f"calibration.sources.{name}", name, allowed)

    def located(file: FileRef, field: str) -> FileRef:
        try:
            return file.model_copy(update={"location": str(registry.eval_set(file.location))})
        except InvalidInputError as error:
            raise InvalidInputError(f"calibration.{field}.location", error.value, error.allowed) from error

    sources = {name: located(file, f"sources.{name}") for name, file in asked.sources.items()}
    items = None if asked.items is None else located(asked.items, "items")
    return asked.model_copy(update={"items": items, "sources": sources})


def _shared(spec: RunSpec, registry: Registry) -> dict[str, Any]:
    """What the spec says for all recipes alike, with the files of the eval sets that alignments read.

    Raises:
        InvalidInputError: an unknown eval set.
    """
    said = shared_fields(spec)
    for name, how in said.get("align", {}).items():
        if (items := how.get("items")) is not None:
            try:
                items["location"] = str(registry.eval_set(items["location"]))
            except InvalidInputError as error:
                raise InvalidInputError(f"align.{name}.items.location", error.value, error.allowed) from error
    return said


def space_of(spec: RunSpec, recipe: Recipe, cache: Path | None = None) -> SearchSpace:
    """The search space over a recipe's models.

    Args:
        cache: a folder for what the space reads of the models once.

    Raises:
        InvalidInputError: the space is not valid, or its method needs of the models or of the items what they lack; an
            adapter is to be aligned; a source has nothing to carry over.
        ArchitectureError: a host's language model is not the base's.
    """
    _check_adapters(spec, recipe)
    base = open_checkpoint(Path(recipe.base.location))
    architecture = architecture_of(base.config, base.tensors)
    _check_shared(recipe, base, architecture)
    return make_space(
        spec.space,
        base=recipe.base,
        sources=dict(recipe.sources),
        architecture=architecture,
        dtype=spec.dtype,
        seed=spec.seed,
        calibration=recipe.calibration,
        tensors=base.tensors,
        cache=cache,
        shared=shared_fields(recipe),
    )


def costs_of(spec: RunSpec, recipe: Recipe) -> Costs:
    """The costs that a run asks for.

    Args:
        recipe: any over the run's models.

    Raises:
        EvomergeError: they cannot be counted for these models.
    """
    with open_checkpoint(Path(recipe.base.location)) as base:
        costs = Costs(spec, base.config)
    costs.scores(recipe.model_dump())
    return costs


def _check_adapters(spec: RunSpec, recipe: Recipe) -> None:
    """Every source is an adapter, where the method works on the factors of adapters."""
    asked = spec.space.get("merge") if spec.space.get("kind") == "hybrid" else spec.space
    names = [asked.get("method"), *(asked.get("methods") or ())] if isinstance(asked, dict) else []
    factored = [name for name in map(str, names) if name in METHODS and METHODS[name].factored]
    for name, ref in recipe.sources.items() if factored else ():
        if not is_adapter(Path(ref.location)):
            allowed = f"a LoRA adapter: {factored[0]} works on LoRA factors"
            raise InvalidInputError(f"models.sources.{name}", spec.models.sources[name], allowed)


def _check_shared(recipe: Recipe, base: Checkpoint, architecture: Architecture) -> None:
    """No adapter is aligned, and what is carried over is there. Sources that are recipes show it when built."""
    places = {name: Path(ref.location) for name, ref in recipe.sources.items()}
    for name, how in (recipe.align or {}).items():
        if places[name].is_dir() and is_adapter(places[name]):
            raise InvalidInputError(f"align.{name}", how.method, "none: an adapter has the units of its base")
    if recipe.carry is not None and all(places[name].is_dir() for name in recipe.carry.sources):
        with_carried(recipe, base, architecture, places)[0].close()


def optimizer_of(spec: RunSpec, space: SearchSpace) -> Optimizer:
    """A fresh optimizer as the spec names it.

    Raises:
        InvalidInputError: an unknown name or option, a value out of range, or a space or objectives that it is not for.
    """
    seeds = tuple(_seed(space, recipe, i) for i, recipe in enumerate(spec.seeds))
    linear, kind = linear_of(spec, space), OPTIMIZERS.get(spec.optimizer.name)
    if linear is None and kind is not None and mixes_sources(kind):
        linear = linear_map(space, spec.optimizer.name)
    alone = () if linear is None else linear.sources_alone()  # corners, or places to begin again
    domain = replace(space.domain, seeds=tuple(dict.fromkeys((*seeds, *space.domain.seeds, *alone))))
    problem = Problem(domain, len(spec.objectives), spec.budget.candidates, spec.workers.count or 1)
    optimizer = make(spec.optimizer.name, problem, seed=derive(spec.seed, "optimizer"), **spec.optimizer.options)
    if uses_items(optimizer) and spec.subset.screening not in ("auto", "unbiased"):
        allowed = (
            f"auto or unbiased: {spec.optimizer.name} reads the answers to single items, not what a score says of them"
        )
        raise InvalidInputError("subset.screening", spec.subset.screening, allowed)
    for number, objective in enumerate(spec.objectives):
        if objective.is_cost and optimizer.uses_responses:
            allowed = f"a metric of answers to items: {spec.optimizer.name} compares candidates item by item"
            raise InvalidInputError(f"objectives.{number}.metric", objective.metric, allowed)
    return optimizer


def linear_of(spec: RunSpec, space: SearchSpace) -> LinearMap | None:
    """How a run's merges depend on its genes, where its optimizer follows gradients; else None.

    Raises:
        InvalidInputError: it does, and an objective's metric or the space gives none; names the field.
    """
    kind = OPTIMIZERS.get(spec.optimizer.name)
    if kind is None or not uses_gradients(kind):
        return None
    known = ", ".join(name for name, info in METRICS.items() if info.differentiable)
    for number, objective in enumerate(spec.objectives):
        if objective.is_cost or not metric(objective.metric).differentiable:
            allowed = f"one of {known}: {spec.optimizer.name} follows gradients, and others have none"
            raise InvalidInputError(f"objectives.{number}.metric", objective.metric, allowed)
    return linear_map(space, spec.optimizer.name)


def _seed(space: SearchSpace, recipe: Recipe, number: int) -> Genome:
    try:
        return space.nearest(recipe)
    except InvalidInputError as error:
        raise InvalidInputError(f"seeds.{number}.{error.field}", error.value, error.allowed) from error


def load_eval_sets(spec: RunSpec, registry: Registry) -> dict[str, EvalSet]:
    """Every eval set that an objective or constraint names."""
    names = [n for o in spec.objectives for n in o.eval_sets] + [c.eval_set for c in spec.constraints if c.eval_set]
    return {name: load_eval_set(name, registry.eval_set(name)) for name in dict.fromkeys(names)}


def baseline_recipes(spec: RunSpec, recipe: Recipe) -> dict[str, Recipe]:
    """What every search is compared with: the base, each source alone, and the plain average of the sources."""
    return {
        "base": alone(recipe, "the-base", recipe.base),  # `base` is no source's name
        CONTROL: recipe,
        **{f"source:{name}": alone(recipe, name, ref) for name, ref in recipe.sources.items()},
    }


def _with_reported(spec: RunSpec) -> RunSpec:
    extra = tuple(
        objective.model_copy(update={"name": f"{objective.name}.{name}", "metric": name, "direction": _better(name)})
        for name in spec.verify.metrics
        for objective in spec.objectives
        if objective.metric != name and not objective.is_cost
    )
    return spec.model_copy(update={"objectives": spec.objectives + extra})


def _better(name: str) -> str:
    return (
        "minimize" if is_metric(name) and not metric(name).higher_is_better else "maximize"
    )  # what is none is refused later
