"""What chains of sparsifiers measure, in compiled loops: whole numbers, so that threads may count in any order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from evomerge.merge.fused.agree import MEANS, measured_means
from evomerge.merge.fused.combine import coefficients_of
from evomerge.merge.fused.form import Chain, chain_of, form_of
from evomerge.merge.fused.run import Fused, fits, usable, worth_it
from evomerge.merge.fused.thresholds import Piece, Thresholds
from evomerge.merge.plan import Plan, columns_of

if TYPE_CHECKING:
    from evomerge.merge.blocks import Span, TensorWork

R = TypeVar("R")
_PIECE = 1 << 22
"""Entries that a thread counts before it takes the next."""


def measured_of(
    plan: Plan, works: Callable[[], Iterable[TensorWork]], steps: Callable[[Span], Iterable[Span]], threads: int
) -> Mapping[str, float] | None:
    """The measurements of one tensor or of a model, as the method's own `measure` gives them; None where there are no
    loops for that.

    Args:
        works: the tensors that are measured as one vector; begins again at every call.
        steps: a span in blocks.
        threads: pieces counted at a time.

    Raises:
        NonFiniteError: NaN or infinity in an operand that nobody has checked.
    """
    if plan.method.combination is not None:
        (work,) = works()
        wanted = worth_it(work.base.numel()) and usable(work)
        return coefficients_of(plan, work, steps) if wanted else None
    chain = chain_of(plan.method)
    if chain is None:
        every = list(works()) if plan.method.name in MEANS else []
        wanted = any(worth_it(work.base.numel()) for work in every) and all(usable(work) for work in every)
        return measured_means(plan, every, steps, threads) if wanted else None
    every = []
    for work in works():
        if chain.norms(work.job.shared) or not usable(work):
            return None
        every.append(work)
    if not any(worth_it(work.base.numel()) for work in every) or not _alike(chain, every):
        return None
    return _measured(plan, chain, every, steps, threads)


def _alike(chain: Chain, works: list[TensorWork]) -> bool:
    """Whether one rule holds for all; if not, the torch path knows what to say about it."""
    shared = works[0].job.shared
    own = [
        {s: (v.get("density"), v.get("gamma")) for s, v in work.job.per_source.items()} if chain.keep else {}
        for work in works
    ]
    return all(work.job.shared == shared for work in works) and all(found == own[0] for found in own)


def _measured(
    plan: Plan, chain: Chain, works: list[TensorWork], steps: Callable[[Span], Iterable[Span]], threads: int
) -> Mapping[str, float] | None:
    pieces = [piece for work in works if work.operands for piece in _pieces(work)]

    def mapped(work: Callable[[Piece], R]) -> list[R]:
        if threads == 1 or len(pieces) < 2:
            return [work(piece) for piece in pieces]
        with ThreadPoolExecutor(threads, "measure") as pool:
            return list(pool.map(work, pieces))

    size = sum(work.base.numel() for work in works)
    own = works[0].job.per_source
    ranks = {name: (source, rank(size)) for name, (source, rank) in chain.ranks(own).items()}
    found = chain.untrimmed(own) | Thresholds(works, pieces, mapped, steps).of(ranks)
    if not chain.majority(works[0].job.shared):
        return found
    forms = {work.job.name: form_of(plan, work.job, found) for work in works if work.operands}
    loops = {
        work.job.name: Fused(plan, work, form)
        for work in works
        if (form := forms.get(work.job.name)) is not None and fits(form, work)
    }
    if len(loops) < len(forms):
        return None

    def elected(piece: Piece) -> int:
        loop, span = loops[piece[0].job.name], piece[1:]
        return sum(loop.majority(*part) for part in loop.spans(span, steps(span)))

    count = sum(mapped(elected))
    return {**found, chain.tie: float((count > 0) - (count < 0))}


def _pieces(work: TensorWork) -> Iterable[Piece]:
    """A tensor in pieces of whole rows."""
    size, columns = work.base.numel(), max(columns_of(tuple(work.base.shape)), 1)
    length = max(1, _PIECE // columns) * columns
    for begin in range(0, size, length):
        yield work, begin, min(begin + length, size)
