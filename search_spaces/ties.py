"""Which sources, and which groups of tensors, share a gene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evomerge.errors import InvalidInputError

Tie = Literal["sources"] | tuple[tuple[str, ...], ...]
"""Lists of sources, or of groups by their labels; or `sources` for all sources."""


@dataclass(frozen=True, slots=True)
class Ties:
    """What is tied.

    Attributes:
        classes: source or label of a group → all that it shares a gene with, itself included; no entry: nothing.
    """

    classes: Mapping[str, tuple[str, ...]]

    def of(self, name: str | None) -> tuple[str, ...]:
        """Equal for two that share a gene. None, for what all sources share, is alone."""
        return () if name is None else self.classes.get(name, (name,))


def read_ties(tie: Tie | None, sources: Sequence[str], labels: Sequence[str]) -> Ties:
    """What a spec ties.

    Args:
        labels: of the groups of tensors, empty for the whole model.

    Raises:
        InvalidInputError: an unknown name, one that is in two lists, a list of one, or sources beside groups.
    """
    if tie is None:
        return Ties({})
    if tie == "sources":
        return Ties(dict.fromkeys(sources, tuple(sources)))
    classes: dict[str, tuple[str, ...]] = {}
    for number, names in enumerate(tie):
        _check(names, f"tie[{number}]", sources, labels)
        for name in names:
            if name in classes:
                raise InvalidInputError(f"tie[{number}]", name, f"{name!r} once")
            classes[name] = tuple(names)
    return Ties(classes)


def _check(names: Sequence[str], field: str, sources: Sequence[str], labels: Sequence[str]) -> None:
    groups = [label for label in labels if label]
    for name in names:
        if name not in sources and name not in groups:
            known = f"a source ({', '.join(sources)})"
            known += f" or a group of tensors ({'; '.join(groups)})" if groups else ""
            raise InvalidInputError(field, name, known)
    if len(set(names)) < 2:
        raise InvalidInputError(field, list(names), "two names or more that share a gene")
    if len({name in sources for name in names}) > 1:
        raise InvalidInputError(field, list(names), "either sources or groups of tensors in one list")
