"""The stage that gives every source entries of its own: n:m pruning on what earlier sources left."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from evomerge.merge import standard as p
from evomerge.merge.method import Parameter
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.groups import exclusive
from evomerge.merge.stage import Stage, State

GROUP = Parameter(
    "group",
    256.0,
    low=32.0,
    high=512.0,
    scale="log",
    legal=(1.0, 2.0**20),
    whole=True,
    text="m of n:m, consecutive entries of which each source keeps the same number, row by row; n is density · m",
)
OVERLAP = Parameter(
    "overlap",
    "half",
    choices=("half", "none"),
    text="where n is at least m / 2, later sources may also keep their m / 2 largest of the entries taken already "
    "(the authors' code for large models), or none of them",
)
TAIL = Parameter(
    "tail",
    "share",
    choices=("share", "drop", "keep"),
    text="entries at the end of a tensor that fill no group: keep their share, none (the authors' code), or all",
)


_ENTRIES = 1 << 18
"""Entries that are sorted at a time."""


def _order(state: State) -> list[str]:
    return sorted(state.deltas, key=lambda source: (weights.number(state.of(source), "order"), source))


def _exclusive(state: State) -> State:
    """M1 the n:m mask of δ1, M2 that of δ2 without M1, and so on; δk ← Mk ⊙ δk."""
    kept = {source: torch.empty_like(delta) for source, delta in state.deltas.items()}
    for begin, end, parts in _masked(state):
        for source, part in parts.items():
            kept[source].view(-1)[begin:end] = part
    return state.with_deltas(kept)


def _exclusive_sum(state: State) -> State:
    """Σ w · Mk ⊙ δk, without a second copy of every task vector."""
    merged = state.zeros
    for begin, end, parts in _masked(state):
        into = merged.view(-1)[begin:end]
        for source, part in parts.items():
            into += part.mul_(weights.number(state.of(source), "weight"))
    return state.with_merged(merged)


def _masked(state: State) -> Iterator[tuple[int, int, dict[str, Tensor]]]:
    """Entries begin to end of each source under its mask, some groups at a time, and the tail by itself."""
    sources, group = _order(state), round(weights.number(state.shared, "group"))
    size = state.size
    for begin, end, length in _spans(size, group) if sources else ():
        parts = {s: state.deltas[s].reshape(-1)[begin:end] for s in sources}
        keeps = [_keep(state, s, length, group) for s in sources]
        again = [length // 2 if _overlaps(state, s, group) else None for s in sources]
        masks = exclusive([part.abs().view(-1, length) for part in parts.values()], keeps, again)
        found = dict(zip(sources, masks, strict=True))
        yield begin, end, {s: parts[s] * found[s].view(-1) for s in state.deltas}


def _spans(size: int, group: int) -> Iterator[tuple[int, int, int]]:
    """Begin, end and length of the groups within."""
    full, step = size // group * group, max(1, _ENTRIES // group) * group
    for begin in range(0, full, step):
        yield begin, min(begin + step, full), group
    if full < size:
        yield full, size, size - full


def _keep(state: State, source: str, length: int, group: int) -> int:
    """n; at least one where there is a density."""
    density = weights.number(state.of(source), "density")
    if length < group and state.shared["tail"] != "share":
        return length if state.shared["tail"] == "keep" else 0
    return max(1, round(density * length)) if density > 0 else 0


def _overlaps(state: State, source: str, group: int) -> bool:
    return state.shared["overlap"] == "half" and _keep(state, source, group, group) >= group // 2


_PARAMETERS = (p.density(0.25, low=0.125), GROUP, p.ORDER, OVERLAP, TAIL)

EXCLUSIVE = Stage(
    name="exclusive",
    kind="sparsify",
    text="keep the largest n of every m entries, one source after the other, on what those before it left",
    apply=_exclusive,
    parameters=_PARAMETERS,
    grain="tensor",
    ordered=True,
    cost="sort",
)
EXCLUSIVE_SUM = Stage(
    name="exclusive_sum",
    kind="aggregate",
    text="exclusive, weigh and sum in one, with less memory",
    apply=_exclusive_sum,
    parameters=(*_PARAMETERS, p.weight()),
    grain="tensor",
    ordered=True,
    cost="sort",
)

STAGES = (EXCLUSIVE, EXCLUSIVE_SUM)
