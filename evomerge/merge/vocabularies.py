"""Base and sources in the vocabulary of the merged model: their embeddings and heads, row by row matched by token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge.vocabulary import (
    BASE,
    Merged,
    Table,
    Vocabulary,
    check_same,
    merged_tables,
    merged_vocabulary,
    same_files,
    vocabulary_of,
)
from evomerge.models.architecture import Architecture
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.finite import check_finite
from evomerge.models.source import VOCABULARY, AdapterSource, CheckpointSource, Source
from evomerge.models.weights import TensorInfo
from evomerge.recipe.schema import Recipe
from evomerge.recipe.shared import keeps_vocabulary, shared_fields

SAME = "same"


def in_one_vocabulary(
    recipe: Recipe, base: Checkpoint, sources: Mapping[str, Source], architecture: Architecture
) -> tuple[Base, dict[str, Source], Merged | None]:
    """Base and sources with the rows of embedding and head that the merged model has.

    Returns:
        base, sources and the merged vocabulary; the very same objects and None where nothing has to be done.

    Raises:
        InvalidInputError: vocabularies differ and the recipe says `same`; or a model lacks a tokenizer that is needed.
    """
    own = {name: source for name, source in sources.items() if _has_tables(source, architecture)}
    differing = {n: s for n, s in own.items() if not same_files(base.path, s.path)}
    asked = recipe.tokenizer != SAME
    if not differing and keeps_vocabulary(shared_fields(recipe)):
        return base, dict(sources), None
    known = {BASE: vocabulary_of(base.path), **{n: vocabulary_of(s.path) for n, s in differing.items()}}
    if not asked:
        for name, source in differing.items():
            check_same(name, known[BASE], known[name])
            _check_rows(name, source, base, architecture)
        if not recipe.tokens and not recipe.pad_to_multiple_of:
            return base, dict(sources), None
    if recipe.calibration is not None:
        allowed = "models of one vocabulary, where statistics of them are collected"
        raise InvalidInputError("tokenizer", recipe.tokenizer, allowed)
    return _Vocabularies(recipe, base, sources, own, _all_known(known, sources, asked=asked), architecture).applied()


def _has_tables(source: Source, architecture: Architecture) -> bool:
    return bool(_tables(architecture) & source.changed)


def _tables(architecture: Architecture) -> frozenset[str]:
    return frozenset(name for name, part in architecture.parts.items() if part.role in VOCABULARY)


def _num_rows(model: Checkpoint | Source, at: str) -> int:
    if isinstance(model, Checkpoint):
        return model.tensors[at].shape[0]
    return model.shape(at)[0] if isinstance(model, CheckpointSource) else len(model.weights(at))


def _check_rows(name: str, source: Source, base: Checkpoint, architecture: Architecture) -> None:
    """Equal tokens, but tables padded in another way."""
    for at in sorted(_tables(architecture) & source.changed):
        if (rows := _num_rows(source, at)) != _num_rows(base, at):
            allowed = f"{_num_rows(base, at)} rows as in the base; or `tokenizer: base`, which matches rows by token"
            raise InvalidInputError(f"sources.{name}", f"{at!r} with {rows} rows", allowed)


def _all_known(
    known: Mapping[str, Vocabulary | None], sources: Mapping[str, Source], *, asked: bool
) -> dict[str, Vocabulary]:
    base = known[BASE]
    if base is None:
        raise InvalidInputError(
            "tokenizer", "no tokenizer in the base's directory", "one, where rows are matched by token"
        )
    return {BASE: base, **{name: known.get(name) or base for name in sources}}


class _Vocabularies:
    """Tables of one recipe's models, made when they are read; those of one tensor are kept until the next."""

    def __init__(
        self,
        recipe: Recipe,
        base: Checkpoint,
        sources: Mapping[str, Source],
        own: Mapping[str, Source],
        vocabularies: Mapping[str, Vocabulary],
        architecture: Architecture,
    ) -> None:
        self.base, self.sources, self.own = base, sources, own
        self.names = _tables(architecture)
        wanted = BASE if recipe.tokenizer == SAME else recipe.tokenizer
        rows = {BASE: self._most_rows(base), **{n: self._most_rows(own.get(n, base)) for n in sources}}
        self.merged = merged_vocabulary(wanted, vocabularies, rows, recipe.tokens or {}, recipe.pad_to_multiple_of)
        self._tables: tuple[str, dict[str, Tensor]] = ("", {})

    def applied(self) -> tuple[Base, dict[str, Source], Merged]:
        """The models, seen through these tables."""
        for name, source in self.own.items():
            if isinstance(source, AdapterSource):
                raise InvalidInputError(
                    f"sources.{name}",
                    "an adapter that changes embedding or head",
                    "checkpoints, where `tokenizer` is set",
                )
        sources: dict[str, Source] = {n: _Source(s, self) if n in self.own else s for n, s in self.sources.items()}
        return RetokenizedBase(self.base, self), sources, self.merged

    def table(self, model: str, tensor: str) -> Tensor:
        """One model's rows of one tensor in the merged vocabulary, float32."""
        name, found = self._tables  # one read: another thread may put another tensor's there
        if name != tensor:
            stored = {BASE: self.base.read(tensor), **{n: s.weights(tensor) for n, s in self.own.items()}}
            tables = {n: Table(values, self.merged.rows_of(n, len(values))) for n, values in stored.items()}
            found = merged_tables(self.merged, tables)
            self._tables = (tensor, found)
        return found[model]

    def _most_rows(self, model: Checkpoint | Source) -> int:
        if isinstance(model, AdapterSource):  # refused in `applied`
            return self._most_rows(self.base)
        return max(_num_rows(model, at) for at in self.names)


class RetokenizedBase:
    """The base with other tables: they are made when they are read, all else is as stored."""

    def __init__(self, inner: Checkpoint, vocabularies: _Vocabularies) -> None:
        self.path, self.config, self._inner, self._vocabularies = inner.path, inner.config, inner, vocabularies

    @property
    def dtype(self) -> torch.dtype:
        """As the inner's."""
        return self._inner.dtype

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """As the inner's, with the merged number of rows."""
        rows, names = self._vocabularies.merged.num_rows, self._vocabularies.names
        return {
            name: replace(info, shape=(rows, *info.shape[1:])) if name in names else info
            for name, info in self._inner.tensors.items()
        }

    def read(self, name: str) -> Tensor:
        """Tables are rounded to the dtype that they are stored in: what a row's mean becomes, too."""
        if name not in self._vocabularies.names:
            return self._inner.read(name)
        return self._vocabularies.table(BASE, name).to(self._inner.tensors[name].dtype)

    def close(self) -> None:
        """Let the files go."""
        self._inner.close()


class _Source:
    """A checkpoint with other tables."""

    def __init__(self, inner: Source, vocabularies: _Vocabularies) -> None:
        self._inner, self._vocabularies = inner, vocabularies

    @property
    def name(self) -> str:
        """The recipe's name for it."""
        return self._inner.name

    @property
    def path(self) -> Path:
        """Its directory."""
        return self._inner.path

    @property
    def changed(self) -> frozenset[str]:
        """As the inner's."""
        return self._inner.changed

    @property
    def dtype(self) -> torch.dtype:
        """As the inner's."""
        return self._inner.dtype

    @property
    def factored(self) -> Mapping[str, int]:
        """A checkpoint has no factors."""
        return {}

    def factors(self, name: str, *, transposed: bool = False) -> None:
        """A checkpoint has no factors."""

    def delta(self, name: str) -> Tensor | None:
        """θk − θ0 in float32; 0 in rows that the source lacks."""
        if name not in self._vocabularies.names:
            return self._inner.delta(name)
        delta = self.weights(name).float() - self._vocabularies.table(BASE, name)
        check_finite(delta, name, f"source {self.name!r} ({self.path}) minus base")
        return delta

    def weights(self, name: str) -> Tensor:
        """θk; tables in float32."""
        if name not in self._vocabularies.names:
            return self._inner.weights(name)
        return self._vocabularies.table(self.name, name)

    def close(self) -> None:
        """Let the files go."""
        self._inner.close()


Base = Checkpoint | RetokenizedBase
"""A base model, as stored or with other tables."""
