"""A model as one long vector (or several): the order of its entries, and the places where it may be split.

The order `layers/1` is not that of any file: embeddings first, then layer by layer, in every layer the parts as data
flows through them, then the final norm and the head; in a part expert by expert, the weight before the bias. It never
changes: recipes name it.

Source: Abrantes et al. 2025, M2N2, arXiv:2508.16204, section 3 (split points; several chromosomes in section 5.3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from evomerge.errors import InvalidInputError
from evomerge.models.architecture import Architecture, Part
from evomerge.models.checkpoint import TensorInfo, is_merged
from evomerge.models.family import BUFFER
from evomerge.recipe.parameters import is_after_layers
from evomerge.recipe.schema import role_matches

Granularity = Literal["exact", "row", "tensor", "layer"]
IntArray = npt.NDArray[np.int64]

ROLES = (
    "embedding", "position",
    "norm.attention", "attention.q", "attention.k", "attention.v", "attention.qkv", "norm.q", "norm.k", "attention.o",
    "norm.attention.post",
    "norm.mlp", "mlp.router", "mlp.gate", "mlp.up", "mlp.gate_up", "mlp.down",
    "mlp.expert.gate", "mlp.expert.up", "mlp.expert.down",
    "mlp.shared.router", "mlp.shared.gate", "mlp.shared.up", "mlp.shared.down",
    "norm.mlp.post",
    "norm.final", "head",
)  # fmt: skip
"""The order of parts within a layer, and before and after the layers. A role that is not here comes behind those that
are; new ones may be added at the end alone."""
_RANKS = {role: rank for rank, role in enumerate(ROLES)}

SortKey = tuple[int, int, int, str, int, bool, str]


@dataclass(frozen=True, slots=True)
class FlatTensor:
    """A tensor in its place.

    Attributes:
        name: as the base spells it.
    """

    name: str
    part: Part
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Entries."""
        return int(np.prod(self.shape, dtype=np.int64))


def sort_key(name: str, part: Part) -> SortKey:
    """What the order `layers/1` sorts by."""
    stage = 1 if part.layer is not None else 2 if is_after_layers(part.role) else 0
    rank = _RANKS.get(part.role, len(ROLES))
    expert = -1 if part.expert is None else part.expert
    return (stage, part.layer or 0, rank, part.role, expert, name.endswith(".bias"), name)


def flat_order(architecture: Architecture, tensors: Mapping[str, TensorInfo]) -> tuple[FlatTensor, ...]:
    """All tensors that are merged, in order: neither buffers nor a head that is the embedding."""
    found = [
        FlatTensor(name, part, tensors[name].shape)
        for name, part in architecture.parts.items()
        if part.role != BUFFER and name not in architecture.tied and is_merged(tensors[name])
    ]
    return tuple(sorted(found, key=lambda tensor: sort_key(tensor.name, tensor.part)))


class Chromosome:
    """Tensors as one vector.

    Attributes:
        tensors: in their order.
        starts: position of the first entry of each tensor, and the vector's length behind them.
    """

    def __init__(self, tensors: Sequence[FlatTensor]) -> None:
        self.tensors = tuple(tensors)
        self.starts: IntArray = np.concatenate([[0], np.cumsum([t.size for t in tensors], dtype=np.int64)])
        self._numbers = {tensor.name: number for number, tensor in enumerate(tensors)}

    @property
    def length(self) -> int:
        """Entries."""
        return int(self.starts[-1])

    def place(self, position: int) -> tuple[str, int]:
        """The tensor that an entry lies in, and its number there."""
        number = int(np.searchsorted(self.starts, position, side="right")) - 1
        return self.tensors[number].name, position - int(self.starts[number])

    def position(self, name: str, entry: int) -> int | None:
        """Where an entry of a tensor lies; None where the tensor is not here or has no such entry."""
        number = self._numbers.get(name)
        if number is None or not 0 <= entry < self.tensors[number].size:
            return None
        return int(self.starts[number]) + entry

    def number_of(self, name: str) -> int | None:
        """Of a tensor; None where it is not here."""
        return self._numbers.get(name)


def owner(role: str, groups: Sequence[tuple[str, ...]]) -> int | None:
    """Which group of roles a role belongs to: the one that names it or a prefix, else the one that names nothing."""
    named = [number for number, roles in enumerate(groups) if roles and role_matches(role, roles)]
    rest = [number for number, roles in enumerate(groups) if not roles]
    return next(iter(named + rest), None)


def chromosomes(
    order: Sequence[FlatTensor], groups: Sequence[tuple[str, ...]], where: str = "chromosomes"
) -> tuple[Chromosome, ...]:
    """The order cut by roles.

    Args:
        groups: of each chromosome the roles or prefixes; empty for what no other names.
        where: what to call the groups in an error.

    Raises:
        InvalidInputError: a role is in two groups or in none, a name is no role of this model, or a group is empty.
    """
    roles = sorted({tensor.part.role for tensor in order})
    _check_groups(roles, groups, where)
    owners = {role: owner(role, groups) for role in roles}
    parts = [Chromosome([t for t in order if owners[t.part.role] == number]) for number in range(len(groups))]
    for number, part in enumerate(parts):
        if not part.tensors:
            raise InvalidInputError(f"{where}[{number}].roles", list(groups[number]), "roles that other groups leave")
    return tuple(parts)


def _check_groups(roles: Sequence[str], groups: Sequence[tuple[str, ...]], where: str) -> None:
    known = ", ".join(roles)
    for number, group in enumerate(groups):
        for pattern in group:
            matched = [role for role in roles if role_matches(role, (pattern,))]
            if not matched:
                raise InvalidInputError(
                    f"{where}[{number}].roles", pattern, f"a role of this model or a prefix: {known}"
                )
            twice = [r for r in matched if any(o and role_matches(r, o) for n, o in enumerate(groups) if n != number)]
            if twice:
                allowed = f"groups that do not overlap: {twice[0]!r} is in two"
                raise InvalidInputError(f"{where}[{number}].roles", pattern, allowed)
    if left := [role for role in roles if owner(role, groups) is None]:
        raise InvalidInputError(where, [list(g) for g in groups], f"every role of this model, also {left[0]!r}")


class Units:
    """The places at which a chromosome may be split: before each entry, each row of a matrix (tensors that are no
    matrices stay whole), each tensor, or each layer (what lies before the layers is one, and what lies after)."""

    def __init__(self, chromosome: Chromosome, granularity: Granularity) -> None:
        runs = _runs(chromosome, granularity)
        self._positions = np.array([position for position, _, _ in runs], np.int64)
        self._steps = np.array([step for _, _, step in runs], np.int64)
        self._numbers: IntArray = np.concatenate([[0], np.cumsum([n for _, n, _ in runs], dtype=np.int64)])

    @property
    def number(self) -> int:
        """How many there are."""
        return int(self._numbers[-1])

    def position(self, unit: int) -> int:
        """The position of the first entry behind a place, `unit` in [0, number)."""
        run = int(np.searchsorted(self._numbers, unit, side="right")) - 1
        return int(self._positions[run] + (unit - self._numbers[run]) * self._steps[run])


def _runs(chromosome: Chromosome, granularity: Granularity) -> list[tuple[int, int, int]]:
    """(position of the first unit, number of units, entries in each)."""
    if granularity == "exact":
        return [(0, chromosome.length, 1)]
    tensors = list(zip(chromosome.tensors, map(int, chromosome.starts[:-1]), strict=True))
    if granularity == "row":
        return [(at, *((t.shape[0], t.size // t.shape[0]) if len(t.shape) > 1 else (1, t.size))) for t, at in tensors]
    if granularity == "tensor":
        return [(at, 1, t.size) for t, at in tensors]
    first: dict[tuple[int, int], int] = {}
    for tensor, at in tensors:
        first.setdefault(sort_key(tensor.name, tensor.part)[:2], at)
    return [(at, 1, 1) for at in first.values()]
