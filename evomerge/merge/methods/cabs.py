"""CABS: n:m pruning of task vectors that leaves every entry to one source."""

from __future__ import annotations

from evomerge.merge.stage import compose
from evomerge.merge.stages.exclusive import EXCLUSIVE_SUM

CABS = compose(
    "cabs",
    "CABS",
    "Yang et al. 2025, CABS: Conflict-Aware and Balanced Sparsification for Enhancing Model Merging, arXiv:2503.01874",
    (EXCLUSIVE_SUM,),
)

METHODS = (CABS,)
