"""The statistics that a recipe's method requires, beside the recipe's open models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from evomerge.merge.calibration.dependent import DEPENDENT, dependent_statistics
from evomerge.merge.calibration.provider import Model, Progress, Provider
from evomerge.merge.inputs import Inputs
from evomerge.merge.methods import method_of
from evomerge.merge.plan import plan
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.content import content_hash
from evomerge.recipe.schema import Recipe


def calibrated(
    inputs: Inputs,
    recipe: Recipe,
    cache: Path,
    *,
    root: Path,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> Inputs:
    """The same inputs with what the recipe's method requires; collected now where the cache lacks it.

    Args:
        cache: a directory that keeps it; processes may share it.
        root: relative locations of items are under it.
        device: where models run.

    Raises:
        InvalidInputError: the recipe does not say from which items; names the field.
        HashMismatchError, CheckpointError, NonFiniteError: as `Provider.statistics`.
    """
    method = method_of(recipe.merge)
    if not method.requires:
        return inputs
    assert isinstance(inputs.base, Checkpoint), "recipes with a calibration keep the base's vocabulary"
    digest = recipe.base.sha256 or content_hash(inputs.base.path)
    provider = Provider(inputs.base, inputs.architecture, digest, cache, device=device, root=root, progress=progress)
    models = {
        name: Model(recipe.sources[name].sha256 or content_hash(source.path), source)
        for name, source in inputs.sources.items()
    }
    if method.requires & DEPENDENT:
        todo = plan(recipe, inputs.base.tensors, inputs.architecture, inputs.changed)
        return replace(inputs, statistics=dependent_statistics(provider, recipe, todo, inputs.work, models))
    statistics = provider.statistics(method.name, method.requires, recipe.calibration, models)
    return replace(inputs, statistics=statistics.of)
