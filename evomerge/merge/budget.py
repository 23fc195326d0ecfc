"""What a merge will read, write and hold in memory: known from the plan, before a tensor is read. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from evomerge.errors import InvalidInputError
from evomerge.merge import blocks
from evomerge.merge.blocks import Span
from evomerge.merge.calibration.kinds import KINDS, MASK
from evomerge.merge.method import kind_of
from evomerge.merge.plan import Plan, TensorJob, columns_of
from evomerge.merge.workspace import FLOAT32, Extent

SPAN = 1 << 22
"""Entries of a large tensor that one thread merges before it takes the next span."""
_TEMPORARIES = 8
"""Blocks in float32 that an elementwise method holds beside three a source, at most."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Unit:
    """What one thread does at a time: a tensor, or a span of its entries.

    Attributes:
        span: None: the whole tensor.
        num_bytes: of the result.
        memory: bytes of float32 that it holds.
        num_entries: of the whole tensor.
        own: those of them that the method holds beside the tensors that it is given, where it is given whole ones.
    """

    job: TensorJob
    span: Span | None
    num_bytes: int
    memory: int
    own: int = 0
    num_entries: int = 0


def units_of(plan: Plan, jobs: Sequence[TensorJob], shapes: Shapes, computed: frozenset[str]) -> list[Unit]:
    """Jobs in pieces of work, in order.

    Args:
        jobs: those of `plan` that are to be done.
        shapes: of each job's result, by name.
        computed: sources whose tensors are computed whole when they are asked for (adapters).
    """
    return [unit for job in jobs for unit in _units(plan, job, shapes[job.name], computed)]


def _units(plan: Plan, job: TensorJob, shape: tuple[int, ...], computed: frozenset[str]) -> Iterator[Unit]:
    size, item = torch.Size(shape).numel(), job.dtype.itemsize
    whole = computed.intersection(("", *job.changed))
    by_rows = plan.by_rows(job)
    if plan.method.grain_of(job.shared) == "tensor" and not by_rows and not job.copy:
        yield _whole(plan, job, shape)
        return
    columns = max(columns_of(shape), 1) if by_rows else 1
    held = FLOAT32 * min(size, max(blocks.BLOCK, columns)) * (3 * len(job.per_source) + _TEMPORARIES)
    if by_rows and not job.copy:
        held = min(held, _whole(plan, job, shape).memory)
    if job.copy or whole or job.factored or plan.method.measures(job.shared) == "tensor":
        kept = 0 if job.copy else min(FLOAT32 * size * (len(job.per_source) + 1), blocks.HELD_BYTES)
        yield Unit(job, None, size * item, held + kept + FLOAT32 * size * len(whole))
        return
    length = max(1, SPAN // columns) * columns
    for begin in range(0, max(size, 1), length):
        end = min(begin + length, size)
        yield Unit(job, (begin, end), (end - begin) * item, held, num_entries=size)


def _whole(plan: Plan, job: TensorJob, shape: tuple[int, ...]) -> Unit:
    """A tensor that the method sees at once: θ0, the sources, their statistics, and what it declares to hold itself."""
    if job.transposed:
        shape = shape[::-1]
    matrix = kind_of(shape, job.part.role) == "matrix"
    extent = Extent(shape, matrix, len(job.per_source), job.shared, job.rank)
    own = plan.method.workspace(extent)
    given = 1 if job.factored else 1 + extent.num_sources
    turned = extent.one if job.transposed else 0  # one tensor at a time, as it comes and as it is written
    memory = given * extent.one + extent.factors + _statistics(plan, extent) + own + turned
    return Unit(job, None, extent.size * job.dtype.itemsize, memory, own)


def _statistics(plan: Plan, extent: Extent) -> int:
    """Bytes of the statistics of a tensor that may be large: a number an entry, and Gram matrices."""
    found = 0
    for kind in plan.method.requires:
        if kind == MASK or (kind in KINDS and KINDS[kind].per == "entry"):
            found += extent.num_sources * extent.one
        elif extent.matrix and kind.endswith("gram"):
            side = extent.shape[0] if kind == "output_gram" else extent.shape[1]
            found += extent.num_sources * FLOAT32 * side * side
    return found


def promised(plan: Plan, shapes: Shapes) -> int:
    """The memory that a merge may use unless it is told otherwise: (number of sources + 2) × the largest tensor that is
    merged, in float32."""
    sizes = (torch.Size(shapes[job.name]).numel() for job in plan.jobs if not job.copy)
    return FLOAT32 * (len(plan.sources) + 2) * max(sizes, default=0)


def check_memory(plan: Plan, units: Sequence[Unit], limit: int) -> None:
    """Refuse a limit under which some tensor cannot be merged.

    Raises:
        InvalidInputError: names the tensor, what it needs and the limit.
    """
    dearest = max(units, key=lambda unit: unit.memory, default=None)
    if dearest is not None and dearest.memory > limit:
        whole = plan.method.grain_of(dearest.job.shared) == "tensor" and not plan.by_rows(dearest.job)
        what = "whole tensors" if whole else "blocks of float32 (and whole deltas of adapters)"
        own = f", and holds {dearest.own} bytes beside the models' own" if dearest.own else ""
        allowed = f"at least {dearest.memory} bytes: {plan.method.name} works on {what}, here {dearest.job.name}{own}"
        raise InvalidInputError("memory", limit, allowed)
