"""Learned coefficients of a recipe: from the cache, or learned now."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge.blocks import TensorWork
from evomerge.merge.calibration import items
from evomerge.merge.calibration.activations import Named
from evomerge.merge.calibration.entries import Found
from evomerge.merge.calibration.kinds import LEARNED
from evomerge.merge.calibration.learn.atoms import atoms_of
from evomerge.merge.calibration.learn.learners import LEARNERS, Learner, Setting
from evomerge.merge.calibration.learn.student import Student
from evomerge.merge.calibration.live import DTYPES, load_live
from evomerge.merge.calibration.provider import Model, Provider
from evomerge.merge.calibration.stored import key, stored
from evomerge.merge.method import Values
from evomerge.merge.plan import Plan, TensorJob
from evomerge.models.weights import Weights
from evomerge.recipe.schema import Recipe

_STEPS = "steps"
"""Name under which their number lies beside the coefficients, so that a file of none at all has a tensor, too."""


def learned_statistics(
    provider: Provider,
    recipe: Recipe,
    todo: Plan,
    work_of: Callable[[TensorJob], TensorWork],
    models: Mapping[str, Model],
) -> Callable[[TensorJob], Found]:
    """The coefficients of each tensor for a method that requires learned ones, from the cache or learned now.

    The model that runs has the base's config, as the merged model will have. In memory are the base, a task vector a
    source, the weights of a step and their gradients, all in the calibration's dtype; and an expert's weights where the
    loss looks at experts.

    Args:
        recipe: names method, parameters and items.
        todo: its plan.
        work_of: a job's tensors.
        models: source → model.

    Raises:
        InvalidInputError: a parameter of the learning differs between tensors.
        InvalidInputError, HashMismatchError, CheckpointError, NonFiniteError: as `Provider.statistics`.
    """
    calibration = recipe.calibration
    assert calibration is not None, "the plan refuses recipes without it"
    (kind,) = todo.method.requires & LEARNED
    jobs = [job for job in todo.jobs if not job.buffer]
    if not any(job.changed and not job.copy for job in jobs):
        return lambda job: {}
    learner = LEARNERS[kind]
    values = uniform(learner.parameters, jobs)
    samples = {source: provider.samples(source, calibration, models) for source in sorted(models)}
    document = {
        "kind": kind,
        "method": list(recipe.merge.pipeline or (todo.method.name,)),
        "models": {source: provider.identity(model) for source, model in models.items()},
        "base": provider.identity(provider.own),
        "samples": {source: items.digest(found) for source, found in samples.items()},
        "jobs": [_document(job, learner) for job in jobs],
        "seeds": [calibration.seed, recipe.seed if todo.method.stochastic else 0],
        "dtype": calibration.dtype,
    }

    def learn() -> Named:
        live = load_live(None, provider.base, provider.architecture, calibration.dtype, provider.device)
        unit = {s: _unit(kind, learner, s, models) for s in models}
        works = [work_of(job) for job in jobs if job.changed]
        atoms = atoms_of(todo, works, live.parameters, lambda job, source: unit[source], learner.neutral)

        def expert(source: str) -> dict[str, Tensor]:
            return _expert(provider, models[source], source, jobs, DTYPES[calibration.dtype])

        done = _done(provider, kind)
        setting = Setting(Student(live, expert), atoms, samples, values, calibration.seed, done)
        yield _STEPS, torch.tensor([float(values["steps"])])
        for source, name, coefficients in learner.learn(setting):
            yield f"{source} {name}", coefficients.float().cpu()

    found = stored(provider.cache, kind, key(document), learn, "the model in the making")
    return lambda job: _of(found, kind, job, models)


def uniform(parameters: Sequence[str], jobs: Sequence[TensorJob]) -> Values:
    """The values of parameters that must hold for all these tensors alike, which are learned together.

    Raises:
        InvalidInputError: one differs.
    """
    first = jobs[0].shared
    for job in jobs:
        for name in parameters:
            if job.shared[name] != first[name]:
                expected = f"one value for all tensors, which are learned together (elsewhere {first[name]!r})"
                raise InvalidInputError(f"merge.{name} at {job.name}", job.shared[name], expected)
    return {name: first[name] for name in parameters}


def _document(job: TensorJob, learner: Learner) -> list[object]:
    """What the learning depends on of a tensor."""
    shared = {name: value for name, value in job.shared.items() if name not in learner.neutral}
    return [job.name, shared, {s: dict(v) for s, v in job.per_source.items()}, list(job.changed), job.copy]


def _unit(kind: str, learner: Learner, source: str, models: Mapping[str, Model]) -> Found:
    """Coefficients of 1 for a source, 0 for all others; one number stands for as many as there would be."""
    own = {s: {kind: torch.tensor([float(s == source)])} for s in models}
    return {**own, "": {kind: torch.ones(1)}} if learner.shared else own


def _expert(
    provider: Provider, model: Model, source: str, jobs: list[TensorJob], dtype: torch.dtype
) -> dict[str, Tensor]:
    """A source's own weights where it differs from the base."""
    if model.source is None:
        return {}
    names = [job.name for job in jobs if source in job.changed]
    return {name: model.source.weights(name).to(device=provider.device, dtype=dtype) for name in names}


def _done(provider: Provider, kind: str) -> Callable[[], None]:
    count = 0

    def done() -> None:
        nonlocal count
        count += 1
        if provider.progress is not None:
            provider.progress(f"steps of {kind}", count)

    return done


def _of(found: Weights, kind: str, job: TensorJob, models: Mapping[str, Model]) -> Found:
    names = {source: f"{source} {job.name}" for source in (*models, "")}
    return {s: {kind: found.read(name)} for s, name in names.items() if name in found.tensors}
