"""Blocks through compiled loops."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from evomerge.merge.combined import unmeasured
from evomerge.merge.fused.agree import Agreed, mean_of
from evomerge.merge.fused.combine import Combined, CombinedRows, combined_rows
from evomerge.merge.fused.form import Form, Vote, form_of
from evomerge.merge.fused.reading import Raw, Rows, look
from evomerge.merge.fused.takeover import Fusion, takes_over
from evomerge.merge.plan import Plan, columns_of
from evomerge.merge.primitives.philox import RESOLUTION
from evomerge.merge.primitives.sparsify import bounds_by_rank, mask_key

if TYPE_CHECKING:
    from evomerge.merge.blocks import Span, TensorWork

LEAST_ENTRIES = 1 << 18
"""Models without a tensor of this size are merged before the compiled loops would even be loaded."""
MOST_COLUMNS = 1 << 16
"""Entries of a row whose ranks the loops count."""
MOST_TOGETHER, FEWEST = 4, 16
"""Sources whose votes stay in registers, and entries that are merged at a time then: `ballots.MOST`, `lanes.LANES`."""


@cache
def installed() -> bool:
    """Whether numba is there."""
    return find_spec("numba") is not None


class Fused:
    """One tensor's merge of sparsified task vectors."""

    def __init__(self, plan: Plan, work: TensorWork, form: Form) -> None:
        from evomerge.merge.fused import votes

        self._loops, self._work, self._form = votes, work, form
        keys = [mask_key(plan.seed, source, work.job.name) for source in form.votes]
        self._keys = np.array([[key % 2**64, key >> 64] for key in keys], np.uint64)
        self._rules = np.array([_rule(vote) for vote in form.votes.values()])
        self._scales = np.zeros((len(form.votes), 4), np.float32)
        with np.errstate(over="ignore"):  # infinity, as for torch: the result will be refused
            for scale, vote in zip(self._scales, form.votes.values(), strict=True):
                scale[:] = vote.low, vote.high, vote.factor, vote.weight
                if vote.keeps == "drawn":
                    scale.view(np.uint32)[votes.LOW] = round(vote.density * RESOLUTION)
            self._divide = np.array([*(form.divide or {}).values()], np.float32)
            self._divisors = self._divide if len(self._divide) else np.zeros(len(form.votes), np.float32)
            self._scale, self._tie = np.float32(form.scale), np.float32(form.tie)
        few = form.elects and len(form.votes) <= MOST_TOGETHER
        self._rule = _one_rule(self._rules.tolist()) if few else None
        ranked = any(vote.keeps == "ranked" for vote in form.votes.values())
        self._columns = columns_of(tuple(work.base.shape)) if ranked else 0
        self._by_rank = np.array([_by_rank(vote, self._columns) for vote in form.votes.values()])
        operands = [work.operands[source] for source in form.votes]
        self._rows = Rows([*((operand.tensor, operand.fresh) for operand in operands), (work.base, work.fresh)])

    def spans(self, span: Span, steps: Iterable[Span]) -> Iterable[Span]:
        """What may be merged at a time: whole rows where ranks count, else what `steps` says."""
        from evomerge.merge.blocks import row_steps

        return row_steps(span, self._columns, torch.device("cpu")) if self._columns else steps

    def merge(self, begin: int, end: int, into: Raw) -> bool | None:
        """Merge entries into memory for their bits; whether all are finite, or None where the torch path has to do
        it.

        Raises:
            NonFiniteError: an operand holds NaN or infinity.
        """
        at = self._rows.at(begin, end)
        if self._rule is None or min(len(into), self._columns or len(into)) < FEWEST:
            met = self._loops.merge(
                at[:-1], at[-1], begin, self._columns, self._rules, self._scales, self._keys, self._by_rank,
                self._form.elects, self._divide, self._tie, self._scale, into,
            )  # fmt: skip
        else:
            met = self._merge_few(self._rule, tuple(at[:-1]), at[-1], begin, into)
        self._check(met, begin, end)
        return None if met & self._loops.NEGATIVE_ZERO else not met & self._loops.ODD_OUTPUT

    def _merge_few(self, rule: int, at: tuple[np.uint64, ...], base_at: np.uint64, begin: int, into: Raw) -> int:
        from evomerge.merge.fused import ballots

        rest = self._divisors, self._tie, self._scale, into
        if rule == self._loops.BAND:
            return int(ballots.banded(at, base_at, self._scales, *rest))
        if rule == self._loops.DRAWN:
            return int(ballots.thinned(at, base_at, begin, self._scales, self._keys, *rest))
        inverse_ = rule == self._loops.RANKED_INVERSE
        return int(
            ballots.ranked(
                at, base_at, begin, self._columns, inverse_, self._rules, self._scales, self._keys, self._by_rank, *rest
            )
        )

    def majority(self, begin: int, end: int) -> int:
        """Σ of the signs that the entries elect.

        Raises:
            NonFiniteError: an operand holds NaN or infinity.
        """
        at = self._rows.at(begin, end)
        count, met = self._loops.majority(
            at[:-1], at[-1], end - begin, begin, self._columns, self._rules, self._scales, self._keys, self._by_rank
        )
        self._check(met, begin, end)
        return int(count)

    def _check(self, met: int, begin: int, end: int) -> None:
        if met & self._loops.ODD_INPUT:
            look(self._work, begin, end)


def _one_rule(rules: list[int]) -> int | None:
    """The rule of all sources, if it is one; to keep everything is to keep every magnitude."""
    from evomerge.merge.fused import votes

    found = {votes.BAND if rule == votes.ALL else rule for rule in rules}
    return found.pop() if len(found) == 1 else None


def _rule(vote: Vote) -> int:
    from evomerge.merge.fused import votes

    if vote.keeps == "ranked":
        return votes.RANKED_INVERSE if vote.inverse else votes.RANKED
    return {"all": votes.ALL, "band": votes.BAND, "drawn": votes.DRAWN}[vote.keeps]


def _by_rank(vote: Vote, columns: int) -> npt.NDArray[np.uint32]:
    if vote.keeps != "ranked":
        return np.zeros(columns, np.uint32)
    return bounds_by_rank(columns, vote.density, vote.epsilon).numpy().astype(np.uint32)


Loop = Fused | Combined | CombinedRows | Agreed | Fusion


def fused(plan: Plan, work: TensorWork, measured: Mapping[str, float], out: torch.dtype) -> Loop | None:
    """The compiled merge of a tensor; None where there is none."""
    if out != torch.bfloat16 or not worth_it(work.base.numel()) or not usable(work):
        return None
    if (combination := plan.method.combination_for(work.job.shared)) is not None:
        return Combined(combination, work, measured or unmeasured(combination, work.job))
    if (rows := combined_rows(plan, work)) is not None:
        return rows
    if takes_over(plan, work):
        return Fusion(work)
    if (mean := mean_of(plan, work.job, measured)) is not None:
        return Agreed(work, mean)
    form = form_of(plan, work.job, measured)
    return Fused(plan, work, form) if form is not None and fits(form, work) else None


def fits(form: Form, work: TensorWork) -> bool:
    """Whether the loops can merge a tensor of this shape."""
    ranked = any(vote.keeps == "ranked" for vote in form.votes.values())
    return not ranked or 0 < columns_of(tuple(work.base.shape)) < MOST_COLUMNS


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
