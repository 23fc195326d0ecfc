"""DARE: drop entries of a task vector at random, rescale the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from torch import Tensor

from evomerge.merge import standard as p
from evomerge.merge.method import Block, Blocks, Method, Values
from evomerge.merge.methods import task_arithmetic, ties
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.aggregate import weighted_sum
from evomerge.merge.primitives.rescale import inverse, matching
from evomerge.merge.primitives.sparsify import bernoulli, drop, mask_key, resolved

PAPER = "Yu et al. 2024, Language Models are Super Mario (DARE), arXiv:2311.03099"
NORMS = ("l1", "l2", "linf")


def _dropped(block: Block) -> dict[str, Tensor]:
    """Each source's task vector under its random mask, not yet rescaled."""
    return {
        source: drop(
            delta,
            bernoulli(mask_key(block.seed, source, block.name), density, block.offset, delta.numel()),
        )
        for source, delta in block.deltas.items()
        if delta is not None and resolved(density := weights.number(block.per_source[source], "density")) > 0
    }


def _factors(block: Block, measured: Mapping[str, float]) -> dict[str, float]:
    """By how much each source's survivors are scaled."""
    rule = block.shared["rescale"]
    if rule == "none":
        return dict.fromkeys(block.deltas, 1.0)
    if rule in NORMS:
        return {source: measured.get(source, 1.0) for source in block.deltas}
    return {source: inverse(resolved(weights.number(v, "density"))) for source, v in block.per_source.items()}


def _sparsified(block: Block, measured: Mapping[str, float]) -> dict[str, Tensor]:
    factors = _factors(block, measured)
    return {source: kept.mul_(factors[source]) for source, kept in _dropped(block).items()}


def _matching(blocks: Blocks) -> dict[str, float]:
    """The factors that bring what is left to a norm of the whole; none if nothing asks for them."""
    rule = str(next(iter(blocks())).shared["rescale"])
    return matching(rule, _pairs(blocks)) if rule in NORMS else {}


def _pairs(blocks: Blocks) -> Iterator[tuple[str, Tensor, Tensor]]:
    for block in blocks():
        for source, kept in _dropped(block).items():
            delta = block.deltas[source]
            assert delta is not None, "only sources with a task vector are dropped from"
            yield source, delta, kept


def _measure_ties(blocks: Blocks) -> Mapping[str, float]:
    factors = _matching(blocks)
    return {**factors, **ties.majority(blocks, lambda block: _sparsified(block, factors))}


def _merge_linear(block: Block) -> Tensor:
    """θ0 + λ Σ w δ̃."""
    coefficients = task_arithmetic.coefficients(block.shared, block.per_source)
    factors = _factors(block, block.measured)
    scaled = {source: coefficients[source] * factors[source] for source in coefficients}
    return weighted_sum(_dropped(block), scaled, like=block.base).add_(block.base)


def _merge_ties(block: Block) -> Tensor:
    return ties.consensus(block, _sparsified(block, block.measured))


def _needs_norm(shared: Values) -> Literal["tensor", "nothing"]:
    return "tensor" if shared["rescale"] in NORMS else "nothing"


def _needs_norm_or_majority(shared: Values) -> Literal["tensor", "nothing"]:
    return "tensor" if shared["sign_ties"] == "majority" else _needs_norm(shared)


DARE_LINEAR = Method(
    name="dare_linear",
    title="DARE",
    paper=PAPER,
    merge=_merge_linear,
    parameters=(p.weight(), p.density(0.1, low=0.05), p.LAMBDA, p.normalize(False), p.RESCALE),
    stochastic=True,
    measure=_matching,
    measures=_needs_norm,
    check=task_arithmetic.check,
)

DARE_TIES = Method(
    name="dare_ties",
    title="DARE with TIES election",
    paper=PAPER + "; election as in TIES, arXiv:2306.01708",
    merge=_merge_ties,
    parameters=(
        p.weight(),
        p.density(0.1, low=0.05),
        p.LAMBDA,
        p.normalize(True),
        p.ELECTION,
        p.SIGN_TIES,
        p.RESCALE,
        p.DIVISOR,
    ),
    stochastic=True,
    measure=_measure_ties,
    measures=_needs_norm_or_majority,
    check=ties.check,
)

METHODS = (DARE_LINEAR, DARE_TIES)
