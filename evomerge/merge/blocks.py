"""One tensor through a method, block by block: the loop that files and resident models share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from evomerge.merge.calibration.entries import of_entries, of_whole
from evomerge.merge.combined import unmeasured
from evomerge.merge.fused.measure import measured_of
from evomerge.merge.fused.reading import bits_of, memory
from evomerge.merge.fused.run import Loop, fused
from evomerge.merge.fused.takeover import takes_over
from evomerge.merge.method import Block, Blocks
from evomerge.merge.plan import Plan, TensorJob, columns_of
from evomerge.models.factors import Factors
from evomerge.models.finite import check_finite, is_finite
from evomerge.models.weights import Place

BLOCK = 1 << 17
"""Entries merged at a time on a CPU: a handful of float32 blocks fit in a core's second-level cache."""
HELD_BYTES = 1 << 24
"""Bytes of a tensor and its counterparts up to which they stay in memory from the first reading to the last."""
DEVICE_BLOCK = 1 << 26
"""The same elsewhere, where a kernel's launch must be worth its while."""


@dataclass(frozen=True, slots=True)
class Fresh:
    """A tensor that nobody has looked at for NaN and infinity: every block is, while it is in the cache.

    Attributes:
        name: as the file's owner calls it, for an error.
        whose: "source 'math' (/models/math)", likewise; None for what may hold anything (a buffer).
        place: where its bytes lie in a file, to be read from there; None: they are in memory.
    """

    name: str
    whose: str | None
    place: Place | None


@dataclass(frozen=True, slots=True)
class Operand:
    """One source's part in one tensor: its difference from the base (adapters) or its own weights (checkpoints).

    Attributes:
        kind: which of the two `tensor` is.
        tensor: contiguous; a delta is float32, weights are as stored. Must not be written to.
        fresh: set where it is read from a file block by block.
    """

    kind: Literal["delta", "weights"]
    tensor: Tensor
    fresh: Fresh | None = None

    def delta(self, base: Tensor, begin: int, end: int) -> Tensor:
        """δ[begin:end], flat, float32; `base` holds the same entries of θ0."""
        part = self._part(begin, end, base.device)
        return part if self.kind == "delta" else part - base

    def model(self, base: Tensor, begin: int, end: int) -> Tensor:
        """θ[begin:end], flat, float32."""
        part = self._part(begin, end, base.device)
        return part + base if self.kind == "delta" else part

    def _part(self, begin: int, end: int, device: torch.device) -> Tensor:
        return _widened(self.tensor, begin, end, device, self.fresh)


def _widened(tensor: Tensor, begin: int, end: int, device: torch.device, fresh: Fresh | None) -> Tensor:
    """Entries of a tensor, flat, float32.

    Raises:
        NonFiniteError: they are fresh and hold NaN or infinity.
    """
    if fresh is None or device.type != "cpu" or end - begin <= BLOCK:
        part = _stored(tensor, begin, end, fresh)
        wide = part.to(device=device, dtype=torch.float32)
        return wide.clone() if fresh is not None and wide.data_ptr() == part.data_ptr() else wide
    wide = torch.empty(end - begin)
    for first, last in _steps((begin, end), device):
        wide[first - begin : last - begin] = _stored(tensor, first, last, fresh)
    return wide


def _stored(tensor: Tensor, begin: int, end: int, fresh: Fresh | None) -> Tensor:
    """Entries of a tensor, flat, as stored: in memory that is used again at the next call where they are fresh."""
    if fresh is None:
        return tensor.view(-1)[begin:end]
    item = tensor.element_size()
    if fresh.place is None:
        entries = tensor.view(-1)[begin:end]
    else:
        part = _buffer((end - begin) * item)
        fresh.place.read(begin * item, part.numpy().data)
        entries = part.view(tensor.dtype)
    if fresh.whose is not None and not is_finite(entries):
        check_finite(tensor, fresh.name, fresh.whose)
    return entries


def _held(plan: Plan, work: TensorWork) -> TensorWork:
    """A tensor that is read more than once: in memory of this thread, if it is small and not there yet, and as fresh as
    before; θ0 stays where it is if nobody reads it."""
    base_fresh = work.fresh if _needs_base(plan, work) else None
    parts = [(work.base, base_fresh), *((operand.tensor, operand.fresh) for operand in work.operands.values())]
    sizes = [fresh.place.length for _, fresh in parts if fresh is not None and fresh.place is not None]
    if not sizes or sum(sizes) > HELD_BYTES:
        return work
    free = memory("held", sum(sizes) + 64 * len(sizes), np.uint8)

    def taken(tensor: Tensor, fresh: Fresh | None) -> tuple[Tensor, Fresh | None]:
        nonlocal free
        if fresh is None or fresh.place is None:
            return tensor, fresh
        number = fresh.place.length
        part, free = free[:number], free[-(-number // 64) * 64 :]
        fresh.place.read(0, part.data)
        return torch.from_numpy(part).view(tensor.dtype).view(tensor.shape), Fresh(fresh.name, fresh.whose, None)

    operands = {s: Operand(o.kind, *taken(o.tensor, o.fresh)) for s, o in work.operands.items()}
    base, fresh = taken(work.base, base_fresh)
    return replace(work, base=base, operands=operands, fresh=fresh if base_fresh is not None else work.fresh)


def _buffer(num_bytes: int) -> Tensor:
    """Bytes of this thread's own."""
    kept: Tensor | None = getattr(_LOCAL, "bytes", None)
    if kept is None or kept.numel() < num_bytes:
        kept = _LOCAL.bytes = torch.empty(num_bytes, dtype=torch.uint8)
    return kept[:num_bytes]


_LOCAL = threading.local()


@dataclass(frozen=True, slots=True)
class TensorWork:
    """A job with its tensors: θ0 as stored, the operands of the sources that change it, and calibration statistics.

    A job that reads factors has them in place of operands. `fresh` is for θ0 what it is for operands.
    """

    job: TensorJob
    base: Tensor
    operands: Mapping[str, Operand]
    statistics: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    factors: Mapping[str, Factors] = field(default_factory=dict)
    fresh: Fresh | None = None


Span = tuple[int, int]
"""The first entry of a tensor and the one after the last."""


def blocks_of(
    plan: Plan, work: TensorWork, measured: Mapping[str, float], device: torch.device, span: Span | None = None
) -> Iterator[Block]:
    """A tensor, or a span of it, in blocks: for methods of grain `tensor` one, in the tensor's shape, or some rows."""
    if plan.by_rows(work.job):
        for begin, end in row_steps(span or (0, work.base.numel()), columns_of(tuple(work.base.shape)), device):
            yield _shaped(_entries(plan, work, measured, device, begin, end), work)
        return
    if plan.method.grain_of(work.job.shared) == "tensor":
        yield _shaped(_entries(plan, work, measured, device, 0, work.base.numel()), work)
        return
    for begin, end in _steps(span or (0, work.base.numel()), device):
        yield _entries(plan, work, measured, device, begin, end)


def _steps(span: Span, device: torch.device) -> Iterator[Span]:
    """A span in blocks, at least one."""
    length = BLOCK if device.type == "cpu" else DEVICE_BLOCK
    for begin in range(span[0], max(span[1], span[0] + 1), length):
        yield begin, min(begin + length, span[1])


def row_steps(span: Span, columns: int, device: torch.device) -> Iterator[Span]:
    """A span of rows of so many entries in blocks of whole rows, at least one."""
    if not columns:
        yield span
        return
    length = max(1, (BLOCK if device.type == "cpu" else DEVICE_BLOCK) // columns) * columns
    for begin in range(span[0], max(span[1], span[0] + 1), length):
        yield begin, min(begin + length, span[1])


def _entries(
    plan: Plan, work: TensorWork, measured: Mapping[str, float], device: torch.device, begin: int, end: int
) -> Block:
    """Consecutive entries, flat."""
    job = work.job
    parts: dict[str, Tensor | None] = dict.fromkeys(job.per_source)
    if _needs_base(plan, work):
        base = _widened(work.base, begin, end, device, work.fresh)
        for source, operand in work.operands.items():
            parts[source] = (operand.delta if plan.method.domain == "delta" else operand.model)(base, begin, end)
    else:
        for source, operand in work.operands.items():
            parts[source] = base = _widened(operand.tensor, begin, end, device, operand.fresh)
    deltas, models = (parts, {}) if plan.method.domain == "delta" else ({}, parts)
    shape = tuple(work.base.shape[::-1]) if job.transposed else tuple(work.base.shape)
    return Block(
        job.name, base, job.shared, job.per_source, deltas, models, begin, plan.seed, measured,
        shape, job.part.role, job.part.layer, job.num_layers, of_entries(work.statistics, begin, end, device),
        {source: work.factors.get(source) for source in parts} if job.factored else {},
    )  # fmt: skip


def _needs_base(plan: Plan, work: TensorWork) -> bool:
    """Whether θ0 has to be read: not for an average of models that are all there in full."""
    models = [operand for operand in work.operands.values() if operand.kind == "weights"]
    number = len(work.job.per_source)
    return (
        plan.method.domain == "delta"
        or not plan.method.baseless(number, work.job.shared)
        or len(models) < max(number, 1)
    )


def _shaped(block: Block, work: TensorWork) -> Block:
    """All entries, or those of some rows, in the tensor's shape, matrices as (out × in)."""

    def shaped(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        whole = tensor.view(-1, *work.base.shape[1:]) if work.base.numel() else tensor.view(work.base.shape)
        whole = whole if work.base.dim() else whole.view(())
        return whole.t().contiguous() if work.job.transposed else whole

    base = shaped(block.base)
    assert base is not None
    deltas = {source: shaped(tensor) for source, tensor in block.deltas.items()}
    models = {source: shaped(tensor) for source, tensor in block.models.items()}
    statistics = of_whole(block.statistics, lambda statistic: cast(Tensor, shaped(statistic)))
    return replace(block, base=base, deltas=deltas, models=models, statistics=statistics)


def measure_model(
    plan: Plan, works: Callable[[], Iterable[TensorWork]], device: torch.device, threads: int = 1
) -> Mapping[str, float]:
    """What the method measures over the whole model; `works` begins again at every call."""

    def taking_part() -> Iterator[TensorWork]:
        return (work for work in works() if not work.job.buffer and work.job.per_source)

    if device.type == "cpu":
        found = measured_of(plan, taking_part, lambda span: _steps(span, device), threads)
        if found is not None:
            return found
    return _measure(plan, lambda: (block for work in taking_part() for block in blocks_of(plan, work, {}, device)))


def _measure(plan: Plan, blocks: Blocks) -> Mapping[str, float]:
    return plan.method.measure(blocks) if plan.method.measure is not None else {}


def merge_into(out: Tensor, plan: Plan, work: TensorWork, measured: Mapping[str, float] | None) -> None:
    """Merge one tensor into `out`, rounding once to its dtype.

    Args:
        out: contiguous, of the base's shape, on the device where the work is done; overwritten.
        measured: what was measured over the whole model; None where the method measures each tensor, if at all.

    Raises:
        NonFiniteError: NaN or infinity in an operand that nobody has checked, or in the result.
    """
    flat = out.view(-1)
    for _ in merged_pieces(plan, work, measured, out.device, lambda begin, end: flat[begin:end]):
        pass


def merged_pieces(
    plan: Plan,
    work: TensorWork,
    measured: Mapping[str, float] | None,
    device: torch.device,
    place: Callable[[int, int], Tensor],
    span: Span | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """One tensor, or a span of its entries, merged piece by piece: (first entry, entries in their final dtype).

    Args:
        measured: as for `merge_into`.
        device: where the work is done.
        place: (first, last + 1) → memory for these entries, flat, of the final dtype.
        span: all by default; grain `tensor` knows no other, or whole rows.

    Raises:
        NonFiniteError: as `merge_into`.
    """
    if work.job.copy:
        yield from _copied(work.base, work.fresh, work.job, place, span or (0, work.base.numel()), device)
        return
    if (source := _taken_whole(plan, work)) is not None:
        yield from _copied(source.tensor, source.fresh, work.job, place, span or (0, work.base.numel()), device)
        return
    if measured is None:
        if device.type == "cpu" and (plan.method.measures(work.job.shared) == "tensor" or takes_over(plan, work)):
            work = _held(plan, work)
        measured = measure_tensor(plan, work, device)
    loop = fused(plan, work, measured, work.job.dtype) if device.type == "cpu" else None
    if loop is not None:
        yield from _fused_pieces(loop, plan, work, measured, place, span or (0, work.base.numel()))
        return
    for block in blocks_of(plan, work, measured, device, span):
        merged = plan.method.merge(block)
        if work.job.transposed and plan.method.grain_of(work.job.shared) == "tensor":
            merged = merged.t()
        flat = merged.reshape(-1)
        for begin, end in _steps((0, flat.numel()), device):
            piece = place(block.offset + begin, block.offset + end)
            piece.copy_(flat[begin:end])
            if not is_finite(piece):
                check_finite(piece, work.job.name, "the merged model")
            yield block.offset + begin, piece


def _fused_pieces(
    loop: Loop,
    plan: Plan,
    work: TensorWork,
    measured: Mapping[str, float],
    place: Callable[[int, int], Tensor],
    span: Span,
) -> Iterator[tuple[int, Tensor]]:
    device = torch.device("cpu")
    for begin, end in loop.spans(span, _steps(span, device)):
        piece = place(begin, end)
        finite = loop.merge(begin, end, bits_of(piece))
        if finite is None:
            (block,) = blocks_of(plan, work, measured, device, (begin, end))
            piece.copy_(plan.method.merge(block).reshape(-1))
            finite = is_finite(piece)
        if not finite:
            check_finite(piece, work.job.name, "the merged model")
        yield begin, piece


def measure_tensor(plan: Plan, work: TensorWork, device: torch.device) -> Mapping[str, float]:
    """What the method measures over one tensor before it merges it."""
    if plan.method.measures(work.job.shared) != "tensor":
        return {}
    if device.type == "cpu":
        found = measured_of(plan, lambda: [work], lambda span: _steps(span, device), 1)
        if found is not None:
            return found
    return _measure(plan, lambda: blocks_of(plan, work, {}, device))


def _taken_whole(plan: Plan, work: TensorWork) -> Operand | None:
    """The source whose bytes are the merge: the one vector of a combination, and its coefficient 1."""
    combination = plan.method.combination_for(work.job.shared)
    if combination is None or combination.measured(work.job.shared) or len(combination.vectors(work.job)) != 1:
        return None
    ((name, coefficient),) = unmeasured(combination, work.job).items()
    operand = work.operands.get(name)
    taken = coefficient == 1 and combination.origin(work.job.shared) == "zero"
    return operand if taken and operand is not None and operand.kind == "weights" else None


def _copied(
    tensor: Tensor,
    fresh: Fresh | None,
    job: TensorJob,
    place: Callable[[int, int], Tensor],
    span: Span,
    device: torch.device,
) -> Iterator[tuple[int, Tensor]]:
    for begin, end in _steps(span, device):
        piece = place(begin, end)
        if fresh is not None and fresh.place is not None and device.type == "cpu" and piece.dtype == tensor.dtype:
            fresh.place.read(begin * piece.element_size(), piece.view(torch.uint8).numpy().data)
            if fresh.whose is not None and not is_finite(piece):
                check_finite(tensor, fresh.name, fresh.whose)
        else:
            part = _stored(tensor, begin, end, fresh)
            piece.copy_(part)
            if piece.dtype != part.dtype and not is_finite(piece):
                check_finite(piece, job.name, f"the merged model, as {piece.dtype}")
        yield begin, piece
