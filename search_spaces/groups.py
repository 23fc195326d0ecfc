"""Which tensors share a gene: layers × roles of an architecture, cut into groups that do not overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from evomerge.errors import InvalidInputError
from evomerge.models.architecture import Architecture, Part
from evomerge.models.family import BUFFER
from evomerge.recipe.parameters import is_after_layers
from evomerge.recipe.schema import role_matches

REST = "*"
"""As a role in a search space: every role that no other group names."""

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors that share their genes.

    Attributes:
        layers: first and last layer; None is the whole depth, or a group that lies outside the layers.
        roles: role names or prefixes; empty is every role.
        selectors: `(layers, roles)` of the recipe's rules that cover the group and nothing else.
        inside: whether any of the tensors lies in a layer (so that knots over the depth mean something).
    """

    layers: Span | None
    roles: tuple[str, ...]
    selectors: tuple[tuple[Span | None, tuple[str, ...]], ...]
    inside: bool

    @property
    def whole(self) -> bool:
        """Whether this is the whole model."""
        return self.selectors == ((None, ()),)

    def holds(self, part: Part) -> bool:
        """Whether a tensor with this part in the model is one of the group."""
        return any(
            role_matches(part.role, roles) and (layers is None or _in(part.layer, layers))
            for layers, roles in self.selectors
        )

    @property
    def label(self) -> str:
        """For people: `layers 0-9/attention+norm`; empty for the whole model."""
        layers = [f"layers {self.layers[0]}-{self.layers[1]}"] if self.layers else []
        return "/".join(layers + (["+".join(self.roles)] if self.roles else []))


def make_groups(
    layers: int | Sequence[Span], roles: Sequence[Sequence[str]] | None, architecture: Architecture
) -> tuple[Group, ...]:
    """Cut a model into groups, layer by layer and role by role; groups without tensors are left out.

    A group that holds the first layer also holds the tensors before it (embeddings), one that holds the last layer
    those after it (final norm, head): nothing of the model is left to chance at its ends.

    Args:
        layers: number of groups of consecutive layers, as equal as can be; or their first and last layers.
        roles: groups of roles or prefixes of roles, `*` for the rest; None is one group of all.

    Raises:
        InvalidInputError: groups overlap, leave the model, or hold nothing; `field` is `layers` or `roles`.
    """
    spans = _layer_spans(layers, architecture.num_layers)
    role_groups = _role_groups(roles, sorted({part.role for part in _parts(architecture)}))
    groups = [_group(span, group, architecture) for span in spans for group in role_groups]
    return tuple(group for group in groups if group is not None)


def covers(groups: Sequence[Group], architecture: Architecture) -> bool:
    """Whether every tensor of the model lies in one of the groups."""
    return all(any(group.holds(part) for group in groups) for part in _parts(architecture))


def _parts(architecture: Architecture) -> set[Part]:
    """What is merged: neither buffers nor a head that is the embedding."""
    return {p for name, p in architecture.parts.items() if p.role != BUFFER and name not in architecture.tied}


def _in(layer: int | None, span: Span) -> bool:
    return layer is not None and span[0] <= layer <= span[1]


def _layer_spans(layers: int | Sequence[Span], num_layers: int) -> list[Span | None]:
    if isinstance(layers, int):
        if not 1 <= layers <= num_layers:
            raise InvalidInputError("layers", layers, f"1 to {num_layers} groups: the model has {num_layers} layers")
        if layers == 1:
            return [None]
        edges = [round(i * num_layers / layers) for i in range(layers + 1)]
        return [(first, last - 1) for first, last in pairwise(edges)]
    previous = -1
    for number, (first, last) in enumerate(layers):
        if not previous < first <= last < num_layers:
            allowed = f"[first, last] in rising order, without overlap, within layers 0 to {num_layers - 1}"
            raise InvalidInputError(f"layers[{number}]", [first, last], allowed)
        previous = last
    if not layers:
        raise InvalidInputError("layers", [], "at least one group of layers")
    return list(layers)


def _role_groups(roles: Sequence[Sequence[str]] | None, known: Sequence[str]) -> list[tuple[str, ...]]:
    if roles is None:
        return [()]
    if not roles:
        raise InvalidInputError("roles", [], "at least one group of roles, or null for one group of all")
    owner: dict[str, int] = {}
    for number, group in enumerate(roles):
        for pattern in group:
            _claim(pattern, number, known, owner)
    rest = tuple(role for role in known if role not in owner)
    if sum(REST in group for group in roles) > 1:
        raise InvalidInputError("roles", [list(g) for g in roles], f"{REST!r} at most once")
    groups = [_named(group) + (_shortest(rest, known) if REST in group else ()) for group in roles]
    if () in groups:
        number = groups.index(())
        raise InvalidInputError(f"roles[{number}]", list(roles[number]), "a group that is not empty")
    return groups


def _named(group: Sequence[str]) -> tuple[str, ...]:
    return tuple(pattern for pattern in group if pattern != REST)


def _claim(pattern: str, number: int, known: Sequence[str], owner: dict[str, int]) -> None:
    matched = [role for role in known if role_matches(role, (pattern,))]
    if not matched and pattern != REST:
        raise InvalidInputError(f"roles[{number}]", pattern, f"a role of this model or a prefix: {', '.join(known)}")
    for role in matched:
        if owner.setdefault(role, number) != number:
            raise InvalidInputError(f"roles[{number}]", pattern, f"groups that do not overlap: {role!r} is in two")


def _shortest(roles: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """`roles` by prefixes where a first part (`attention`) is there in full."""
    short: list[str] = []
    for role in roles:
        prefix = role.partition(".")[0]
        family = [r for r in known if role_matches(r, (prefix,))]
        name = prefix if set(family) <= set(roles) else role
        if name not in short:
            short.append(name)
    return tuple(short)


def _group(span: Span | None, roles: tuple[str, ...], architecture: Architecture) -> Group | None:
    parts = {
        (part.role, part.layer is not None)
        for part in _parts(architecture)
        if role_matches(part.role, roles)
        and (span is None or _in(part.layer, span) or (part.layer is None and _end(part.role, span, architecture)))
    }
    inside = any(in_layer for _, in_layer in parts)
    outside = tuple(sorted({role for role, in_layer in parts if not in_layer}))
    if not parts:
        return None
    if span is None:
        return Group(None, roles, ((None, roles),), inside)
    selectors: list[tuple[Span | None, tuple[str, ...]]] = [(span, roles)] if inside else []
    if outside:
        selectors.append((None, outside))
    if not inside:
        return Group(None, outside, tuple(selectors), inside=False)
    return Group(span, roles, tuple(selectors), inside=True)


def _end(role: str, span: Span, architecture: Architecture) -> bool:
    """Whether a tensor outside the layers goes with this span: it lies beyond the end that the span holds."""
    return span[1] == architecture.num_layers - 1 if is_after_layers(role) else span[0] == 0
