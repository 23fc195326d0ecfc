"""DOGE: task arithmetic on task vectors that were edited to interfere less."""

from __future__ import annotations

from evomerge.merge.stage import compose
from evomerge.merge.stages.gaps import GAP_SUM

DOGE = compose(
    "doge",
    "DOGE task arithmetic (closed form, no protected subspace)",
    "Wei et al. 2025, Modeling Multi-Task Model Merging as Adaptive Projective Gradient Descent, arXiv:2501.01230",
    (GAP_SUM,),
)

METHODS = (DOGE,)
