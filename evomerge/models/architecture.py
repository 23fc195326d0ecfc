"""The architecture map: which tensor plays which part in which layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from evomerge.errors import ArchitectureError
from evomerge.models.family import BUFFER, Family, families, fill_numbers, split_numbers
from evomerge.models.inferred import TEXT, inferred
from evomerge.models.weights import some


@dataclass(frozen=True, slots=True)
class Part:
    """What one tensor does.

    Attributes:
        role: `embedding`, `attention.q`, `mlp.down`, `norm.final`, …; `buffer` for what is copied, never merged.
        layer: from 0; None outside the layers.
        expert: from 0; None where the tensor belongs to no expert of a mixture.
    """

    role: str
    layer: int | None
    expert: int | None = None


@dataclass(frozen=True, slots=True)
class Architecture:
    """One model's tensors and their parts.

    Attributes:
        kind: the family: names and what they mean.
        num_layers: the config's number of layers; every one is there.
        num_experts: of each layer that is a mixture of experts; 0 where there is none.
        parts: tensor name, as the checkpoint spells it → its part.
        tied: head → embedding, where one tensor is both. The head's name may or may not be among `parts`.
    """

    kind: Family
    num_layers: int
    parts: Mapping[str, Part]
    tied: Mapping[str, str]
    _names: Mapping[str, str] = field(repr=False)
    num_experts: int = 0

    @property
    def family(self) -> str:
        """The config's `model_type`."""
        return self.kind.name

    @property
    def roles(self) -> tuple[str, ...]:
        """Every role that occurs, sorted, buffers apart."""
        return tuple(sorted({part.role for part in self.parts.values()} - {BUFFER}))

    @property
    def transposed(self) -> frozenset[str]:
        """Roles whose matrices this family stores as (in × out)."""
        return self.kind.transposed

    def find(self, name: str) -> str | None:
        """This checkpoint's name of a tensor that may be spelled in another of the family's ways.

        Other checkpoints leave a prefix off; live models call GPT-NeoX's `embed_out` `lm_head`; a tied head is the
        embedding. None where there is no such tensor here.
        """
        canonical = self.kind.canonical(name)
        if canonical is None:
            return None
        found = self._names.get(canonical)
        return self.tied.get(found or canonical, found)

    def parts_of(self, name: str, live: Tensor) -> dict[str, Tensor]:
        """A live model's tensor as this checkpoint's tensors: name here → a view of the live one.

        One tensor, but for the stacks that transformers makes of the experts of a layer: those hold a matrix, or two
        under each other, of every expert. Empty where the checkpoint has nothing of it.
        """
        family = self.kind
        template, layer, _ = split_numbers(name if name.startswith(family.prefix) else family.prefix + name)
        if template not in family.fused:
            at = self.find(name)
            return {} if at is None else {at: live}
        views: dict[str, Tensor] = {}
        for expert, stacked in enumerate(live):
            parts = family.fused[template]
            for part, view in zip(parts, stacked.chunk(len(parts)), strict=True):
                at = self.find(fill_numbers(part, layer, expert))
                views |= {} if at is None else {at: view}
        return views


def architecture_of(config: Mapping[str, Any], names: Iterable[str]) -> Architecture:
    """Map tensor names to their parts.

    Args:
        config: config.json.
        names: the checkpoint's tensor names.

    Raises:
        ArchitectureError: a tensor has no role in its family, a layer or one of its tensors is missing; of a family
            that nobody described, as `inferred`.
    """
    names = list(names)
    kind = config.get("model_type")
    family = families().get(kind) if isinstance(kind, str) else None
    if family is None:
        return _inferred(config, names)
    num_layers = _num_layers(family, config)
    stored = _canonical_names(family, names)
    parts = {at: _part(family, canonical) for canonical, at in stored.items()}
    num_experts = family.num_experts(config)
    _check_complete(family, num_layers, stored)
    _check_experts(num_experts, stored)
    tied = _tied(family, config, stored)
    return Architecture(family, num_layers, parts, tied, stored, num_experts)


def _inferred(config: Mapping[str, Any], names: list[str]) -> Architecture:
    """Of a family that nobody described."""
    family, num_layers = inferred(config, names)
    stored = _canonical_names(family, names)
    parts = {at: _inferred_part(family, canonical, num_layers) for canonical, at in stored.items()}
    return Architecture(family, num_layers, parts, _tied(family, config, stored), stored)


def _inferred_part(family: Family, canonical: str, num_layers: int) -> Part:
    part = _part(family, canonical)
    inside = part.layer is not None and any(canonical.startswith(f"{stack}{part.layer}.") for stack in family.stacks)
    if inside and part.layer is not None and part.layer < num_layers:
        return Part(part.role, part.layer)
    return Part(f"other.{part.role}" if inside else part.role, None)


def _num_layers(family: Family, config: Mapping[str, Any]) -> int:
    number = config.get(family.layers)
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ArchitectureError(f"config.json: {family.layers} is {number!r}; expected a whole number from 1")
    return number


def _canonical_names(family: Family, names: Iterable[str]) -> dict[str, str]:
    """Canonical name → name as stored, in the order of `names`."""
    stored: dict[str, str] = {}
    unknown: list[str] = []
    for name in names:
        canonical = family.canonical(name)
        if canonical is None:
            unknown.append(name)
        elif canonical in stored:
            raise ArchitectureError(f"tensors {stored[canonical]!r} and {name!r} are the same tensor of {family.title}")
        else:
            stored[canonical] = name
    if unknown:
        raise ArchitectureError(f"{some(unknown, 5)}: no such tensor in the family {family.name!r} ({family.title})")
    return stored


def _part(family: Family, canonical: str) -> Part:
    role = family.role(canonical)
    assert role is not None, canonical  # `canonical` gives only names that have one
    _, layer, expert = split_numbers(canonical)
    return Part(role, layer, expert)


def _check_complete(family: Family, num_layers: int, stored: Mapping[str, str]) -> None:
    """Every layer from 0 is there with all its weights, and what one layer has, all have."""
    templates: dict[int | None, set[str]] = {number: set() for number in (None, *range(num_layers))}
    for canonical, at in stored.items():
        template, number, _ = split_numbers(canonical)
        if number not in templates:
            raise ArchitectureError(f"tensor {at!r}: config.json says {family.layers} {num_layers}")
        if template not in family.buffers:
            templates[number].add(template)
    outside = templates.pop(None)
    if lacking := sorted(family.weights(in_layers=False) - {family.head} - outside):
        raise ArchitectureError(f"the checkpoint lacks {some(lacking)}")
    whole = family.weights(in_layers=True).union(*templates.values())
    for number, found in templates.items():
        if lacking := sorted(whole - found - family.foreign(found)):
            raise ArchitectureError(f"layer {number} of {num_layers} lacks {some(lacking)}")
        if extra := sorted(found & family.foreign(found)):
            raise ArchitectureError(f"layer {number} has {some(extra)} although it is a mixture of experts")


def _check_experts(num_experts: int, stored: Mapping[str, str]) -> None:
    experts: dict[tuple[str, int | None], set[int]] = {}
    for canonical in stored:
        template, layer, expert = split_numbers(canonical)
        if expert is not None:
            experts.setdefault((template, layer), set()).add(expert)
    for (template, layer), found in experts.items():
        if lacking := sorted(set(range(num_experts)) - found):
            names = [fill_numbers(template, layer, expert) for expert in lacking]
            raise ArchitectureError(f"the checkpoint lacks {some(names)}; config.json says {num_experts} experts")
        if max(found) >= num_experts:
            name = fill_numbers(template, layer, max(found))
            raise ArchitectureError(f"tensor {name!r}: config.json says {num_experts} experts")


def _tied(family: Family, config: Mapping[str, Any], stored: Mapping[str, str]) -> dict[str, str]:
    has_head = family.head in stored
    if family.inferred:
        return _tied_by_config(family, config, stored)
    says = config.get("tie_word_embeddings")
    if says or (says is None and (family.tied_by_default or not has_head)):
        return {stored.get(family.head, family.head): stored[family.embedding]}
    if not has_head:
        raise ArchitectureError(f"the checkpoint lacks the head {family.head!r}, and config.json does not tie it")
    return {}


def _tied_by_config(family: Family, config: Mapping[str, Any], stored: Mapping[str, str]) -> dict[str, str]:
    """Of a family that nobody described: a head that is stored is merged as it is, whatever the config says of it."""
    if family.embedding not in stored or family.head in stored:
        return {}
    sections = [config, *(config[key] for key in TEXT if isinstance(config.get(key), Mapping))]
    says = next((found for section in sections if (found := section.get("tie_word_embeddings")) is not None), None)
    return {} if says is False else {family.head: stored[family.embedding]}
