"""The tensors of a model by name, without its weights: what filters are matched against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evomerge.errors import ArchitectureError, CheckpointError
from evomerge.models.architecture import architecture_of
from evomerge.models.family import BUFFER, EXPERT, KINDS, LAYER, Family, families, split_numbers
from evomerge.models.weights import open_weights, read_json


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's layers and tensors.

    Attributes:
        num_layers: None: not known.
        templates: tensor's name with `{layer}` → role; empty: not known.
        dtype: of its weights by its config; None: not known.
    """

    num_layers: int | None
    templates: Mapping[str, str]
    dtype: str | None

    @property
    def roles(self) -> tuple[str, ...]:
        """Every role, sorted."""
        return tuple(sorted(set(self.templates.values())))

    def with_layers(self, num_layers: int) -> Shape:
        """The same with another number of layers."""
        return replace(self, num_layers=num_layers)


UNKNOWN = Shape(None, {}, None)


def shape_at(path: Path) -> Shape:
    """The shape of the model in a directory, or of a config.json alone.

    With a config alone the tensors are those of its family; which biases there are it does not say.

    Raises:
        CheckpointError, ArchitectureError: the config cannot be read, or its family is not known.
    """
    if path.is_file():
        return _of_family(read_json(path))
    config = read_json(path / "config.json")
    try:
        weights = open_weights(path, "model")
    except CheckpointError:
        return _of_family(config)
    try:
        return _of_names(config, list(weights.tensors))
    except ArchitectureError as error:
        raise ArchitectureError(f"{path}: {error}") from error
    finally:
        weights.close()


def _of_names(config: Mapping[str, Any], names: list[str]) -> Shape:
    architecture = architecture_of(config, names)
    family = architecture.kind
    templates: dict[str, str] = {}
    for name, part in architecture.parts.items():
        if part.role == BUFFER or name in architecture.tied:
            continue
        canonical = family.canonical(name)
        assert canonical is not None, "it has a role"
        templates[_template(canonical)] = part.role
    return Shape(architecture.num_layers, templates, _dtype(config))


def _template(name: str) -> str:
    """The layer's number cut out; an expert's stays, as filters may name experts."""
    template, _, expert = split_numbers(name)
    return template if expert is None else template.replace(EXPERT, str(expert))


def _of_family(config: Mapping[str, Any]) -> Shape:
    kind = config.get("model_type")
    family = families().get(kind) if isinstance(kind, str) else None
    if family is None:
        raise ArchitectureError(f"config.json: model_type {kind!r} is not one of {', '.join(families())}")
    number = config.get(family.layers)
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ArchitectureError(f"config.json: {family.layers} is {number!r}; expected a whole number from 1")
    return Shape(number, dict(_templates(family, config)), _dtype(config))


def _templates(family: Family, config: Mapping[str, Any]) -> list[tuple[str, str]]:
    tied = config.get("tie_word_embeddings", family.tied_by_default)
    experts = range(family.num_experts(config))
    found = []
    for module, role in family.modules.items():
        if tied and f"{module}.weight" == family.head:
            continue
        names = [module.replace(EXPERT, str(e)) for e in experts] if EXPERT in module else [module]
        found += [(f"{name}.{kind}", role) for name in names for kind in KINDS]
    return found


def _dtype(config: Mapping[str, Any]) -> str | None:
    value = config.get("dtype", config.get("torch_dtype"))
    return value if value in ("float32", "bfloat16", "float16") else None


def in_layers(template: str) -> bool:
    """Whether a tensor stands in a layer."""
    return LAYER in template
