"""Statistics that depend on a recipe's parameters: every candidate of a search may need its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from evomerge.merge.blocks import TensorWork
from evomerge.merge.calibration.entries import Found
from evomerge.merge.calibration.kinds import ANCHORED, LEARNED, MERGED_GRAM
from evomerge.merge.calibration.learn.anchored import anchored_statistics
from evomerge.merge.calibration.learn.learned import learned_statistics
from evomerge.merge.calibration.provider import Model, Provider
from evomerge.merge.calibration.sequential import sequential_statistics
from evomerge.merge.plan import Plan, TensorJob
from evomerge.recipe.schema import Recipe

DEPENDENT = LEARNED | {MERGED_GRAM, ANCHORED}


def dependent_statistics(
    provider: Provider,
    recipe: Recipe,
    todo: Plan,
    work_of: Callable[[TensorJob], TensorWork],
    models: Mapping[str, Model],
) -> Callable[[TensorJob], Found]:
    """The statistics of each tensor, from the cache or collected now; as `sequential_statistics`,
    `anchored_statistics` and `learned_statistics`."""
    if ANCHORED in todo.method.requires:
        return anchored_statistics(provider, recipe, todo, work_of, models)
    find = sequential_statistics if MERGED_GRAM in todo.method.requires else learned_statistics
    return find(provider, recipe, todo, work_of, models)
