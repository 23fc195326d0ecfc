"""Blocks through compiled loops."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evomerge.merge.combined import unmeasured
from evomerge.merge.fused.combine import Combined
from evomerge.merge.fused.form import Form, form_of
from evomerge.merge.fused.reading import Raw, is_finite_bits, memory
from evomerge.merge.plan import Plan
from evomerge.merge.primitives.sparsify import DRAWS_PER_COUNT, mask_key, resolved

if TYPE_CHECKING:
    from evomerge.merge.blocks import TensorWork

LEAST_ENTRIES = 1 << 18
"""Models without a tensor of this size are merged before the compiled loops would even be loaded."""
_RULES = {"nothing": 0, "trim": 1, "bernoulli": 2}
_RESOLUTION = 2**32

Read = Callable[[Tensor, Any, int, int, Raw], None]
"""(tensor, where it is fresh from, first, last + 1, memory): fills the memory with the entries' bits."""


@cache
def installed() -> bool:
    """Whether numba is there."""
    return find_spec("numba") is not None


class Fused:
    """One tensor's merge, if there is a loop for it.

    Args:
        read: how bits of a tensor come into memory.
    """

    def __init__(self, plan: Plan, work: TensorWork, form: Form, read: Read) -> None:
        from evomerge.merge.fused import kernels

        self._kernels, self._work, self._form, self._read = kernels, work, form, read
        self._unused = [source for source in work.operands if source not in form.sources]
        self._keys = [mask_key(plan.seed, source, work.job.name) for source in form.sources]
        self._scales = np.zeros((len(form.sources), 3), np.float32)
        self._rules = np.full(len(form.sources), _RULES[form.sparsify])
        for k, source in enumerate(form.sources):
            with np.errstate(over="ignore"):  # infinity, as for torch: the result will be refused
                self._scales[k, 1:] = form.factors.get(source, 1.0), form.weights[source]
            self._set_bound(k, source)

    def merge(self, begin: int, end: int, into: Raw) -> bool | None:
        """Merge entries into memory for their bits; whether all are finite, or None where the torch path has to do
        it."""
        form, kernels = self._form, self._kernels
        self._look_at_unused(begin, end)
        raw = self._raw(begin, end)
        if kernels.has_negative_zero(raw[0]):
            return None
        scale = np.float32(form.scale)
        if form.kind == "total":
            kernels.total_of(raw[0], raw[1:], self._draws(begin, end), self._rules, self._scales, scale, into)
            return is_finite_bits(into)
        divide = [] if form.divide is None else [form.divide[source] for source in form.sources]
        kernels.disjoint(
            raw[0], raw[1:], self._draws(begin, end), self._rules, self._scales, np.array(divide, np.float32),
            np.float32(form.tie), scale, into,
        )  # fmt: skip
        return is_finite_bits(into)

    def majority(self, begin: int, end: int) -> int:
        """Σ of the signs that the entries elect."""
        raw = self._raw(begin, end)
        return int(self._kernels.majority(raw[0], raw[1:], self._draws(begin, end), self._rules, self._scales))

    def _set_bound(self, k: int, source: str) -> None:
        if self._form.sparsify == "trim":
            self._scales[k, 0] = self._form.bounds[source]
        elif self._form.sparsify == "bernoulli":
            bound = round(resolved(self._form.bounds[source]) * _RESOLUTION)
            if bound == _RESOLUTION:
                self._rules[k] = _RULES["nothing"]
            else:
                self._scales.view(np.uint32)[k, 0] = bound

    def _raw(self, begin: int, end: int) -> Raw:
        """The base and the sources, a row each."""
        return read_rows(self._work, self._form.sources, begin, end, self._read, base=True)

    def _look_at_unused(self, begin: int, end: int) -> None:
        """A source of weight 0 is read for what reading finds: NaN and infinity."""
        for source in self._unused:
            operand = self._work.operands[source]
            self._read(operand.tensor, operand.fresh, begin, end, memory("unused", end - begin, np.uint16))

    def _draws(self, begin: int, end: int) -> npt.NDArray[np.uint32]:
        if self._form.sparsify != "bernoulli":
            return np.empty((len(self._keys), 0), np.uint32)
        first, skipped = divmod(begin, DRAWS_PER_COUNT)
        counts = -(-(skipped + end - begin) // DRAWS_PER_COUNT)
        numbers = memory("draws", len(self._keys) * counts * DRAWS_PER_COUNT // 2, np.uint64)
        rows = numbers.reshape(len(self._keys), -1)
        for key, row in zip(self._keys, rows, strict=True):
            self._kernels.philox(np.uint64(key % 2**64), np.uint64(key >> 64), np.uint64(first), row)
        found = rows.view(np.uint32)
        return found if skipped == 0 else np.ascontiguousarray(found[:, skipped:])


def fused(
    plan: Plan, work: TensorWork, measured: Mapping[str, float], out: torch.dtype, read: Read
) -> Fused | Combined | None:
    """The compiled merge of a tensor; None where there is none."""
    if out != torch.bfloat16 or not worth_it(work.base.numel()) or not usable(work):
        return None
    if (combination := plan.method.combination_for(work.job.shared)) is not None:
        return Combined(combination, work, measured or unmeasured(combination, work.job))
    form = form_of(plan, work.job, measured)
    return Fused(plan, work, form, read) if form is not None else None


def worth_it(num_entries: int) -> bool:
    """Whether to use the loops for a tensor: it is large, or a large one has had them loaded."""
    return num_entries >= LEAST_ENTRIES or "evomerge.merge.fused.kernels" in sys.modules


def usable(work: TensorWork) -> bool:
    """Whether the loops can read a tensor: numba is there, and all models store it as bfloat16."""
    tensors = [work.base, *(operand.tensor for operand in work.operands.values())]
    return (
        installed()
        and all(t.dtype == torch.bfloat16 and t.device.type == "cpu" for t in tensors)
        and all(operand.kind == "weights" for operand in work.operands.values())
    )


def read_rows(work: TensorWork, sources: Sequence[str], begin: int, end: int, read: Read, *, base: bool) -> Raw:
    """θ0's and the sources' bits, in memory of this thread that is used again."""
    size = (len(sources) + 1) * (end - begin)
    rows: Raw = memory("rows", size, np.uint16).reshape(len(sources) + 1, end - begin)
    if base:
        read(work.base, work.fresh, begin, end, rows[0])
    for row, source in zip(rows[1:], sources, strict=True):
        operand = work.operands[source]
        read(operand.tensor, operand.fresh, begin, end, row)
    return rows
