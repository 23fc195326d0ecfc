"""A recipe's path as mergekit's `passthrough`: one slice a hop, the folded scales as `scale` of some of its tensors.

mergekit takes what stands before the layers from the first slice's model and what stands after them from the last
one's, and it cannot untie a head; a path that asks for anything else is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.errors import InvalidInputError
from evomerge.merge.flow.fold import Factors, fold
from evomerge.merge.mergekit.references import nearby
from evomerge.models.adapter import is_adapter
from evomerge.models.family import EXPERT, LAYER, Family, families
from evomerge.models.weights import read_json
from evomerge.recipe.path import MERGED
from evomerge.recipe.schema import Recipe


def path_slices(recipe: Recipe, num_layers: int, modules: Mapping[str, str], places: Mapping[str, str]) -> Any:
    """mergekit's `slices` for a recipe's path.

    Args:
        num_layers: of the base model.
        modules: template of a module's name → its role: which family it is.
        places: name of a model → how mergekit names it.

    Raises:
        InvalidInputError: mergekit has no words for something; names the recipe's field.
        ArchitectureError: layers of this family cannot be put on a path.
    """
    path = recipe.path
    assert path is not None, "only a path has slices of this kind"
    for number, hop in enumerate(path.layers):
        if hop.model == "base" and hop.layer >= num_layers:
            allowed = f"layers 0 to {num_layers - 1} of base"
            raise InvalidInputError(f"path.layers[{number}].layer", hop.layer, allowed)
    _check(recipe)
    family = next((f for f in families().values() if f.modules == modules), None)
    if family is None:
        raise InvalidInputError("path", f"{len(path.layers)} layers", "models of a known family")
    folded = fold(path, family.layer_flow)
    last = len(path.layers) - 1
    slices = []
    for number, (hop, factors) in enumerate(zip(path.layers, folded.hops, strict=True)):
        outside = {r: f for r, f in folded.outside.items() if number == (0 if r == "embedding" else last)}
        found: dict[str, Any] = {"model": places[hop.model], "layer_range": [hop.layer, hop.layer + 1]}
        if scales := _scales({**outside, **factors}, family):
            found["parameters"] = {"scale": [*scales, {"value": 1.0}]}
        slices.append({"sources": [found]})
    return slices


def _scales(factors: Factors, family: Family) -> list[dict[str, Any]]:
    """Factors by a part of the names of the tensors that they are for; mergekit takes the first that fits."""
    return [
        {"filter": _part_of_name(module), "value": factor}
        for role, factor in factors.items()
        for module, of in family.modules.items()
        if of == role
    ]


def _part_of_name(module: str) -> str:
    """What only the names of a module's tensors hold: without the layer's and the expert's number, which vary.

    >>> _part_of_name("model.layers.{layer}.self_attn.o_proj"), _part_of_name("model.norm")
    ('self_attn.o_proj', 'model.norm')
    """
    return module.rpartition(f"{EXPERT}.")[2].rpartition(f"{LAYER}.")[2]


def _check(recipe: Recipe) -> None:
    path = recipe.path
    assert path is not None
    if path.uses_merged:
        at = next((f"layers[{n}].model" for n, hop in enumerate(path.layers) if hop.model == MERGED), "host")
        raise InvalidInputError(f"path.{at}", MERGED, "a model: merge the recipe without its path first")
    ends = {0: "the embedding", len(path.layers) - 1: "the final norm and the head"}
    for number, what in ends.items():
        if path.layers[number].model != path.host:
            allowed = f"{path.layers[number].model}: mergekit takes {what} from the model of hop {number}"
            raise InvalidInputError("path.host", path.host, allowed)
    if path.layers[0].scale != 1 and _tied(recipe):
        allowed = "1 where the head is the embedding (or may be: config.json is not here): mergekit cannot untie it"
        raise InvalidInputError("path.layers[0].scale", path.layers[0].scale, allowed)


def _tied(recipe: Recipe) -> bool:
    """Whether the host's head may be its embedding; an adapter's is the base's."""
    assert recipe.path is not None
    hosts = [recipe.base] if recipe.path.host == "base" else [recipe.sources[recipe.path.host], recipe.base]
    for ref in hosts:
        config = (nearby(ref) or Path(ref.location)) / "config.json"
        if config.is_file():
            found = read_json(config)
            family = families().get(str(found.get("model_type")))
            return bool(found.get("tie_word_embeddings", family is None or family.tied_by_default))
        if not is_adapter(config.parent):
            return True
    return True
