"""What a merge will read, write and hold in memory: known from the plan, before a tensor is read. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from evomerge.errors import InvalidInputError
from evomerge.merge import blocks
from evomerge.merge.blocks import Span
from evomerge.merge.plan import Plan, TensorJob

SPAN = 1 << 22
"""Entries of a large tensor that one thread merges before it takes the next span."""
FLOAT32 = 4
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
    """

    job: TensorJob
    span: Span | None
    num_bytes: int
    memory: int


def units_of(plan: Plan, jobs: Sequence[TensorJob], shapes: Shapes, computed: frozenset[str]) -> list[Unit]:
    """Jobs in pieces of work, in order.

    Args:
        jobs: those of `plan` that are to be done.
        shapes: of each job's result, by name.
        computed: sources whose tensors are computed whole when they are asked for (adapters).
    """
    return [unit for job in jobs for unit in _units(plan, job, torch.Size(shapes[job.name]).numel(), computed)]


def _units(plan: Plan, job: TensorJob, size: int, computed: frozenset[str]) -> Iterator[Unit]:
    item = job.dtype.itemsize
    whole = computed.intersection(("", *job.changed))
    if plan.method.grain_of(job.shared) == "tensor" and not job.copy:
        yield Unit(job, None, size * item, FLOAT32 * size * (len(job.per_source) + 2))
        return
    held = FLOAT32 * min(size, blocks.BLOCK) * (3 * len(job.per_source) + _TEMPORARIES)
    if job.copy or whole or job.factored or plan.method.measures(job.shared) == "tensor":
        yield Unit(job, None, size * item, held + FLOAT32 * size * len(whole))
        return
    for begin in range(0, max(size, 1), SPAN):
        end = min(begin + SPAN, size)
        yield Unit(job, (begin, end), (end - begin) * item, held)


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
        whole = plan.method.grain_of(dearest.job.shared) == "tensor"
        what = "whole tensors" if whole else "blocks of float32 (and whole deltas of adapters)"
        allowed = f"at least {dearest.memory} bytes: {plan.method.name} works on {what}, here {dearest.job.name}"
        raise InvalidInputError("memory", limit, allowed)
