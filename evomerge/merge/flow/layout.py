"""Which tensor of which model goes where in the model of a path, and its config. Pure but for what configs imply."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from evomerge.errors import ArchitectureError
from evomerge.merge.flow.fold import Factors, Fold, fold
from evomerge.merge.flow.visited import AllVisited, Visited
from evomerge.merge.methods.passthrough import PASSTHROUGH
from evomerge.merge.plan import DTYPES, Origin, Plan, TensorJob
from evomerge.merge.slices import per_layer
from evomerge.models.architecture import Part
from evomerge.models.family import BUFFER, fill_numbers, split_numbers
from evomerge.recipe.path import LayerPath
from evomerge.recipe.schema import Recipe

TIED = "tie_word_embeddings"


def path_plan(recipe: Recipe, visited: AllVisited) -> Plan:
    """What has to be done for the model of a recipe's path: every tensor is one model's, as it is or times a factor.

    Tensors have the names of the family's own spelling; buffers, which transformers computes anew, are left out.

    Raises:
        ArchitectureError: layers of this family cannot be put on a path.
    """
    assert recipe.path is not None, "only a path has a plan of this kind"
    family = visited.host.architecture.kind
    folded = fold(recipe.path, family.layer_flow)
    jobs = [
        *_outside(visited.host, folded, recipe, after=False),
        *_layers(recipe, visited, folded),
        *_outside(visited.host, folded, recipe, after=True),
    ]
    return Plan(PASSTHROUGH, tuple(visited.models), tuple(jobs), seed=0)


def _outside(host: Visited, folded: Fold, recipe: Recipe, *, after: bool) -> Iterator[TensorJob]:
    """The host's own tensors: the embedding before the layers; final norm and head after them."""
    family, architecture = host.architecture.kind, host.architecture
    tied = dict(architecture.tied)
    for tensor, part in architecture.parts.items():
        if part.layer is None and part.role != BUFFER and tensor not in tied and (part.role != "embedding") == after:
            name = family.canonical(tensor)
            assert name is not None, "it has a part"
            yield _job(name, part, host, tensor, folded.outside, recipe)
    if after and tied and folded.unties:
        yield _job(family.head, Part("head", None), host, next(iter(tied.values())), {}, recipe)


def _layers(recipe: Recipe, visited: AllVisited, folded: Fold) -> Iterator[TensorJob]:
    assert recipe.path is not None
    for number, (hop, factors) in enumerate(zip(recipe.path.layers, folded.hops, strict=True)):
        model = visited.models[hop.model]
        for template, tensor in model.layer(hop.layer).items():
            name = fill_numbers(template, number)
            part = Part(model.architecture.parts[tensor].role, number, split_numbers(name)[2])
            yield _job(name, part, model, tensor, factors, recipe)


def _job(name: str, part: Part, model: Visited, tensor: str, factors: Factors, recipe: Recipe) -> TensorJob:
    assert recipe.path is not None
    factor = factors.get(part.role, 1.0)
    return TensorJob(
        name=name,
        dtype=DTYPES[recipe.dtype],
        buffer=False,
        copy=factor == 1 and not model.computes(tensor),
        shared={"scale": factor},
        per_source={model.name: {}},
        changed=(model.name,),
        part=part,
        num_layers=len(recipe.path.layers),
        origin=Origin(None, {model.name: tensor}),
    )


def path_config(path: LayerPath, visited: AllVisited) -> dict[str, Any]:
    """The config.json of a path's model: the host's, as deep as there are hops, and every list that has an entry a
    layer read off the layers that are visited.

    Raises:
        CheckpointError: transformers cannot read a config.
        ArchitectureError: a visited model does not say layer by layer what the host does.
    """
    host = visited.host.checkpoint.config
    family = visited.host.architecture.kind
    lists = {name: per_layer(model.checkpoint.config, family.layers) for name, model in visited.models.items()}
    found: dict[str, Any] = {**host, family.layers: len(path.layers)}
    for key in lists[path.host]:
        if lacking := [name for name in visited.models if key not in lists[name]]:
            raise ArchitectureError(f"path: the config of {lacking[0]!r} does not say {key}, the host's does")
        found[key] = [lists[hop.model][key][hop.layer] for hop in path.layers]
    if visited.host.architecture.tied and fold(path, family.layer_flow).unties:
        found[TIED] = False
    return found
