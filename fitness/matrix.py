"""Response matrices: who answered which items how. What item statistics are fitted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import InvalidInputError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ResponseMatrix:
    """Responses of M subjects (models) to N items, larger is better.

    Attributes:
        values: [M, N] float64, NaN where a subject was not asked; in [0, 1] for bounded metrics.
        subjects: M names, unique.
        items: N ids, unique.
        groups: the stratum of each item; all "" without any.
        weights: [N] of the items in the full score, positive, sum 1.
    """

    values: Floats
    subjects: tuple[str, ...]
    items: tuple[str, ...]
    groups: tuple[str, ...]
    weights: Floats

    @property
    def full_scores(self) -> Floats:
        """[M] weighted means over all items; NaN for subjects that were not asked everything."""
        return np.asarray(self.values @ self.weights)

    def complete(self) -> ResponseMatrix:
        """The subjects that were asked everything."""
        return self.of(np.flatnonzero(~np.isnan(self.values).any(axis=1)))

    def of(self, rows: Sequence[int] | NDArray[np.intp]) -> ResponseMatrix:
        """Some subjects, in the order of `rows`."""
        places = np.asarray(rows, dtype=np.intp)
        names = tuple(self.subjects[i] for i in places)
        return ResponseMatrix(self.values[places], names, self.items, self.groups, self.weights)

    def save(self, path: Path | IO[bytes]) -> None:
        """To an npz without pickles; `load_matrix` reads it."""
        np.savez_compressed(
            path,
            values=self.values,
            subjects=np.asarray(self.subjects, dtype=np.str_),
            items=np.asarray(self.items, dtype=np.str_),
            groups=np.asarray(self.groups, dtype=np.str_),
            weights=self.weights,
        )


def make_matrix(
    values: Sequence[Sequence[float]] | Floats,
    subjects: Sequence[str],
    items: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    weights: Sequence[float] | Floats | None = None,
) -> ResponseMatrix:
    """A checked matrix; equal weights and no groups unless given. Weights are brought to sum 1.

    Raises:
        InvalidInputError: shapes that do not fit, names that are not unique, infinite values, or weights that are not
            positive.
    """
    found = np.asarray(values, dtype=np.float64)
    if found.shape != (len(subjects), len(items)) or not len(items):
        raise InvalidInputError("values", list(found.shape), f"[{len(subjects)}, {len(items)}], subjects by items")
    for field, names in (("subjects", subjects), ("items", items)):
        if len(set(names)) != len(names):
            twice = next(name for place, name in enumerate(names) if name in names[:place])
            raise InvalidInputError(field, twice, "unique names")
    if np.isinf(found).any():
        raise InvalidInputError("values", "infinity", "finite numbers, or NaN for what was not asked")
    shares = np.full(len(items), 1.0) if weights is None else np.asarray(weights, dtype=np.float64)
    if shares.shape != (len(items),) or not (np.isfinite(shares) & (shares > 0)).all():
        raise InvalidInputError("weights", shares.tolist()[:5], "a positive number for each item")
    strata = tuple(groups) if groups is not None else ("",) * len(items)
    if len(strata) != len(items):
        raise InvalidInputError("groups", len(strata), f"one for each of {len(items)} items")
    return ResponseMatrix(found, tuple(subjects), tuple(items), strata, shares / shares.sum())


def stack(rows: Mapping[str, Mapping[str, float]], items: Sequence[str]) -> Floats:
    """[subjects, items] from subject → item → response, NaN for what is missing."""
    return np.array([[answers.get(i, np.nan) for i in items] for answers in rows.values()], dtype=np.float64)


def load_matrix(path: Path) -> ResponseMatrix:
    """What `ResponseMatrix.save` wrote.

    Raises:
        InvalidInputError: the file is missing or something else; names it.
    """
    try:
        with np.load(path, allow_pickle=False) as found:
            parts = {name: found[name] for name in ("values", "subjects", "items", "groups", "weights")}
    except (OSError, ValueError, KeyError) as error:
        raise InvalidInputError("matrix", str(path), "an npz file of a response matrix") from error
    return make_matrix(
        parts["values"],
        parts["subjects"].tolist(),
        parts["items"].tolist(),
        groups=parts["groups"].tolist(),
        weights=parts["weights"],
    )
