"""Values of a parameter at every tensor, as what a recipe states: one value, knots, and rules for what differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from evomerge.recipe.parameters import Scalar, at_depth, stated
from evomerge.recipe.schema import Merge, Parameters, ParameterValue, Rule

ANY = ""
"""Stands for the role of every tensor in a layer where a model's own roles are not known."""

Column = tuple[Scalar | None, ...]
"""Values over the layers of the merged model; None where any will do."""


@dataclass(frozen=True, slots=True)
class Table:
    """One parameter, of one source or of all.

    Attributes:
        inside: role → its values in the layers.
        outside: role outside the layers → its value; None where any will do.
        written: gradients that it may have been written as.
    """

    inside: Mapping[str, Column]
    outside: Mapping[str, Scalar | None]
    written: Sequence[tuple[float, ...]] = ()

    def entries(self) -> Iterable[tuple[str, int | None, Scalar]]:
        """Role, layer and value wherever one is asked for."""
        for role, column in self.inside.items():
            yield from ((role, layer, value) for layer, value in enumerate(column) if value is not None)
        yield from ((role, None, value) for role, value in self.outside.items() if value is not None)


@dataclass(frozen=True, slots=True)
class Statement:
    """A value for some layers (None: all tensors) of a role."""

    layers: tuple[int, int] | None
    name: str
    value: ParameterValue


@dataclass(slots=True)
class Statements:
    """What a recipe says about one source, or about all (`source` None) of a model with these roles."""

    source: str | None
    num_layers: int
    roles: Sequence[str]
    defaults: Parameters = field(default_factory=dict)
    by_role: dict[str, list[Statement]] = field(default_factory=dict)

    def add(self, name: str, table: Table) -> None:
        """State a parameter: what most tensors have for all, the rest by role."""
        if not any(True for _ in table.entries()):
            return
        default = self._default(table)
        self.defaults[name] = default
        for role in sorted({**table.inside, **table.outside}):
            said = [Statement(None, name, default), *self._said_above(role, name)]
            column = table.inside.get(role, ())
            if self._agree(said, role, column, table.outside.get(role)):
                continue
            if role == ANY:
                own = [Statement((first, last), name, v) for first, last, v in _runs(column) if v != default]
            elif role in table.inside:
                own = list(self._about(name, column, table.written))
            else:
                own = [Statement(None, name, value) for value in (table.outside[role],) if value is not None]
            self.by_role.setdefault(role, []).extend(own)

    def rules(self) -> list[Rule]:
        """The rules: roles of which the same is said together, unless one lies under another."""
        rules = []
        for roles, statements in self._groups():
            by_layers: dict[tuple[int, int] | None, Parameters] = {}
            for said in statements:
                by_layers.setdefault(said.layers, {})[said.name] = said.value
            for layers, parameters in by_layers.items():
                own = tuple(role for role in self._shortened(roles) if role != ANY)
                rules.append(Rule(layers=layers, roles=own, source=self.source, parameters=parameters))
        return rules

    def _shortened(self, roles: Sequence[str]) -> list[str]:
        """`attention` in place of all roles under it."""
        found: list[str] = []
        for top, group in groupby(sorted(roles), key=lambda role: role.partition(".")[0]):
            own = list(group)
            whole = len(own) > 1 and own == [r for r in sorted(self.roles) if r.partition(".")[0] == top]
            found += [top] if whole else own
        return found

    def _groups(self) -> list[tuple[list[str], list[Statement]]]:
        roles = sorted(self.by_role)
        if any(b.startswith(a + ".") for a in roles for b in roles):
            return [([role], self.by_role[role]) for role in roles]
        grouped: dict[tuple[Statement, ...], list[str]] = {}
        for role in roles:
            grouped.setdefault(tuple(self.by_role[role]), []).append(role)
        return [(together, list(said)) for said, together in grouped.items()]

    def _said_above(self, role: str, name: str) -> list[Statement]:
        """What roles above this one say, which holds for it too."""
        above = [r for r in sorted(self.by_role) if role.startswith(r + ".")]
        return [said for r in above for said in self.by_role[r] if said.name == name]

    def _default(self, table: Table) -> ParameterValue:
        if ANY in table.inside:  # nothing but layers can be told apart
            value = next((v for v in table.outside.values() if v is not None), None)
            return _most(table.inside[ANY]) if value is None else value
        columns = [column for column in table.inside.values() if any(v is not None for v in column)]
        if not columns:
            return _most(tuple(table.outside.values()))
        common = Counter(columns).most_common(1)[0][0]
        whole = self._in_one(common, table.written)
        return _most(common) if whole is None else whole

    def _about(self, name: str, column: Column, written: Sequence[tuple[float, ...]]) -> Iterable[Statement]:
        """A role's values in the layers."""
        whole = self._in_one(column, written)
        if whole is not None:
            yield Statement(None, name, whole)
            return
        for first, last, value in _runs(column):
            yield Statement((first, last), name, value)

    def _in_one(self, column: Column, written: Sequence[tuple[float, ...]]) -> ParameterValue | None:
        """One value, one of the gradients that were written, or a knot a layer; None where few layers differ, or where
        the values are no numbers."""
        values = {value for value in column if value is not None}
        if len(values) == 1:
            return values.pop()
        if any(isinstance(value, bool | str) for value in values):
            return None
        for knots in written:
            if self._agree([Statement(None, "", knots)], ANY, column, None):
                return knots
        filled = _filled(column)
        return None if len(_runs(filled)) <= max(2, len(filled) // 4) else filled

    def _agree(self, said: Sequence[Statement], role: str, column: Column, outside: Scalar | None) -> bool:
        """Whether these statements, later over earlier, give a role these values."""
        for layer, value in enumerate(column):
            holding = [s.value for s in said if s.layers is None or s.layers[0] <= layer <= s.layers[1]]
            if value is not None and not _equal(at_depth(holding[-1], role, layer, self.num_layers), value):
                return False
        everywhere = [s.value for s in said if s.layers is None]
        return outside is None or _equal(at_depth(everywhere[-1], role, None, self.num_layers), outside)


def merge_of(method: str, shared: Statements, sources: Sequence[Statements], fixed: Mapping[str, Scalar]) -> Merge:
    """The statements as a recipe's merge part."""
    return Merge(
        method=method,
        parameters={**shared.defaults, **fixed},
        sources={s.source: s.defaults for s in sources if s.source is not None and s.defaults},
        rules=tuple(rule for statements in (shared, *sources) for rule in statements.rules()),
    )


def means(merge: Merge, source: str | None, name: str, table: Table, num_layers: int) -> bool:
    """Whether a merge part gives a parameter the values of a table."""
    for role, layer, value in table.entries():
        found = stated(merge, role, layer, source).get(name)
        if found is None or not _equal(at_depth(found, role, layer, num_layers), value):
            return False
    return True


def _equal(a: Scalar, b: Scalar) -> bool:
    """Equal up to the rounding of an interpolation."""
    if isinstance(a, bool | str) or isinstance(b, bool | str):
        return a == b
    return abs(a - b) <= 1e-12 * max(abs(a), abs(b), 1.0)


def _most(column: Column) -> Scalar:
    return Counter(value for value in column if value is not None).most_common(1)[0][0]


def _runs(column: Column) -> list[tuple[int, int, Scalar]]:
    """First layer, last layer and value of every stretch of equal values; those without one belong to none."""
    runs, at = [], 0
    for value, stretch in groupby(column):
        length = len(list(stretch))
        if value is not None:
            runs.append((at, at + length - 1, value))
        at += length
    return runs


def _filled(column: Column) -> tuple[float, ...]:
    """Numbers, gaps filled with the value before (the first ones with the one after)."""
    known = next(value for value in column if value is not None)
    filled = []
    for value in column:
        known = known if value is None else value
        filled.append(float(known))
    return tuple(filled)
