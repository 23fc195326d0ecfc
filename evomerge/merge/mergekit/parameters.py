"""mergekit's four levels of parameters as a recipe's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from evomerge.errors import InvalidInputError
from evomerge.merge.mergekit.config import Config, Input, Model, Settings
from evomerge.merge.mergekit.inputs import MergedPart
from evomerge.merge.mergekit.methods import IGNORED, METHODS, Correspondence, Term
from evomerge.merge.mergekit.settings import evaluate, gradients, varies
from evomerge.merge.mergekit.shape import Shape, in_layers
from evomerge.merge.mergekit.tables import ANY, Column, Statements, Table, means, merge_of
from evomerge.merge.methods import method as method_named
from evomerge.merge.parameters import check
from evomerge.models.family import LAYER
from evomerge.recipe.parameters import Scalar, is_after_layers
from evomerge.recipe.schema import Merge

BEFORE, AFTER = "embedding", "norm.final"
"""Roles that stand for what is before and after the layers where a model's own are not known."""


@dataclass(frozen=True)
class Reading:
    """One configuration's parameters.

    Attributes:
        names: model → its name as a source.
        shape: the tensors that filters are matched against.
    """

    config: Config
    base: Model
    parts: Sequence[MergedPart]
    names: Mapping[Model, str]
    shape: Shape

    @cached_property
    def method(self) -> Correspondence:
        """The method as both programs have it."""
        return METHODS[self.config.method]

    @cached_property
    def num_layers(self) -> int:
        """Of the merged model; 1 where `models:` does not tell and nothing depends on it."""
        if self.config.sliced:
            return sum(part.num_layers for part in self.parts)
        return self.shape.num_layers or 1

    def merge(self) -> Merge:
        """The merge part.

        Raises:
            InvalidInputError: a value is missing, illegal, or cannot be said by layer and role.
        """
        self._note_unknown()
        shared = Statements(None, self.num_layers, self.shape.roles)
        sources = [Statements(name, self.num_layers, self.shape.roles) for name in self.names.values()]
        tables: list[tuple[str | None, str, Table]] = []
        for term in self.method.terms:
            tables += [
                (source, term.name, self._table(term, source))
                for source in (self.names.values() if term.per_source else [None])
            ]
        for source, name, table in tables:
            statements = next(s for s in (shared, *sources) if s.source == source)
            statements.add(name, table)
            if not self.shape.templates and not {BEFORE, AFTER}.isdisjoint(statements.by_role):
                raise self._needs_shape(name)
        merge = merge_of(self.config.method, shared, sources, self._fixed())
        wrong = [name for source, name, table in tables if not means(merge, source, name, table, self.num_layers)]
        assert not wrong, f"{wrong} came out with other values than were read"
        self._check(merge)
        return merge

    def _fixed(self) -> dict[str, Scalar]:
        origin = {"origin": "base" if any(part.base is not None for part in self.parts) else "zero"}
        return {**self.method.fixed, **(origin if self.method.base == "optional" else {})}

    def _table(self, term: Term, source: str | None) -> Table:
        """A parameter's value wherever it is asked for."""
        inside: dict[str, list[Scalar | None]] = {}
        outside: dict[str, Scalar | None] = {}
        written: list[tuple[float, ...]] = []
        templates = self.shape.templates or {f"{LAYER}.": ANY, "before.": BEFORE, "after.": AFTER}
        first = 0
        for number, part in enumerate(self.parts):
            at = self._input(part, term, source)
            levels = self._levels(part, at, term)
            if not self.shape.templates and any(_filtered(settings, term) for settings in levels):
                raise self._needs_shape(term.name)
            written += self._written(levels, term)
            layers = part.num_layers if self.config.sliced else self.num_layers
            absent = source is not None and at is None
            for template, role in templates.items():
                column = inside.setdefault(role, [None] * self.num_layers) if in_layers(template) else None
                if absent:
                    continue
                if column is None:
                    if number == (len(self.parts) - 1 if is_after_layers(role) else 0):
                        value = self._value(term, levels, template, 0.0, part)
                        self._agree(outside.get(role), value, term, template)
                        outside[role] = value
                    continue
                for offset in range(layers):
                    t = offset / (layers - 1) if layers > 1 else 1.0
                    layer = self._number(term, at, first, offset)
                    value = self._value(term, levels, template.replace(LAYER, str(layer)), t, part)
                    self._agree(column[first + offset], value, term, template)
                    column[first + offset] = value
            first += layers
        columns: dict[str, Column] = {role: tuple(column) for role, column in inside.items()}
        return Table(columns, outside, written)

    def _input(self, part: MergedPart, term: Term, source: str | None) -> Input | None:
        """The input whose own parameters count; None: none, or the source takes no part."""
        if term.joined:
            return next(iter(part.sources.values()))
        return next((at for model, at in part.sources.items() if self.names[model] == source), None)

    def _levels(self, part: MergedPart, at: Input | None, term: Term) -> list[Settings]:
        own = [at.settings] if at is not None and (term.per_source or term.joined) else []
        return [*own, part.part.settings, self.config.settings]

    def _number(self, term: Term, at: Input | None, first: int, offset: int) -> int:
        """The layer in the name that filters are matched against: the model's own, or the merged one's."""
        if at is None or at.layers is None or not (term.per_source or term.joined):
            return first + offset
        return at.layers[0] + offset

    def _value(self, term: Term, levels: Sequence[Settings], tensor: str, t: float, part: MergedPart) -> Scalar:
        for settings in levels:
            if term.name not in settings:
                continue
            setting = settings[term.name]
            try:
                value = evaluate(setting.value, tensor, t, term.kind)
            except ValueError as error:
                raise self.config.refuse(setting.path, setting.value, str(error)) from error
            if value is not None:
                return term.ours(1 - value if self._flipped(part) else value)
        if term.default is None:
            allowed = f"a value for {tensor or 'every tensor'}: mergekit has no default"
            raise self.config.refuse(("parameters", term.name), None, allowed)
        return term.ours(term.default)

    def _flipped(self, part: MergedPart) -> bool:
        """Whether slerp's ends come in the other order: with us two sources stand in the order of their names."""
        if self.method.base != "end" or part.base is not None:
            return False
        start = part.part.base if part.part.base is not None else self.config.base
        return start is not None and self.names[start] != min(self.names[model] for model in part.sources)

    def _agree(self, before: Scalar | None, value: Scalar, term: Term, template: str) -> None:
        if before is not None and before != value:
            allowed = f"filters that give all tensors of {template.rpartition('.')[0]!r} and its like one value"
            raise self.config.refuse(self._path(term.name), value, allowed)

    def _path(self, name: str) -> tuple[str | int, ...]:
        """Where a parameter stands first."""
        stacks = [at.settings for part in self.config.parts for at in part.inputs]
        stacks += [*(part.settings for part in self.config.parts), self.config.settings]
        return next((settings[name].path for settings in stacks if name in settings), ("parameters", name))

    def _needs_shape(self, name: str) -> InvalidInputError:
        path = self._path(name)
        allowed = f"one value, or {self.base} on this machine, or its config.json (--config)"
        return self.config.refuse(path, "values that depend on the tensor", allowed)

    def _written(self, levels: Sequence[Settings], term: Term) -> Iterator[tuple[float, ...]]:
        settings = [s[term.name].value for s in levels if term.name in s]
        for knots in gradients(settings):
            yield knots
            if self.method.base == "end":
                yield tuple(1 - knot for knot in knots)

    def _check(self, merge: Merge) -> None:
        try:
            check(method_named(merge.method), merge)
        except InvalidInputError as error:
            name = error.field.rpartition(".")[2]
            raise self.config.refuse(self._path(name), error.value, error.allowed) from error

    def _note_unknown(self) -> None:
        known = {term.name for term in self.method.terms} | set(IGNORED)
        stacks = [self.config.settings, *(part.settings for part in self.config.parts)]
        stacks += [at.settings for part in self.config.parts for at in part.inputs]
        unknown = {name for settings in stacks for name in settings} - known
        self.config.notes.extend(
            f"parameters.{name}: read over, as mergekit does: {self.config.method} has no such parameter"
            for name in sorted(unknown)
        )


def _filtered(settings: Settings, term: Term) -> bool:
    """Whether a parameter depends on the tensor by more than the slice it is in."""
    return term.name in settings and varies(settings[term.name].value)
