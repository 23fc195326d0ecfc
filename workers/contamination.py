"""Which of a run's items its models were trained on, as far as the operator says what that was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from evomerge.run.spec import RunSpec
from fitness.items import EvalSet
from fitness.overlap import Overlap, overlap
from fitness.rows import texts_of
from workers.registry import Registry


def contamination(spec: RunSpec, registry: Registry, eval_sets: Mapping[str, EvalSet]) -> dict[str, dict[str, Overlap]]:
    """Model, `base` or a source's name → eval set → what of it the model's training data hold.

    Models whose training data the registry does not name are left out. Reads the data once for each eval set.

    Raises:
        InvalidInputError: training data that are gone or broken; names the place.
    """
    aliases = {"base": spec.models.base} | dict(spec.models.sources)
    return {
        name: {
            key: overlap(one.items, {place: texts_of(place) for place in registry.training[alias]})
            for key, one in eval_sets.items()
        }
        for name, alias in aliases.items()
        if registry.training.get(alias)
    }


def described(found: Mapping[str, Mapping[str, Overlap]]) -> Iterator[str]:
    """A line for a person for each model and eval set with items that the model has seen."""
    for model, by_set in found.items():
        for name, one in by_set.items():
            seen = [f"{len(hits)} of {one.sizes[split]} {split}" for split, hits in one.hits.items() if hits]
            if seen:
                yield f"{model}: {' and '.join(seen)} items of {name!r} are in its training data"
