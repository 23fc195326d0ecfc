"""TIES: trim, elect signs, merge what agrees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge import standard as p
from evomerge.merge.method import Block, Blocks, Method, Values
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.aggregate import agreeing, agreeing_weight, sum_of
from evomerge.merge.primitives.elect import elect, settle
from evomerge.merge.primitives.measure import kth_magnitudes, total
from evomerge.merge.primitives.rescale import inverse, matching
from evomerge.merge.primitives.sparsify import trim

TIE = "tie sign"
"""Name of the measured majority of elected signs."""
FACTOR = "factor of "
"""Before a source's name: what its survivors are scaled by."""

Sparsify = Callable[[Block], dict[str, Tensor]]
"""Block → source name → its surviving entries; sources without any may be missing."""


def consensus(block: Block, survivors: dict[str, Tensor]) -> Tensor:
    """Steps 2 and 3 of TIES on weighted task vectors: θ0 + λ · (Σ of agreeing entries [/ Σ|w| of those that agree]).

    The paper divides by the number of agreeing entries, which this is for weights of 1. With negative weights
    mergekit's Σw (`divisor: signed`) turns a subtraction back into an addition, so by default we divide by Σ|w|.
    """
    w = weights.of_sources(block.per_source)
    weighted = {s: x * w[s] for s, x in survivors.items() if w[s] != 0}
    if not weighted:
        return block.base.clone()
    votes = list(weighted.values())
    signs = settle(elect(votes, str(block.shared["election"])), block.measured.get(TIE, 1.0))
    magnitudes = agreeing(votes, signs)
    merged = sum_of(magnitudes).mul_(signs)
    if block.shared["normalize"]:
        signed = block.shared["divisor"] == "signed"
        merged.div_(agreeing_weight(magnitudes, [w[s] for s in weighted], signed=signed))
    return merged.mul_(weights.number(block.shared, "lambda")).add_(block.base)


def majority(blocks: Blocks, sparsify: Sparsify) -> Mapping[str, float]:
    """The sign of the sum of all elected signs, for entries whose votes are even; + for `sign_ties: positive`."""
    count = 0
    for block in blocks():
        if block.shared["sign_ties"] == "positive":
            return {TIE: 1.0}
        w = weights.of_sources(block.per_source)
        votes = [x * w[s] for s, x in sparsify(block).items() if w[s] != 0]
        if votes:
            count += int(total(elect(votes, str(block.shared["election"]))))  # whole numbers: exact in any order
    return {TIE: float((count > 0) - (count < 0))}


def check(shared: Values, per_source: Mapping[str, Values]) -> None:
    """Refuse weights that are all 0 where `normalize` would divide by them."""
    if shared["normalize"]:
        weights.check_sum(weights.of_sources(per_source), magnitudes=True)


def _trimmed(block: Block, measured: Mapping[str, float]) -> dict[str, Tensor]:
    return {s: trim(d, measured[s]) for s, d in block.deltas.items() if d is not None}


def _sparsified(block: Block, measured: Mapping[str, float]) -> dict[str, Tensor]:
    trimmed = _trimmed(block, measured)
    rule = block.shared["rescale"]
    if rule == "none":
        return trimmed
    if rule == "inverse":
        return {s: x * inverse(density) for s, x in trimmed.items() if (density := _densities(block)[s])}
    return {s: x * measured[FACTOR + s] for s, x in trimmed.items()}


def _merge(block: Block) -> Tensor:
    return consensus(block, _sparsified(block, block.measured))


def _measure(blocks: Blocks) -> Mapping[str, float]:
    first = next(iter(blocks()))
    densities = _densities(first)

    def rows() -> Iterator[tuple[int, Mapping[str, Tensor | None]]]:
        for block in blocks():
            if _densities(block) != densities:
                expected = f"one density a source with scope: global (elsewhere {densities})"
                raise InvalidInputError("density", _densities(block), expected)
            yield block.base.numel(), block.deltas

    measured = dict(kth_magnitudes(rows, densities))
    if (rule := str(first.shared["rescale"])) in ("l1", "l2", "linf"):
        measured |= {FACTOR + s: factor for s, factor in matching(rule, _pairs(blocks, dict(measured))).items()}
    return {**measured, **majority(blocks, lambda block: _sparsified(block, measured))}


def _pairs(blocks: Blocks, thresholds: Mapping[str, float]) -> Iterator[tuple[str, Tensor, Tensor]]:
    for block in blocks():
        for source, kept in _trimmed(block, thresholds).items():
            delta = block.deltas[source]
            assert delta is not None, "only sources with a task vector are trimmed"
            yield source, delta, kept


def _densities(block: Block) -> dict[str, float]:
    return {source: weights.number(values, "density") for source, values in block.per_source.items()}


TIES = Method(
    name="ties",
    title="TIES-Merging",
    paper="Yadav et al. 2023, TIES-Merging: Resolving Interference When Merging Models, arXiv:2306.01708",
    merge=_merge,
    parameters=(
        p.weight(),
        p.density(0.2, low=0.05),
        p.LAMBDA,
        p.normalize(True),
        p.ELECTION,
        p.SIGN_TIES,
        p.SCOPE,
        replace(p.RESCALE, default="none"),
        p.DIVISOR,
    ),
    measure=_measure,
    measures=lambda shared: "model" if shared["scope"] == "global" else "tensor",
    check=check,
)

METHODS = (TIES,)
