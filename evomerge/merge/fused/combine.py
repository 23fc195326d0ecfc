"""Combinations of whole tensors through compiled loops: their coefficients, then their entries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from evomerge.merge.combined import whole_of
from evomerge.merge.fused.reading import Addresses, Raw, Rows, look
from evomerge.merge.method import ByRows, Combination
from evomerge.merge.plan import Plan, columns_of
from evomerge.merge.primitives.aggregate import heaviest
from evomerge.merge.primitives.gram import LANES, Gram

if TYPE_CHECKING:
    from evomerge.merge.blocks import Span, TensorWork


class _Vectors:
    """The vectors of one tensor, where they lie in memory."""

    def __init__(self, of: Combination, work: TensorWork) -> None:
        job = work.job
        self.names = of.vectors(job)
        self.from_base = of.origin(job.shared) == "base"
        needs_base = self.from_base or any(name not in work.operands for name in self.names)
        tensors = [(operand.tensor, operand.fresh) for operand in work.operands.values()]
        self._rows = Rows([*tensors, (work.base, work.fresh)] if needs_base else tensors)
        self.in_memory = self._rows.in_memory
        places = {name: place for place, name in enumerate(work.operands)}
        self._base = len(places) if needs_base else 0
        self._places = np.array([places.get(name, self._base) for name in self.names])

    def at(self, begin: int, end: int) -> tuple[Addresses, np.uint64]:
        """Addresses of the vectors and of θ0; until this thread asks for the next."""
        found = self._rows.at(begin, end)
        return found[self._places], found[self._base]


class Combined:
    """One tensor's combination."""

    def __init__(self, of: Combination, work: TensorWork, coefficients: Mapping[str, float]) -> None:
        from evomerge.merge.fused import vectors

        self._kernel, self._work = vectors.combination, work
        self._vectors = _Vectors(of, work)
        names = self._vectors.names
        how, unchanged = of.how(work.job.shared), np.array([name not in work.operands for name in names])
        used = np.array([coefficients[name] != 0 for name in names])
        self._centered = how != "weighted_sum"
        if self._centered:
            self._anchor = names.index(heaviest(coefficients))
            whole: float | None = 1.0 if how == "affine" else sum(coefficients.values())
            if unchanged[self._anchor]:  # the others that are θ0, too, are the same object
                used &= ~unchanged
        else:
            if self._vectors.from_base:
                used &= ~unchanged
            self._anchor = int(used.argmax())
            whole = coefficients[names[self._anchor]] if used.any() else None
        used[self._anchor] = False
        with np.errstate(over="ignore"):  # infinity, as for torch: the result will be refused
            self._weights = np.array([coefficients[name] for name in names], np.float32)
            self._whole = None if whole is None else np.float32(whole)
        self._used = used
        self._hidden = not all(self._weights[~unchanged])

    def spans(self, span: Span, steps: Iterable[Span]) -> Iterable[Span]:
        """What may be merged at a time: whatever `steps` says."""
        return steps

    def merge(self, begin: int, end: int, out: Raw) -> bool | None:
        """Merge entries; whether all are finite, or None where the torch path has to do it.

        Raises:
            NonFiniteError: an operand holds NaN or infinity, whatever its coefficient.
        """
        if self._whole is None:  # a sum of nothing
            return None
        at, base_at = self._vectors.at(begin, end)
        from_base, centered = self._vectors.from_base, self._centered
        finite = bool(
            self._kernel(at, base_at, from_base, centered, self._weights, self._used, self._whole, self._anchor, out)
        )
        if self._hidden or not finite:  # else what is not finite would show in the result
            look(self._work, begin, end)
        return finite


class CombinedRows:
    """One tensor's combination with coefficients of its own for every row."""

    def __init__(self, of: Combination, rows: ByRows, work: TensorWork) -> None:
        from evomerge.merge.fused import vectors

        self._loops, self._work, self._rows = vectors, work, rows
        self._vectors = _Vectors(of, work)
        self._columns, self._stride = work.base.shape[-1], columns_of(tuple(work.base.shape))
        self._anchor = rows.anchor(work.job)

    def spans(self, span: Span, steps: Iterable[Span]) -> Iterable[Span]:
        """What may be merged at a time: whole rows."""
        from evomerge.merge.blocks import row_steps

        return row_steps(span, self._stride, torch.device("cpu"))

    def merge(self, begin: int, end: int, out: Raw) -> bool | None:
        """Merge whole rows; whether all are finite, or None where the torch path has to do it.

        Raises:
            NonFiniteError: an operand holds NaN or infinity.
        """
        at, base_at = self._vectors.at(begin, end)
        from_base, number = self._vectors.from_base, len(self._vectors.names)
        products = np.empty(((end - begin) // self._columns, number, number))
        self._loops.row_grams(at, base_at, from_base, self._columns, products)
        if not np.isfinite(products).all():  # finite bfloat16 entries nearly always have finite products
            look(self._work, begin, end)
            return None
        found = self._rows.coefficients(self._work.job, products)
        with np.errstate(over="ignore"):
            weights, whole = found.astype(np.float32), whole_of(found).astype(np.float32)
        finite = self._loops.combined_rows(at, base_at, from_base, weights, whole, self._anchor, self._columns, out)
        if not finite:
            look(self._work, begin, end)
        return bool(finite)


def combined_rows(plan: Plan, work: TensorWork) -> CombinedRows | None:
    """The merge of a tensor's rows; None where it is not of this kind."""
    of = plan.method.combination
    if of is None or of.rows is None or not of.rows.holds(work.job.shared) or work.job.transposed:
        return None
    return CombinedRows(of, of.rows, work) if work.base.dim() > 1 and work.base.numel() else None


def coefficients_of(plan: Plan, work: TensorWork, steps: Callable[[Span], Iterable[Span]]) -> Mapping[str, float]:
    """What the method measures of a tensor."""
    from evomerge.merge.fused import grams

    of = plan.method.combination
    assert of is not None, "asked of combinations only"
    rows = _Vectors(of, work)
    gram = Gram(len(rows.names))
    whole = (0, work.base.numel())
    for begin, end in [whole] if rows.in_memory else steps(whole):
        at, base_at = rows.at(begin, end)
        if len(at) <= grams.MOST:
            base = base_at if rows.from_base else None
            grams.gram(tuple(at), base, end - begin, begin % LANES, gram.lanes)
        else:
            grams.gram_of_many(at, base_at, rows.from_base, end - begin, begin % LANES, gram.lanes)
    products = gram.products
    if not np.isfinite(products).all():  # finite bfloat16 entries have finite products
        look(work, 0, work.base.numel())
    return of.coefficients(work.job, products)
