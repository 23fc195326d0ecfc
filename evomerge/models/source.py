"""Source models: what is merged, seen as deltas of the base model and in its names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from evomerge.errors import ArchitectureError, CheckpointError
from evomerge.models.adapter import Adapter, is_adapter, open_adapter
from evomerge.models.architecture import Architecture, architecture_of
from evomerge.models.checkpoint import Checkpoint, is_merged, open_checkpoint
from evomerge.models.factors import Factors
from evomerge.models.family import BUFFER
from evomerge.models.finite import check_finite
from evomerge.models.weights import Place, some

VOCABULARY = ("embedding", "head")
"""Roles whose tensors have a row for each token."""


class Source(Protocol):
    """One source model. Tensor names are the base checkpoint's own."""

    @property
    def name(self) -> str:
        """The recipe's name for it."""

    @property
    def path(self) -> Path:
        """Its directory."""

    @property
    def changed(self) -> frozenset[str]:
        """Tensors that may differ from the base; never a buffer, never a tied head."""

    @property
    def factored(self) -> Mapping[str, int]:
        """Tensors whose delta is a product of two factors, which `factors` gives → its rank; empty for a checkpoint."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of most of its weights."""

    def factors(self, name: str, *, transposed: bool = False) -> Factors | None:
        """The factors of δ, the scale multiplied in; None where it has none.

        Args:
            transposed: the factors of δᵀ.

        Raises:
            NonFiniteError: one holds NaN or infinity.
        """

    def delta(self, name: str) -> Tensor | None:
        """δ = θk − θ0 in float32, new memory; None where the source leaves the tensor alone.

        Raises:
            NonFiniteError: it holds NaN or infinity.
        """

    def weights(self, name: str) -> Tensor:
        """θk: as stored for a checkpoint (not to be written to), base + δ in float32 for an adapter.

        Raises:
            NonFiniteError: it holds NaN or infinity.
        """

    def close(self) -> None:
        """Let the files go."""


class CheckpointSource:
    """A fine-tuned checkpoint."""

    def __init__(self, name: str, base: Checkpoint, checkpoint: Checkpoint, stored: Mapping[str, str]) -> None:
        self.name, self.path, self.dtype = name, checkpoint.path, checkpoint.dtype
        self._base, self._checkpoint, self._stored = base, checkpoint, stored
        same = checkpoint.path.resolve() == base.path.resolve()
        self.changed = frozenset() if same else frozenset(stored)
        self.factored: Mapping[str, int] = {}

    def factors(self, name: str, *, transposed: bool = False) -> Factors | None:
        """None: a checkpoint holds no factors."""
        return None

    def delta(self, name: str) -> Tensor | None:
        """θk − θ0, both widened to float32 first."""
        if name not in self.changed:
            return None
        stored = self._checkpoint.read(self._stored[name])
        delta = torch.sub(stored.float(), self._base.read(name).float())
        check_finite(delta, name, f"source {self.name!r} ({self.path}) minus base")
        return delta

    def weights(self, name: str) -> Tensor:
        """θk as stored."""
        stored = self.stored(name)
        check_finite(stored, name, self.whose)
        return stored

    def stored(self, name: str) -> Tensor:
        """θk as stored, not looked at yet."""
        return self._checkpoint.read(self._stored[name])

    def place(self, name: str) -> Place:
        """Where θk's bytes lie; valid until the source is closed."""
        return self._checkpoint.place(self._stored[name])

    @property
    def whose(self) -> str:
        """What to call it in an error."""
        return f"source {self.name!r} ({self.path})"

    def shape(self, name: str) -> tuple[int, ...]:
        """Of θk, without reading it: a table may have another number of rows than the base's."""
        return self._checkpoint.tensors[self._stored[name]].shape

    def close(self) -> None:
        """Let the files go."""
        self._checkpoint.close()


class AdapterSource:
    """An adapter of the base model."""

    def __init__(self, name: str, base: Checkpoint, adapter: Adapter, spelled: Mapping[str, str]) -> None:
        self.name, self.path, self.dtype = name, adapter.path, adapter.dtype
        self._base, self._adapter, self._spelled = base, adapter, spelled
        self.changed = frozenset(spelled)
        ranks = adapter.factored
        self.factored: Mapping[str, int] = {at: ranks[name] for at, name in spelled.items() if name in ranks}

    def factors(self, name: str, *, transposed: bool = False) -> Factors | None:
        """√(α/r)·A and √(α/r)·B."""
        if name not in self.factored:
            return None
        spelled = self._spelled[name]
        found = self._adapter.factors(spelled)
        return found if found is None or self._adapter.transposed(spelled) == transposed else found.turned

    def delta(self, name: str) -> Tensor | None:
        """(α/r)·B·A, or what the adapter's kind makes of it."""
        return self._adapter.delta(self._spelled[name], self._base.read(name)) if name in self._spelled else None

    def weights(self, name: str) -> Tensor:
        """θ0 + δ."""
        delta = self.delta(name)
        base = self._base.read(name)
        return base.float() if delta is None else delta.add_(base)

    def close(self) -> None:
        """Let the files go."""
        self._adapter.close()


def open_source(name: str, path: Path, base: Checkpoint, *, own_vocabulary: bool = False) -> Source:
    """Open a checkpoint or a LoRA adapter as a source of `base`.

    Args:
        name: the recipe's name for it, for messages.
        path: its directory.
        base: the open base model; the source reads it too.
        own_vocabulary: embedding and head may have another number of rows than the base's: the caller sees to it.

    Raises:
        CheckpointError: files are missing or corrupt.
        ArchitectureError: it does not fit the base: another family, other shapes, tensors missing or too many.
    """
    architecture = architecture_of_checkpoint(base)
    if is_adapter(path):
        adapter = open_adapter(path)
        return AdapterSource(name, base, adapter, _match_adapter(name, adapter, base, architecture))
    checkpoint = open_checkpoint(path)
    return CheckpointSource(
        name, base, checkpoint, _match_checkpoint(name, checkpoint, base, architecture, own_vocabulary)
    )


def architecture_of_checkpoint(checkpoint: Checkpoint) -> Architecture:
    """The architecture map of an open checkpoint, its tied head checked.

    Raises:
        ArchitectureError: as `architecture_of`, with the directory; or the config ties the head to the embedding while
            the file holds two tensors that differ.
    """
    if checkpoint in _KNOWN:
        return _KNOWN[checkpoint]
    try:
        architecture = architecture_of(checkpoint.config, checkpoint.tensors)
    except ArchitectureError as error:
        raise ArchitectureError(f"{checkpoint.path}: {error}") from error
    for head, embedding in architecture.tied.items():
        if head in checkpoint.tensors and not torch.equal(checkpoint.read(head), checkpoint.read(embedding)):
            raise ArchitectureError(
                f"{checkpoint.path}: config.json ties {head!r} to {embedding!r}, but the two differ; "
                "expected equal tensors, or `tie_word_embeddings: false`"
            )
    _KNOWN[checkpoint] = architecture
    return architecture


_KNOWN: WeakKeyDictionary[Checkpoint, Architecture] = WeakKeyDictionary()
"""Of open checkpoints: every source asks for the base's."""


def _match_checkpoint(
    name: str, source: Checkpoint, base: Checkpoint, architecture: Architecture, own_vocabulary: bool
) -> dict[str, str]:
    """Base tensor name → the source's own name of it."""
    other = architecture_of_checkpoint(source)
    _check_config(name, source, base, architecture, other)
    stored = {at: other.find(at) for at in base.tensors if _takes_part(at, base, architecture)}
    if lacking := sorted(at for at, found in stored.items() if found is None):
        raise ArchitectureError(f"source {name!r} ({source.path}) lacks {some(lacking)}, which the base model has")
    _check_extra(name, source, architecture, other)
    matched = {at: found for at, found in stored.items() if found is not None}
    for at, found in matched.items():
        shape = source.tensors[found].shape
        if own_vocabulary and architecture.parts[at].role in VOCABULARY:
            shape = (base.tensors[at].shape[0], *shape[1:])
        _check_shape(name, at, shape, base)
        if not is_merged(source.tensors[found]):
            raise CheckpointError(f"source {name!r} ({source.path}): {found!r} is {source.tensors[found].dtype}")
    return matched


def _takes_part(at: str, base: Checkpoint, architecture: Architecture) -> bool:
    return is_merged(base.tensors[at]) and architecture.parts[at].role != BUFFER and at not in architecture.tied


def _check_config(
    name: str, source: Checkpoint, base: Checkpoint, architecture: Architecture, other: Architecture
) -> None:
    mine, theirs = architecture.family, other.family
    if mine != theirs:
        raise ArchitectureError(f"source {name!r} is of the family {theirs!r}, the base model is {mine!r}")
    for key in (architecture.kind.layers, "num_attention_heads", "num_key_value_heads", "n_head", "head_dim"):
        expected, got = base.config.get(key), source.config.get(key)
        if expected is not None and got is not None and expected != got:
            raise ArchitectureError(f"source {name!r} has {key} {got}, the base model has {expected}")


def _check_extra(name: str, source: Checkpoint, architecture: Architecture, other: Architecture) -> None:
    """What the base has no place for would be lost: a bias, or a head of its own where the base's is tied."""
    extra = [
        at for at, part in other.parts.items()
        if part.role != BUFFER and at not in other.tied
        and (architecture.find(at) is None or (architecture.tied and other.kind.canonical(at) == other.kind.head))
    ]  # fmt: skip
    if extra:
        raise ArchitectureError(f"source {name!r} ({source.path}) has {some(extra)}, which the base model has not")


def _match_adapter(name: str, adapter: Adapter, base: Checkpoint, architecture: Architecture) -> dict[str, str]:
    """Base tensor name → the adapter's own name of it."""
    spelled: dict[str, str] = {}
    for at in sorted(adapter.names):
        found = architecture.find(at)
        if found is None:
            raise ArchitectureError(f"source {name!r} ({adapter.path}) adapts {at!r}, which the base model has not")
        if found in architecture.tied.values():
            raise ArchitectureError(
                f"source {name!r} ({adapter.path}) adapts {at!r}, which is tied: head and embedding are one tensor in "
                "the base model, and an adapter changes only one of the two"
            )
        _check_shape(name, found, adapter.shape(at) or base.tensors[found].shape, base)
        spelled[found] = at
    return spelled


def _check_shape(name: str, at: str, shape: tuple[int, ...], base: Checkpoint) -> None:
    expected = base.tensors[at].shape
    if shape != expected:
        raise ArchitectureError(
            f"tensor {at!r} of source {name!r} is {list(shape)}, in the base model it is {list(expected)}: "
            "these models cannot be merged tensor by tensor"
        )
