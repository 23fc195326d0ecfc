"""Each source alone: what it answers to the items that it owns, for metrics that compare candidates with that."""

from __future__ import annotations

from collections.abc import Mapping

from evomerge.errors import Failure, FailureReason, NonFiniteError
from evomerge.merge.resident import Resident
from evomerge.recipe.carry import Carry
from evomerge.recipe.schema import Merge, ModelRef, Parameters, Recipe
from evomerge.recipe.shared import keeps_vocabulary, shared_fields
from fitness.evaluator import Reference
from fitness.items import EvalSet, Item
from fitness.label_free import owner
from fitness.metrics import metric
from fitness.scorer import ItemScorer


def alone(recipe: Recipe, name: str, ref: ModelRef) -> Recipe:
    """One source (or, under another name, the base) as it is, aligned, and with what it carries, as the recipe says.

    In a vocabulary other than the base's the other sources stay, with weight 0: rows of tokens that this one lacks may
    be theirs.
    """
    if not keeps_vocabulary(shared_fields(recipe)):
        return recipe.model_copy(update={"merge": _one_of(recipe, name), "calibration": None})
    only = {"sources": {name: ref}, "merge": Merge(method="passthrough"), "calibration": None}
    aligned = {n: how for n, how in (recipe.align or {}).items() if n == name} or None
    return recipe.model_copy(update=only | {"align": aligned, "carry": _carry_of(recipe, name)})


def _one_of(recipe: Recipe, name: str) -> Merge:
    weights: dict[str, Parameters] = {source: {"weight": float(source == name)} for source in recipe.sources}
    return Merge(method="linear" if name in recipe.sources else "task_arithmetic", sources=weights)


def _carry_of(recipe: Recipe, name: str) -> Carry | None:
    if recipe.carry is None or name not in recipe.carry.sources:
        return None
    host = name if recipe.carry.host == name else None
    return Carry(host=host, sources={name: recipe.carry.sources[name]})


def references(
    resident: Resident,
    scorer: ItemScorer,
    recipe: Recipe,
    eval_sets: Mapping[str, EvalSet],
    metrics: Mapping[str, tuple[str, ...]],
) -> dict[str, dict[str, Reference]]:
    """Eval set → item id → the answer of the source that owns the item, where a metric compares with it.

    The live model is each source in turn; each is built once, whatever the number of candidates.

    Args:
        metrics: eval set → those that are wanted of it.

    Raises:
        NonFiniteError: a source's answer is not finite.
        MemoryError: it does not fit.
    """
    owned: dict[str, dict[str, list[Item]]] = {}  # source → eval set → items
    for name, wanted in metrics.items():
        for item in eval_sets[name].items if any(metric(one).expert for one in wanted) else ():
            source = owner(item, name, tuple(recipe.sources))
            assert source is not None, "the objectives were checked"
            owned.setdefault(source, {}).setdefault(name, []).append(item)
    found: dict[str, dict[str, Reference]] = {}
    for source, sets in owned.items():
        resident.materialize(alone(recipe, source, recipe.sources[source]))
        for name, items in sets.items():
            answers = scorer.answers(items)
            if isinstance(answers, Failure):
                _raise(f"source {source!r} on eval set {name!r}: {answers.message}", answers.reason)
            else:
                found.setdefault(name, {}).update(answers)
    return found


def _raise(message: str, reason: FailureReason) -> None:
    raise MemoryError(message) if reason is FailureReason.OUT_OF_MEMORY else NonFiniteError(message)
