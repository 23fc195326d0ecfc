"""From a recipe to what has to be done with each tensor. Pure: nothing is read or written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from evomerge.errors import InvalidInputError
from evomerge.merge.method import Method, Values
from evomerge.merge.methods import method_of as find_method
from evomerge.merge.parameters import check, resolve
from evomerge.models.architecture import Architecture, Part
from evomerge.models.checkpoint import TensorInfo, is_merged
from evomerge.models.family import BUFFER
from evomerge.recipe.schema import Recipe, role_matches

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


NO_PART = Part("", None)


@dataclass(frozen=True, slots=True)
class TensorJob:
    """One output tensor.

    Attributes:
        name: as the base checkpoint spells it.
        dtype: of the output: the recipe's, or as stored for buffers.
        buffer: it is no weight: copied as stored, not part of what is merged.
        copy: it is the base's tensor: a buffer, or no source changes it and the method leaves such tensors alone.
        shared, per_source: the method's parameters here.
        changed: the sources that may differ from the base here, in the order of their names.
        part, num_layers: the tensor's part in an architecture of so many layers.
        transposed: it is a matrix that is stored (in × out); methods of grain `tensor` are shown (out × in).
    """

    name: str
    dtype: torch.dtype
    buffer: bool
    copy: bool
    shared: Values
    per_source: Mapping[str, Values]
    changed: tuple[str, ...]
    part: Part = NO_PART
    num_layers: int = 0
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What a recipe asks for.

    Attributes:
        method: how tensors are merged.
        sources: names in their order.
        jobs: one a tensor of the base, in the order given; a tied head has none, it is the embedding.
        seed: of random masks.
    """

    method: Method
    sources: tuple[str, ...]
    jobs: tuple[TensorJob, ...]
    seed: int

    @property
    def measures(self) -> Literal["nothing", "tensor", "model"]:
        """The widest that the method measures for any tensor."""
        found = {self.method.measures(job.shared) for job in self.jobs}
        return "model" if "model" in found else "tensor" if "tensor" in found else "nothing"


def plan(
    recipe: Recipe,
    tensors: Mapping[str, TensorInfo],
    architecture: Architecture,
    changed: Mapping[str, frozenset[str]],
) -> Plan:
    """What has to be done for a recipe.

    Args:
        recipe: what is wanted.
        tensors: the base's.
        architecture: which part each of them plays.
        changed: source name → tensors in which it may differ from the base.

    Raises:
        InvalidInputError: an unknown method or parameter, a value outside its legal range, a rule about layers or
            roles that the model does not have, weights that cannot be normalised.
    """
    method = find_method(recipe.merge)
    sources = tuple(sorted(recipe.sources))
    _check_count(method, sources)
    check(method, recipe.merge)
    _check_rules(recipe, architecture)
    resolved: dict[Part, tuple[Values, Mapping[str, Values]]] = {}
    jobs = []
    for name, info in tensors.items():
        part = architecture.parts[name]
        if name in architecture.tied:
            continue
        if part not in resolved:
            resolved[part] = _resolve(method, recipe, sources, part, architecture.num_layers)
        shared, per_source = resolved[part]
        changing = tuple(source for source in sources if name in changed[source])
        buffer = part.role == BUFFER or not is_merged(info)
        dtype = info.dtype if buffer else DTYPES[recipe.dtype]
        copy = buffer or (not changing and method.keeps_base(shared))
        turned = part.role in architecture.transposed and len(info.shape) == 2
        jobs.append(
            TensorJob(name, dtype, buffer, copy, shared, per_source, changing, part, architecture.num_layers, turned)
        )
    return Plan(method, sources, tuple(jobs), recipe.seed)


def _resolve(
    method: Method, recipe: Recipe, sources: tuple[str, ...], part: Part, num_layers: int
) -> tuple[Values, Mapping[str, Values]]:
    shared, per_source = resolve(method, recipe.merge, sources, part, num_layers)
    if method.check is not None:
        try:
            method.check(shared, per_source)
        except InvalidInputError as error:
            where = part.role if part.layer is None else f"{part.role} of layer {part.layer}"
            raise InvalidInputError(f"merge: {error.field} at {where}", error.value, error.allowed) from error
    return shared, per_source


def _check_count(method: Method, sources: tuple[str, ...]) -> None:
    least, most = method.num_sources
    if len(sources) < least or (most is not None and len(sources) > most):
        allowed = f"{least}" if least == most else f"{least} to {most}" if most is not None else f"{least} or more"
        raise InvalidInputError("sources", list(sources), f"{allowed} source(s) for method {method.name}")


def _check_rules(recipe: Recipe, architecture: Architecture) -> None:
    for i, rule in enumerate(recipe.merge.rules):
        if rule.layers is not None and rule.layers[1] >= architecture.num_layers:
            allowed = f"layers 0 to {architecture.num_layers - 1} of this model"
            raise InvalidInputError(f"merge.rules[{i}].layers", list(rule.layers), allowed)
        for pattern in rule.roles:
            if not any(role_matches(role, (pattern,)) for role in architecture.roles):
                allowed = f"roles of this model: {', '.join(architecture.roles)}"
                raise InvalidInputError(f"merge.rules[{i}].roles", pattern, allowed)
