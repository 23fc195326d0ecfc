"""Numbers at every module and layer, as mergekit says them: one, a list over a slice's layers, or filters by names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.errors import InvalidInputError
from evomerge.models.family import LAYER
from evomerge.recipe.parameters import interpolate

Values = Mapping[str, tuple[float, ...]]
"""Module → a parameter's value in every layer of the merged model; one value for a module outside the layers."""


@dataclass(frozen=True, slots=True)
class Span:
    """Layers of the merged model that a slice makes.

    Attributes:
        begin, length: its first layer and how many there are.
        first, last: it is the first slice, whose models the tensors before the layers are merged from; the last one,
            of the tensors after them.
    """

    begin: int
    length: int
    first: bool
    last: bool

    def of(self, value: tuple[float, ...]) -> tuple[float, ...]:
        """A module's values in these layers."""
        return value[self.begin : self.begin + self.length] if len(value) > 1 else value


@dataclass(frozen=True, slots=True)
class Spelling:
    """One parameter in one slice.

    Attributes:
        values: in all modules.
        knots: lists that the recipe states.
    """

    values: Values
    span: Span
    knots: Sequence[tuple[float, ...]]

    def setting(self) -> Any:
        """One number, a list over the layers, or filters by parts of names before these."""
        values = self._here()
        inside = [value for module, value in values.items() if LAYER in module]
        common = Counter(inside).most_common(1)[0][0]
        # Outside the layers mergekit 0.1.5 reads every list at its first entry.
        odd = {m: v for m, v in values.items() if v != (common if LAYER in m else common[:1])}
        default = self._gradient(common)
        return [*self._filters(odd, values), {"value": default}] if odd else default

    def _here(self) -> dict[str, tuple[float, ...]]:
        """Values in this slice's layers, and outside them where they are merged from its models. A slice of one layer
        reads a list at its end, so that what is inside and outside differ only by filters."""
        found = {
            m: v[self.span.begin : self.span.begin + self.span.length] for m, v in self.values.items() if LAYER in m
        }
        outside = [m for m in self.values if LAYER not in m]
        return {m: self.values[m] for m in outside if self.span.first or self.span.last} | found

    def _filters(self, odd: Values, values: Values) -> list[dict[str, Any]]:
        """Filters in their order: the first whose text is part of a name holds. A module that no text tells apart
        comes after those that it would take along."""
        filters: list[dict[str, Any]] = []
        pending, undecided = dict(odd), dict(values)
        while pending:
            found = self._next(pending, undecided) or self._next(undecided, undecided)
            if found is None:
                allowed = "modules that mergekit can tell apart by a part of their names"
                raise InvalidInputError("merge.rules", next(iter(pending)), allowed)
            needle, matched = found
            filters.append({"filter": needle, "value": self._gradient(values[matched[0]])})
            pending, undecided = ({m: v for m, v in x.items() if m not in matched} for x in (pending, undecided))
        return filters

    def _next(self, wanted: Values, undecided: Values) -> tuple[str, list[str]] | None:
        """A part of the name of one of the wanted modules that only undecided modules of its value contain, the
        shortest of the usual ones; and these modules."""
        for module, value in wanted.items():
            for needle in _needles(module):
                matched = [m for m in undecided if needle in m]
                if all(undecided[m] == value for m in matched):
                    return needle, matched
        return None

    def _gradient(self, value: tuple[float, ...]) -> float | list[float]:
        """One number, the recipe's own knots, or a number a layer."""
        if len(set(value)) == 1:
            return value[0]
        last = self.span.length - 1
        for knots in self.knots:
            if value == tuple(interpolate(knots, layer / last) for layer in range(self.span.length)):
                return list(knots)
        return list(value)


def _needles(module: str) -> list[str]:
    """Parts of a module's name to look for, the preferred first: `self_attn`, `q_proj`, `self_attn.q_proj`."""
    tail = module.rpartition(f"{LAYER}.")[2]
    parts = tail.split(".")
    ends = [".".join(parts[at:]) for at in range(len(parts) - 1, -1, -1)]
    starts = [".".join(parts[:at]) for at in range(2, len(parts))]
    first = [parts[0], *ends, *starts] if LAYER in module else [*ends, *starts]
    return [needle for needle in first if needle and "{" not in needle]
