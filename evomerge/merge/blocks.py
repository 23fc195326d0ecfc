"""One tensor through a method, block by block: the loop that files and resident models share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import torch
from torch import Tensor

from evomerge.merge.calibration.entries import of_entries, of_whole
from evomerge.merge.method import Block, Blocks
from evomerge.merge.plan import Plan, TensorJob
from evomerge.models.finite import check_finite

BLOCK = 1 << 16
"""Entries merged at a time on a CPU: a handful of float32 blocks fit in a core's second-level cache."""
DEVICE_BLOCK = 1 << 26
"""The same elsewhere, where a kernel's launch must be worth its while."""


@dataclass(frozen=True, slots=True)
class Operand:
    """One source's part in one tensor: its difference from the base (adapters) or its own weights (checkpoints).

    Attributes:
        kind: which of the two `tensor` is.
        tensor: contiguous; a delta is float32, weights are as stored. Must not be written to.
    """

    kind: Literal["delta", "weights"]
    tensor: Tensor

    def delta(self, base: Tensor, begin: int, end: int) -> Tensor:
        """δ[begin:end], flat, float32; `base` holds the same entries of θ0."""
        part = self._part(begin, end, base.device)
        return part if self.kind == "delta" else part - base

    def model(self, base: Tensor, begin: int, end: int) -> Tensor:
        """θ[begin:end], flat, float32."""
        part = self._part(begin, end, base.device)
        return part + base if self.kind == "delta" else part

    def _part(self, begin: int, end: int, device: torch.device) -> Tensor:
        return self.tensor.view(-1)[begin:end].to(device=device, dtype=torch.float32)


@dataclass(frozen=True, slots=True)
class TensorWork:
    """A job with its tensors: θ0 as stored, the operands of the sources that change it, and calibration statistics."""

    job: TensorJob
    base: Tensor
    operands: Mapping[str, Operand]
    statistics: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)


def blocks_of(plan: Plan, work: TensorWork, measured: Mapping[str, float], device: torch.device) -> Iterator[Block]:
    """A tensor in blocks: one, in the tensor's shape, for methods of grain `tensor`."""
    if plan.method.grain == "tensor":
        yield _whole(_entries(plan, work, measured, device, 0, work.base.numel()), work)
        return
    size = work.base.numel()
    length = BLOCK if device.type == "cpu" else DEVICE_BLOCK
    for begin in range(0, max(size, 1), length):
        yield _entries(plan, work, measured, device, begin, min(begin + length, size))


def _entries(
    plan: Plan, work: TensorWork, measured: Mapping[str, float], device: torch.device, begin: int, end: int
) -> Block:
    """Consecutive entries, flat."""
    job = work.job
    base = work.base.view(-1)[begin:end].to(device=device, dtype=torch.float32)
    parts: dict[str, Tensor | None] = dict.fromkeys(job.per_source)
    for source, operand in work.operands.items():
        at = operand.delta if plan.method.domain == "delta" else operand.model
        parts[source] = at(base, begin, end)
    deltas, models = (parts, {}) if plan.method.domain == "delta" else ({}, parts)
    shape = tuple(work.base.shape[::-1]) if job.transposed else tuple(work.base.shape)
    return Block(
        job.name, base, job.shared, job.per_source, deltas, models, begin, plan.seed, measured,
        shape, job.part.role, job.part.layer, job.num_layers, of_entries(work.statistics, begin, end, device),
    )  # fmt: skip


def _whole(block: Block, work: TensorWork) -> Block:
    """All entries, in the tensor's shape, matrices as (out × in)."""

    def shaped(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        whole = tensor.view(work.base.shape)
        return whole.t().contiguous() if work.job.transposed else whole

    base = shaped(block.base)
    assert base is not None
    deltas = {source: shaped(tensor) for source, tensor in block.deltas.items()}
    models = {source: shaped(tensor) for source, tensor in block.models.items()}
    statistics = of_whole(block.statistics, lambda statistic: cast(Tensor, shaped(statistic)))
    return replace(block, base=base, deltas=deltas, models=models, statistics=statistics)


def measure_model(plan: Plan, works: Callable[[], Iterable[TensorWork]], device: torch.device) -> Mapping[str, float]:
    """What the method measures over the whole model; `works` begins again at every call."""
    return _measure(
        plan,
        lambda: (
            b
            for work in works()
            if not work.job.buffer and work.job.per_source
            for b in blocks_of(plan, work, {}, device)
        ),
    )


def _measure(plan: Plan, blocks: Blocks) -> Mapping[str, float]:
    return plan.method.measure(blocks) if plan.method.measure is not None else {}


def merge_into(out: Tensor, plan: Plan, work: TensorWork, measured: Mapping[str, float] | None) -> None:
    """Merge one tensor into `out`, rounding once to its dtype.

    Args:
        out: contiguous, of the base's shape, on the device where the work is done; overwritten.
        measured: what was measured over the whole model; None where the method measures each tensor, if at all.

    Raises:
        NonFiniteError: NaN or infinity in the result.
    """
    flat = out.view(-1)
    if work.job.copy:
        flat.copy_(work.base.view(-1))
        if out.dtype != work.base.dtype:
            check_finite(out, work.job.name, f"the base model as {out.dtype}")
        return
    if measured is None:
        measured = {}
        if plan.method.measures(work.job.shared) == "tensor":
            measured = _measure(plan, lambda: blocks_of(plan, work, {}, out.device))
    for block in blocks_of(plan, work, measured, out.device):
        merged = flat[block.offset : block.offset + block.base.numel()]
        result = plan.method.merge(block)
        merged.copy_((result.t() if work.job.transposed and plan.method.grain == "tensor" else result).reshape(-1))
        check_finite(merged, work.job.name, "the merged model")
