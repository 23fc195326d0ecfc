"""All tensors of a plan, several at a time: what is read, merged and written overlaps.

Tensors are taken in the order of the files. Large ones are cut into spans where the method allows it, and each worker
thread merges one block after the other and writes it while it is still in the cache. How much is under way at a time
is bounded by a budget of memory. No byte depends on how many threads there are or who does what.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from evomerge.merge import blocks
from evomerge.merge.ahead import ReadAhead, larger_than_memory
from evomerge.merge.blocks import TensorWork, merged_pieces
from evomerge.merge.budget import Unit
from evomerge.merge.plan import Plan, TensorJob
from evomerge.models.stream import ShardWriter
from evomerge.models.weights import Place

Progress = Callable[[int, int], None]
"""Called with bytes written and bytes in all."""


class Works(Protocol):
    """The open models of a plan."""

    def work(self, job: TensorJob) -> TensorWork:
        """The tensors of a job, checked to be finite or checked as they are read."""

    def shape(self, job: TensorJob) -> tuple[int, ...]:
        """The shape of a job's result, as it is stored."""

    @property
    def computed(self) -> frozenset[str]:
        """Models whose tensors are computed whole when they are asked for, by the names that jobs have for them."""

    def stored_at(self, job: TensorJob) -> Sequence[Place]:
        """Where the tensors of a job lie that are read from files as they are stored."""

    @property
    def read_from(self) -> frozenset[Path]:
        """The directories of all weights that are read."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What a merge may use.

    Attributes:
        threads: tensors, or spans of them, at a time.
        memory: bytes of tensors that are in memory at a time.
        device: where the arithmetic is done.
    """

    threads: int
    memory: int
    device: torch.device


def merge_units(
    plan: Plan,
    units: list[Unit],
    inputs: Works,
    writer: ShardWriter,
    resources: Resources,
    measured: Mapping[str, float] | None,
    progress: Progress | None,
) -> None:
    """Merge and write all units.

    Raises:
        CheckpointError, NonFiniteError: the first that a unit met; no further ones are begun.
    """
    total = sum(unit.num_bytes for unit in units)
    done = 0
    scratch = threading.local()

    def work(unit: Unit) -> Unit:
        _merge(plan, unit, inputs, writer, resources.device, measured, scratch)
        return unit

    drop = larger_than_memory(inputs.read_from)
    ahead = ReadAhead(units, inputs.stored_at, resources.memory, drop=drop)
    with one_thread_a_kernel(), kept_memory(), ThreadPoolExecutor(resources.threads, "merge", _one_thread) as pool:
        for finished in _in_budget(pool, work, units, resources, ahead):
            ahead.end(finished)
            done += finished.num_bytes
            if progress is not None:
                progress(done, total)


def _in_budget(
    pool: ThreadPoolExecutor, work: Callable[[Unit], Unit], units: list[Unit], resources: Resources, ahead: ReadAhead
) -> Iterator[Unit]:
    """Results as they come; units begin in order, as many at a time as threads and memory allow."""
    running: dict[Future[Unit], int] = {}
    try:
        for number, unit in enumerate(units):
            while running and (
                len(running) > resources.threads or sum(running.values()) + unit.memory > resources.memory
            ):
                yield from _finished(running)
            running[pool.submit(work, unit)] = unit.memory
            ahead.begin(number)
        while running:
            yield from _finished(running)
    finally:
        for future in running:
            future.cancel()


def _finished(running: dict[Future[Unit], int]) -> Iterator[Unit]:
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        del running[future]
        yield future.result()


def _merge(
    plan: Plan,
    unit: Unit,
    inputs: Works,
    writer: ShardWriter,
    device: torch.device,
    measured: Mapping[str, float] | None,
    scratch: threading.local,
) -> None:
    tensors = inputs.work(unit.job)
    length = blocks.BLOCK if device.type == "cpu" else blocks.DEVICE_BLOCK

    def place(begin: int, end: int) -> Tensor:
        """Memory of this thread, used again for every piece."""
        kept: Tensor | None = getattr(scratch, "piece", None)
        if kept is None or kept.dtype != unit.job.dtype or kept.numel() < end - begin:
            kept = scratch.piece = torch.empty(max(length, end - begin), dtype=unit.job.dtype, device=device)
        return kept if kept.numel() == end - begin else kept[: end - begin]

    with torch.no_grad():
        for first, piece in merged_pieces(plan, tensors, measured, device, place, unit.span):
            writer.write(unit.job.output, piece, first)


@contextmanager
def kept_memory() -> Iterator[None]:
    """Let glibc keep what is freed: else every block of some hundred KiB comes from the kernel anew, page by page,
    which takes as long as the arithmetic. Afterwards what is free goes back."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(_MMAP_THRESHOLD, 1 << 22)  # larger ones come and go as before
    libc.mallopt(_TRIM_THRESHOLD, 1 << 25)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_THRESHOLD, 1 << 17)
        libc.mallopt(_TRIM_THRESHOLD, 1 << 17)
        libc.malloc_trim(0)


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""glibc's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD; 128 KiB each by default."""


@contextmanager
def one_thread_a_kernel() -> Iterator[None]:
    """Kernels of torch and BLAS run in the thread that calls them: the merge has threads of its own, and sums that a
    library splits among threads would depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _one_thread() -> None:
    torch.set_num_threads(1)
