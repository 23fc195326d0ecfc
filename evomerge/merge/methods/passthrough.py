"""One model as it is."""

from __future__ import annotations

from torch import Tensor

from evomerge.merge.method import Block, Method


def _merge(block: Block) -> Tensor:
    (model,) = block.models.values()
    return (block.base if model is None else model).clone()


PASSTHROUGH = Method(
    name="passthrough",
    title="Passthrough",
    paper="none: the source itself, as a baseline",
    merge=_merge,
    parameters=(),
    domain="weights",
    num_sources=(1, 1),
    baseless=lambda num_sources: True,
)

METHODS = (PASSTHROUGH,)
