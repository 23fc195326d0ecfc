"""From a recipe to what has to be done with each tensor. Pure: nothing is read or written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from evomerge.errors import InvalidInputError
from evomerge.merge.calibration.kinds import check as check_calibration
from evomerge.merge.lineage import lineage
from evomerge.merge.method import Grain, Method, Values
from evomerge.merge.methods import method_of as find_method
from evomerge.merge.parameters import check, resolve
from evomerge.merge.slices import Placed, num_layers, placed
from evomerge.models.architecture import Architecture, Part
from evomerge.models.checkpoint import TensorInfo, is_merged
from evomerge.models.family import BUFFER
from evomerge.recipe.schema import Recipe, role_matches

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


NO_PART = Part("", None)


@dataclass(frozen=True, slots=True)
class Origin:
    """From where a slice takes a tensor, in the base's names.

    Attributes:
        base: θ0; None: the slice has no base, and the first source's tensor stands in where only a shape is asked for.
        sources: source name → its tensor.
    """

    base: str | None
    sources: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TensorJob:
    """One output tensor.

    Attributes:
        name: as the base checkpoint spells it (where there are slices: would spell it).
        dtype: of the output: the recipe's, or as stored for buffers.
        buffer: it is no weight: copied as stored, not part of what is merged.
        copy: it is the base's tensor: a buffer, or no source changes it and the method leaves such tensors alone.
        shared, per_source: the method's parameters here; per source for those that take part in the tensor.
        changed: the sources that may differ from θ0 here, in the order of their names.
        part, num_layers: the tensor's part in the merged model of so many layers.
        transposed: it is a matrix that is stored (in × out); methods of grain `tensor` are shown (out × in).
        factored: the method reads the sources' LoRA factors here.
        rank: the sum of their ranks.
        written: the name that the result is stored under, where that is another.
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
    factored: bool = False
    rank: int = 0
    origin: Origin | None = None
    written: str | None = None

    @property
    def output(self) -> str:
        """The name that the result is stored under."""
        return self.written or self.name

    @property
    def theta0(self) -> str | None:
        """The base's tensor that is θ0; None where a slice has no base."""
        return self.origin.base if self.origin is not None else self.name

    def tensor_of(self, source: str) -> str:
        """A source's tensor, in the base's names."""
        return self.origin.sources[source] if self.origin is not None else self.name


def columns_of(shape: tuple[int, ...]) -> int:
    """Entries of a row of a matrix (of a slice of the first dimension, if there are more); of a vector, all."""
    return math.prod(shape[1:]) if len(shape) > 1 else math.prod(shape)


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
        found = {self.method.measures(job.shared) for job in self.jobs if job.per_source}
        return "model" if "model" in found else "tensor" if "tensor" in found else "nothing"

    def by_rows(self, job: TensorJob) -> bool:
        """Whether the method may be shown some rows of a tensor at a time."""
        return self.method.grain_of(job.shared) == "tensor" and self.method.rowwise(job.shared) and not job.transposed

    @property
    def grain(self) -> Grain:
        """The widest that the method has to see of any tensor at a time; some rows count as entries."""
        jobs = [job for job in self.jobs if job.per_source and not self.by_rows(job)]
        found = {self.method.grain_of(job.shared) for job in jobs}
        return "tensor" if "tensor" in found else "entry"


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
            roles that the model does not have, weights that cannot be normalised, segments that do not fit the model.
    """
    if recipe.path is not None:
        raise InvalidInputError("path", f"{len(recipe.path.layers)} layers", "no path: this works on parameters alone")
    method = _method(recipe, tensors, architecture)
    sources = tuple(sorted(recipe.sources))
    depth = num_layers(recipe, architecture)
    _check_template(recipe)
    _check_count(method, recipe, sources)
    check(method, recipe.merge)
    check_calibration(method.name, method.requires, recipe)
    _check_rules(recipe, architecture, depth)
    resolved: dict[tuple[Part, tuple[str, ...]], tuple[Values, Mapping[str, Values]]] = {}
    jobs = []
    for at in placed(recipe, architecture):
        key = (at.part, tuple(sorted(at.sources)))
        if key not in resolved:
            resolved[key] = _resolve(method, recipe, key[1], at.part, depth)
        jobs.append(_job(recipe, method, at, tensors[at.like], changed, resolved[key], architecture, depth))
    found = Plan(method, sources, tuple(jobs), recipe.seed)
    if found.measures == "model":
        _check_same_sources(method, recipe)
    return found


def _method(recipe: Recipe, tensors: Mapping[str, TensorInfo], architecture: Architecture) -> Method:
    if recipe.segments is not None:
        return lineage(recipe, architecture, tensors)
    return find_method(recipe.merge)


def _job(
    recipe: Recipe,
    method: Method,
    at: Placed,
    info: TensorInfo,
    changed: Mapping[str, frozenset[str]],
    resolved: tuple[Values, Mapping[str, Values]],
    architecture: Architecture,
    depth: int,
) -> TensorJob:
    shared, per_source = resolved
    changing = tuple(s for s in sorted(at.sources) if at.sources[s] != at.base or at.sources[s] in changed[s])
    buffer = at.part.role == BUFFER or not is_merged(info)
    copy = buffer or not per_source or (not changing and method.keeps_base(shared))
    return TensorJob(
        name=at.name,
        dtype=info.dtype if buffer else DTYPES[recipe.dtype],
        buffer=buffer,
        copy=copy,
        shared=shared,
        per_source=per_source,
        changed=() if buffer else changing,
        part=at.part,
        num_layers=depth,
        transposed=at.part.role in architecture.transposed and len(info.shape) == 2,
        origin=None if recipe.slices is None else Origin(at.base, at.sources),
    )


def _resolve(
    method: Method, recipe: Recipe, sources: tuple[str, ...], part: Part, num_layers: int
) -> tuple[Values, Mapping[str, Values]]:
    shared, per_source = resolve(method, recipe.merge, sources, part, num_layers)
    if method.check is not None and sources:
        try:
            method.check(shared, per_source)
        except InvalidInputError as error:
            where = part.role if part.layer is None else f"{part.role} of layer {part.layer}"
            raise InvalidInputError(f"merge: {error.field} at {where}", error.value, error.allowed) from error
    return shared, per_source


def _check_count(method: Method, recipe: Recipe, sources: tuple[str, ...]) -> None:
    """As many sources as the method takes, in every slice, and a base where it cannot do without."""
    if recipe.slices is None:
        _check_number(method, "sources", sources)
        return
    if method.requires:
        allowed = f"no slices with method {method.name}, which reads statistics of whole models"
        raise InvalidInputError("slices", f"{len(recipe.slices)} slices", allowed)
    for number, part in enumerate(recipe.slices):
        if part.sources:
            _check_number(method, f"slices[{number}].sources", tuple(part.sources))
            if part.base is None and not _baseless(method, recipe, len(part.sources)):
                allowed = f"layers of the base: {method.name} of {len(part.sources)} source(s) needs it"
                raise InvalidInputError(f"slices[{number}].base", None, allowed)


def _check_same_sources(method: Method, recipe: Recipe) -> None:
    """What is measured over a whole model needs all of it."""
    parts = [(number, tuple(part.sources)) for number, part in enumerate(recipe.slices or ()) if part.sources]
    for number, names in parts:
        if names != parts[0][1]:
            allowed = f"{list(parts[0][1])} as in the other slices: here {method.name} measures over the whole model"
            raise InvalidInputError(f"slices[{number}].sources", list(names), allowed)


def _baseless(method: Method, recipe: Recipe, num_sources: int) -> bool:
    """Whether, whatever holds for a part of the model, the method does without the base."""
    common = {p.name: p.default for p in method.parameters if not p.per_source} | dict(recipe.merge.parameters)
    variants = [common, *(common | dict(rule.parameters) for rule in recipe.merge.rules if rule.source is None)]
    return all(method.baseless(num_sources, shared) for shared in variants)


def _check_number(method: Method, field: str, sources: tuple[str, ...]) -> None:
    least, most = method.num_sources
    if len(sources) < least or (most is not None and len(sources) > most):
        allowed = f"{least}" if least == most else f"{least} to {most}" if most is not None else f"{least} or more"
        raise InvalidInputError(field, list(sources), f"{allowed} source(s) for method {method.name}")


def _check_template(recipe: Recipe) -> None:
    template = recipe.chat_template
    if template not in (None, "auto") and "{" not in str(template):
        raise InvalidInputError("chat_template", template, "auto, or the text of a Jinja template")


def _check_rules(recipe: Recipe, architecture: Architecture, depth: int) -> None:
    for i, rule in enumerate(recipe.merge.rules):
        if rule.layers is not None and rule.layers[1] >= depth:
            allowed = f"layers 0 to {depth - 1} of {'the merged model' if recipe.slices else 'this model'}"
            raise InvalidInputError(f"merge.rules[{i}].layers", list(rule.layers), allowed)
        for pattern in rule.roles:
            if not any(role_matches(role, (pattern,)) for role in architecture.roles):
                allowed = f"roles of this model: {', '.join(architecture.roles)}"
                raise InvalidInputError(f"merge.rules[{i}].roles", pattern, allowed)
